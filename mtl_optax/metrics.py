"""Figures that summarise a multi-task result, and those of the field's scenes and rankings.

The papers have two conventions for the average change against single-task baselines. `delta_m`
averages over all metrics and counts a drop as positive, so that less is better; `delta_p` averages
over tasks the mean over each task's metrics and counts a gain as positive, so that more is better.

Public codes differ in how they take a metric over a split: those of MTAN, CAGrad and Nash-MTL
average over batches what they computed for each, medians included; LibMTL pools all pixels. Here a
function returns the figure of all that it is given: give it a batch, or the split.
"""

import functools
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mtl_optax._precision import HIGHEST, at_least_float32

AUC_WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "tiktok": {"finish": 0.7, "like": 0.3},
    "tiktok_adatask": {"finish": 0.3, "like": 0.7},
    "wechat": {"read_comment": 0.4, "like": 0.3, "click_avatar": 0.2, "forward": 0.1},
    "wechat_adatask": {"A": 0.1, "B": 0.2, "C": 0.3, "D": 0.4},
}
"""The weights of `weighted_auc` by their names.

`tiktok` and `wechat` are those of the contests, ICME 2019 (track 2) and WeChat 2021 (first round);
`tiktok_adatask` and `wechat_adatask` those behind Tables 3 and 4 of `AdaTask
<https://arxiv.org/abs/2211.15055>`_, which has TikTok's the other way round, and calls WeChat's
tasks by letters.
"""


_AT_A_TIME = 4096


class DepthErrors(NamedTuple):
    """What `depth_errors` returns.

    Attributes:
        absolute: `()`, the mean of `|p - y|` over valid pixels, in the unit of the depth.
        relative: `()`, the mean of `|p - y| / y`.
        pixels: `()` int32, the number of valid pixels: the weight of this mean beside others.
    """

    absolute: Float[Array, ""]
    relative: Float[Array, ""]
    pixels: Int[Array, ""]


class NormalErrors(NamedTuple):
    """What `normal_errors` returns.

    Attributes:
        mean: `()`, the mean angle over valid pixels, in degrees.
        median: `()`, the median angle, in degrees.
        within_11_25: `()`, the share of angles below 11.25 degrees.
        within_22_5: `()`, the share below 22.5 degrees.
        within_30: `()`, the share below 30 degrees.
        pixels: `()` int32, the number of valid pixels.
    """

    mean: Float[Array, ""]
    median: Float[Array, ""]
    within_11_25: Float[Array, ""]
    within_22_5: Float[Array, ""]
    within_30: Float[Array, ""]
    pixels: Int[Array, ""]


def delta_m(metrics: Any, baseline: Any, higher_is_better: Sequence[bool]) -> Float[Array, "..."]:
    """Computes Δm%, the average drop in performance against the baseline: less is better.

    `Δm% = (100 / K) Σ_k (-1)^{h_k} (M_k - B_k) / B_k`, with `h_k = 1` where a higher metric is
    better and 0 where a lower one is.

    Args:
        metrics: `M`, `(..., K)`, the K metrics of a method; leading axes are runs or methods.
        baseline: `B`, `(..., K)`, those of the single-task models.
        higher_is_better: K booleans, `h`.

    Returns:
        Δm in per cent, `(...)`. A baseline of zero makes it infinite or NaN; of a negative one the
        absolute value divides, so that the sign keeps its meaning.

    References:
        Maninis et al., `Attentive Single-Tasking of Multiple Tasks
        <https://arxiv.org/abs/1904.08918>`_, 2019; as in the papers and codes of CAGrad, Nash-MTL
        and AdaTask, over all metrics alike, however many a task has.

    Example:
        Accuracy falls from 80 to 76, a loss of 5 %; the error from 0.5 to 0.45, a gain of 10 %:

        >>> from mtl_optax import metrics
        >>> print(metrics.delta_m([76.0, 0.45], [80.0, 0.5], [True, False]).round(2))
        -2.5
    """
    return -jnp.mean(_gains("delta_m", metrics, baseline, higher_is_better), axis=-1)


def delta_p(
    metrics: Any,
    baseline: Any,
    higher_is_better: Sequence[bool],
    tasks: Sequence[int] | None = None,
) -> Float[Array, "..."]:
    """Computes Δp, the average relative improvement over the baseline: more is better.

    `Δp = (100 / T) Σ_t (1 / n_t) Σ_{k of t} (-1)^{1 - h_k} (M_k - B_k) / B_k`: each task counts
    once, however many metrics it has.

    Args:
        metrics: `M`, `(..., K)`, the K metrics of a method; leading axes are runs or methods.
        baseline: `B`, `(..., K)`, those of the single-task models.
        higher_is_better: K booleans, `h`.
        tasks: for each metric the number of its task; by default every metric is a task.

    Returns:
        Δp in per cent, `(...)`. With one metric for each task it is `-delta_m`.

    References:
        Lin and Zhang, `LibMTL: A Python Library for Deep Multi-Task Learning
        <https://github.com/median-research-group/LibMTL>`_, 2023, whose reports use it.

    Example:
        The first task has two metrics, up by 10 % and 0 %; the second has one, 2 % down:

        >>> from mtl_optax import metrics
        >>> found, baseline = [0.55, 3.0, 51.0], [0.5, 3.0, 50.0]
        >>> better = [True, True, False]
        >>> print(metrics.delta_p(found, baseline, better, tasks=[0, 0, 1]).round(2))
        1.5
    """
    gains = _gains("delta_p", metrics, baseline, higher_is_better)
    owners = list(range(gains.shape[-1])) if tasks is None else list(tasks)
    whole = all(isinstance(t, numbers.Integral) for t in owners)
    if not whole or len(owners) != gains.shape[-1]:
        raise ValueError(
            f"delta_p: tasks must hold an int for each of the {gains.shape[-1]} metrics, the "
            f"number of its task, got {owners!r}."
        )
    names = list(dict.fromkeys(owners))
    weights = [1 / (len(names) * owners.count(owner)) for owner in owners]
    return jnp.dot(gains, jnp.asarray(weights, gains.dtype), precision=HIGHEST)


def task_variance(losses: Any) -> Float[Array, "..."]:
    """Computes the variance of the losses over tasks, `(1/T) Σ_t (L_t - mean L)²`.

    It is what BanditMTL and EMTL set out to keep small.

    Args:
        losses: `(..., T)`.

    Returns:
        `(...)`.

    References:
        Mao et al., `BanditMTL <https://aclanthology.org/2021.acl-long.428/>`_, 2021.

    Example:
        >>> import jax.numpy as jnp
        >>> from mtl_optax import metrics
        >>> print(metrics.task_variance(jnp.array([[1.0, 3.0], [2.0, 2.0]])))
        [1. 0.]
    """
    losses = _floats("task_variance", "losses", losses)
    return jnp.var(losses, axis=-1)


def confusion_matrix(
    predicted: Any, labels: Any, num_classes: int, *, ignored: int = -1
) -> Int[Array, "C C"]:
    """Counts the pixels of each class by the class that was predicted: `(C, C)`, labels by rows.

    The matrices of several batches add up to that of all, which `mean_iou` and `pixel_accuracy` are
    computed from.

    Args:
        predicted: integers, the classes predicted, of any shape.
        labels: integers of the same shape.
        num_classes: C. A pixel whose label or prediction is no class, from 0 to C - 1, is left out.
        ignored: the label of pixels without one, if it is one of the classes' numbers; those of
            NYUv2 and CityScapes are -1, and so no class.

    Returns:
        int32.

    Example:
        >>> import jax.numpy as jnp
        >>> from mtl_optax import metrics
        >>> labels = jnp.array([0, 0, 1, -1])
        >>> print(metrics.confusion_matrix(jnp.array([0, 1, 1, 1]), labels, 2))
        [[1 1]
         [0 1]]
    """
    if not isinstance(num_classes, numbers.Integral) or num_classes < 1:
        raise ValueError(
            f"confusion_matrix: num_classes must be an int of at least 1, got {num_classes!r}."
        )
    found = _integers("confusion_matrix", "predicted", predicted)
    wanted = _integers("confusion_matrix", "labels", labels)
    _check_alike("confusion_matrix", predicted=found, labels=wanted)
    return _count(found, wanted, int(num_classes), ignored)


@functools.partial(jax.jit, static_argnames=("num_classes", "ignored"))
def _count(found: Array, wanted: Array, num_classes: int, ignored: int) -> Int[Array, "C C"]:
    # Neither the number of classes nor its square need fit into the type of the labels.
    found, wanted = (x.astype(jnp.promote_types(x.dtype, jnp.int32)) for x in (found, wanted))
    is_class = lambda x: (x >= 0) & (x < num_classes)
    counted = is_class(found) & is_class(wanted) & (wanted != ignored)
    places = jnp.where(counted, wanted * num_classes + found, num_classes**2)
    counts = jnp.zeros(num_classes**2, jnp.int32).at[places.reshape(-1)].add(1, mode="drop")
    return counts.reshape(num_classes, num_classes)


def mean_iou(confusion: Any, *, absent: Literal["skip", "nan"] = "skip") -> Float[Array, ""]:
    """Computes mIoU, the mean over classes of `C_cc / (Σ_j C_cj + Σ_j C_jc - C_cc)`.

    Args:
        confusion: `(C, C)`, of `confusion_matrix`; summed over batches for that of a split.
        absent: of a class that neither labels nor predictions have: "skip" leaves it out of the
            mean; "nan" makes the mean NaN, as the public codes of MTAN and Nash-MTL do.

    Returns:
        `()`, from 0 to 1; NaN where no pixel was counted.

    Example:
        >>> import jax.numpy as jnp
        >>> from mtl_optax import metrics
        >>> confusion = jnp.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]])
        >>> print(metrics.mean_iou(confusion), metrics.mean_iou(confusion, absent="nan"))
        0.625 nan
    """
    counts = _confusion("mean_iou", confusion)
    if absent not in ("skip", "nan"):
        raise ValueError(f"mean_iou: absent must be 'skip' or 'nan', got {absent!r}.")
    met = jnp.diagonal(counts)
    united = jnp.sum(counts, axis=0) + jnp.sum(counts, axis=1) - met
    present = united > 0
    shares = jnp.where(present, met / jnp.where(present, united, 1), 0)
    number = jnp.sum(present).astype(shares.dtype)
    mean = jnp.sum(shares) / jnp.maximum(number, 1)
    whole = jnp.any(present) if absent == "skip" else jnp.all(present)
    return jnp.where(whole, mean, jnp.nan)


def pixel_accuracy(confusion: Any) -> Float[Array, ""]:
    """Computes the share of pixels whose class was predicted: `Σ_c C_cc / Σ C`.

    Args:
        confusion: `(C, C)`, of `confusion_matrix`; summed over batches for that of a split.

    Returns:
        `()`, from 0 to 1; NaN where no pixel was counted.

    Example:
        >>> import jax.numpy as jnp
        >>> from mtl_optax import metrics
        >>> print(metrics.pixel_accuracy(jnp.array([[6, 2], [0, 2]])))
        0.8
    """
    counts = _confusion("pixel_accuracy", confusion)
    total = jnp.sum(counts)
    return jnp.where(total > 0, jnp.trace(counts) / jnp.where(total > 0, total, 1), jnp.nan)


def depth_errors(predicted: Any, depth: Any, *, undefined: float = 0.0) -> DepthErrors:
    """Computes the mean absolute and relative error of a depth, over the pixels that have one.

    Args:
        predicted: `p`, of any shape.
        depth: `y`, of the same shape, positive where it is known.
        undefined: the depth of pixels without one.

    Returns:
        The two means, and the number of pixels behind them. NaN where no pixel has a depth. LibMTL
        weighs batches by these numbers; the codes of MTAN and Nash-MTL average over batches.

    Example:
        >>> import jax.numpy as jnp
        >>> from mtl_optax import metrics
        >>> found = metrics.depth_errors(jnp.array([1.5, 3.0, 9.0]), jnp.array([1.0, 4.0, 0.0]))
        >>> print(found.absolute, found.relative, found.pixels)
        0.75 0.375 2
    """
    found, wanted = _pair("depth_errors", predicted=predicted, depth=depth)
    valid = wanted != undefined
    error = jnp.where(valid, jnp.abs(found - wanted), 0)
    relative = error / jnp.where(valid, jnp.abs(wanted), 1)
    absolute, relative = (_mean(x, valid) for x in (error, relative))
    return DepthErrors(absolute, relative, _number(valid))


def normal_errors(
    predicted: Any, normals: Any, *, undefined: Literal["zero", "zero_sum"] = "zero"
) -> NormalErrors:
    """Computes the angles between surface normals, over the pixels that have one.

    Args:
        predicted: `p`, `(..., 3)`, of any length.
        normals: `y`, `(..., 3)`.
        undefined: which pixels have no normal: "zero", those whose three components are zero;
            "zero_sum", those whose components sum to zero, as in the codes of MTAN and Nash-MTL,
            which leaves out some that have one.

    Returns:
        Mean and median of the angles in degrees, and the shares below 11.25, 22.5 and 30. NaN where
        no pixel has a normal. The angle is `atan2(‖p × y‖, <p, y>)`, which is right for small ones;
        the codes' `arccos <p, y>` of unit vectors is off by up to 0.03 degrees there. A prediction
        of zero is 90 degrees off.

    Example:
        >>> import jax.numpy as jnp
        >>> from mtl_optax import metrics
        >>> up = jnp.array([[0.0, 0.0, 1.0]] * 2)
        >>> found = metrics.normal_errors(jnp.array([[0.0, 0.0, 2.0], [0.0, 1.0, 1.0]]), up)
        >>> print(found.mean, found.within_11_25)
        22.5 0.5
    """
    found, wanted = _pair("normal_errors", predicted=predicted, normals=normals)
    if wanted.shape[-1:] != (3,):
        raise ValueError(
            f"normal_errors: normals has shape {wanted.shape}, wanted (..., 3), the components "
            "along the last axis. Move it there: jnp.moveaxis(x, channels, -1)."
        )
    if undefined not in ("zero", "zero_sum"):
        raise ValueError(
            f"normal_errors: undefined must be 'zero' or 'zero_sum', got {undefined!r}."
        )
    nothing = jnp.sum(wanted, axis=-1) if undefined == "zero_sum" else jnp.max(abs(wanted), axis=-1)
    valid = nothing != 0
    along = jnp.sum(found * wanted, axis=-1)
    across = jnp.linalg.norm(jnp.cross(found, wanted), axis=-1)
    missing = jnp.max(jnp.abs(found), axis=-1) == 0
    degrees = jnp.degrees(jnp.arctan2(jnp.where(missing, 1, across), along))

    number = _number(valid)
    ordered = jnp.sort(jnp.where(valid, degrees, jnp.inf).reshape(-1))
    middle = [ordered[jnp.maximum(number - 1 + k, 0) // 2] for k in (0, 1)]
    median = jnp.where(number > 0, (middle[0] + middle[1]) / 2, jnp.nan)
    share = lambda limit: _mean((degrees < limit).astype(degrees.dtype), valid)
    return NormalErrors(
        _mean(degrees, valid), median, share(11.25), share(22.5), share(30.0), number
    )


def auc(scores: Any, labels: Any) -> Float[Array, ""]:
    """Computes the area under the ROC curve: how often a positive scores above a negative.

    Equal scores count half.

    Args:
        scores: `(n,)`.
        labels: `(n,)`, booleans, or numbers of which those above zero are positive.

    Returns:
        `()`, from 0 to 1; NaN where all labels are alike.

    Example:
        >>> import jax.numpy as jnp
        >>> from mtl_optax import metrics
        >>> print(metrics.auc(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])))
        0.75
    """
    scores, positive = _ranking("auc", scores, labels)
    return _areas(scores, positive, jnp.zeros(len(scores), jnp.int32))[0][0]


def user_auc(
    scores: Any, labels: Any, users: Any, *, digits: int | None = None
) -> Float[Array, ""]:
    """Computes uAUC: the mean over users of the AUC among what each was shown.

    Users whose labels are all alike have none, and do not count.

    Args:
        scores: `(n,)`.
        labels: `(n,)`, booleans, or numbers of which those above zero are positive.
        users: `(n,)` integers.
        digits: decimals that scores are rounded to first; the code of the WeChat contest has 6,
            which makes ties of scores that differ by less.

    Returns:
        `()`, from 0 to 1; NaN where no user has both labels.

    References:
        The metric of the WeChat Big Data Challenge, 2021.

    Example:
        >>> import jax.numpy as jnp
        >>> from mtl_optax import metrics
        >>> scores = jnp.array([0.3, 0.3, 0.1, 0.2, 0.9, 0.5])
        >>> labels, users = jnp.array([1, 0, 0, 0, 1, 1]), jnp.array([7, 7, 7, 8, 8, 9])
        >>> print(metrics.user_auc(scores, labels, users))
        0.875
    """
    scores, positive = _ranking("user_auc", scores, labels)
    owners = _integers("user_auc", "users", users)
    _check_alike("user_auc", scores=scores, users=owners)
    if digits is not None:
        scores = jnp.round(scores, digits)
    areas, both = _areas(scores, positive, owners)
    return _mean(areas, both)


def weighted_auc(
    areas: Mapping[str, Any], weights: str | Mapping[str, float]
) -> Float[Array, "..."]:
    """Computes the weighted mean of the tasks' AUCs: `Σ_t w_t AUC_t / Σ_t w_t`.

    Args:
        areas: the AUC, or uAUC, of each task by its name, `(...)`.
        weights: a weight for each of them, or a name in `AUC_WEIGHTS`. Contest and AdaTask weigh
            TikTok's two tasks the opposite way.

    Returns:
        `(...)`.

    Example:
        >>> from mtl_optax import metrics
        >>> areas = {"finish": 0.70672, "like": 0.92083}
        >>> print(metrics.weighted_auc(areas, "tiktok"))
        0.770953
        >>> print(metrics.weighted_auc(areas, "tiktok_adatask"))
        0.856597
    """
    if isinstance(weights, str):
        if weights not in AUC_WEIGHTS:
            raise ValueError(
                f"weighted_auc: weights must be one of {', '.join(map(repr, AUC_WEIGHTS))}, or a "
                f"weight for each task, got {weights!r}."
            )
        weights = AUC_WEIGHTS[weights]
    if areas.keys() != weights.keys():
        raise ValueError(
            f"weighted_auc: areas has the tasks {sorted(areas)}, but weights has "
            f"{sorted(weights)}. Give one weight for each task."
        )
    total = sum(weights.values())
    terms = [jnp.asarray(areas[task]) * (weight / total) for task, weight in weights.items()]
    return functools.reduce(jnp.add, terms)


@jax.jit
def _areas(
    scores: Float[Array, " n"], positive: Bool[Array, " n"], users: Int[Array, " n"]
) -> tuple[Float[Array, " n"], Bool[Array, " n"]]:
    """Computes the AUC of each user, and where there is one; of the others, NaN or nothing."""
    order = jnp.lexsort((scores, users))
    scores, positive, users = scores[order], positive[order], users[order]
    places = jnp.arange(len(scores), dtype=jnp.int32)

    def begins(*keys: Array) -> Int[Array, " n"]:
        """Returns the place where the run of equal keys begins."""
        new = functools.reduce(jnp.logical_or, (key[1:] != key[:-1] for key in keys))
        return jax.lax.cummax(jnp.where(jnp.concatenate([jnp.ones(1, bool), new]), places, 0))

    def ends(*keys: Array) -> Int[Array, " n"]:
        return (len(places) - 1 - begins(*(key[::-1] for key in keys)))[::-1]

    # Whole numbers, so that nothing is lost of millions of entries: for a positive, twice the
    # number of its user's negatives below it, and those that are level.
    negatives = jnp.concatenate(
        [jnp.zeros(1, jnp.int32), jnp.cumsum((~positive).astype(jnp.int32))]
    )
    first = begins(users)
    low, high = begins(users, scores), ends(users, scores) + 1
    below = negatives[low] + negatives[high] - 2 * negatives[first]
    user = jnp.cumsum((places == first).astype(jnp.int32)) - 1
    of_user = lambda counts: jax.ops.segment_sum(counts.astype(jnp.uint32), user, len(places))
    number, others = of_user(positive), of_user(~positive)
    # Sums of these can leave 32 bits: byte by byte they do not, up to 16 million entries.
    total = sum(
        of_user(jnp.where(positive, (below >> shift) & 255, 0)).astype(scores.dtype) * 2**shift
        for shift in (0, 8, 16, 24)
    )
    both = (number > 0) & (others > 0)
    pairs = [jnp.maximum(count, 1).astype(scores.dtype) for count in (number, others)]
    areas = total / 2 / pairs[0] / pairs[1]
    return jnp.where(both & jnp.all(jnp.isfinite(scores)), areas, jnp.nan), both


def _mean(values: Array, counted: Bool[Array, "..."]) -> Float[Array, ""]:
    """Averages those that count; NaN where none does."""
    number = _number(counted).astype(values.dtype)
    total = jnp.where(counted, values, 0).reshape(-1)
    # In parts: one running sum of a split's pixels would lose what is added last.
    while len(total) > _AT_A_TIME:
        padded = jnp.pad(total, (0, -len(total) % _AT_A_TIME))
        total = jnp.sum(padded.reshape(-1, _AT_A_TIME), axis=1)
    return jnp.where(number > 0, jnp.sum(total) / jnp.maximum(number, 1), jnp.nan)


def _number(counted: Bool[Array, "..."]) -> Int[Array, ""]:
    return jnp.sum(counted).astype(jnp.int32)


def _gains(
    name: str, metrics: Any, baseline: Any, higher_is_better: Sequence[bool]
) -> Float[Array, "... K"]:
    """Returns each metric's relative gain in per cent, positive where it is better."""
    found, base = _floats(name, "metrics", metrics), _floats(name, "baseline", baseline)
    flags = np.asarray(higher_is_better)
    if flags.dtype != bool:
        raise TypeError(
            f"{name}: higher_is_better must hold booleans, one for each metric, got "
            f"{higher_is_better!r}."
        )
    if found.shape[-1:] != flags.shape or base.shape[-1:] != flags.shape:
        raise ValueError(
            f"{name}: metrics {found.shape}, baseline {base.shape} and higher_is_better "
            f"{flags.shape} must agree in the last axis, the metrics."
        )
    try:
        found, base = jnp.broadcast_arrays(found, base)
    except ValueError as error:
        raise ValueError(
            f"{name}: metrics {found.shape} and baseline {base.shape} must agree in the leading "
            "axes too, or the baseline have none."
        ) from error
    signs = jnp.broadcast_to(jnp.where(flags, 100.0, -100.0).astype(found.dtype), found.shape)
    return signs * ((found - base) / jnp.abs(base))


def _floats(caller: str, name: str, values: Any) -> Array:
    try:
        array = jnp.asarray(values)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{caller}: {name} must hold real numbers, got {values!r}.") from error
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(
            f"{caller}: {name} has shape {array.shape}, wanted at least one number along the last "
            "axis."
        )
    return array.astype(at_least_float32(array))


def _integers(caller: str, name: str, values: Any) -> Array:
    array = jnp.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{caller}: {name} must hold integers, got {array.dtype}.")
    return array


def _check_alike(caller: str, **arrays: Array) -> None:
    (first, one), (second, other) = arrays.items()
    if one.shape != other.shape:
        raise ValueError(
            f"{caller}: {first} has shape {one.shape} and {second} {other.shape}, wanted the same."
        )


def _pair(caller: str, **values: Any) -> list[Array]:
    arrays = {name: _floats(caller, name, given) for name, given in values.items()}
    _check_alike(caller, **arrays)
    one, other = arrays.values()
    dtype = at_least_float32(one, other)
    return [one.astype(dtype), other.astype(dtype)]


def _confusion(caller: str, confusion: Any) -> Float[Array, "C C"]:
    counts = jnp.asarray(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(
            f"{caller}: confusion has shape {counts.shape}, wanted (C, C), of confusion_matrix."
        )
    return counts.astype(at_least_float32())


def _ranking(caller: str, scores: Any, labels: Any) -> tuple[Float[Array, " n"], Bool[Array, " n"]]:
    found, positive = _floats(caller, "scores", scores), jnp.asarray(labels) > 0
    if found.ndim != 1:
        raise ValueError(f"{caller}: scores has shape {found.shape}, wanted (n,).")
    _check_alike(caller, scores=found, labels=positive)
    return found, positive
