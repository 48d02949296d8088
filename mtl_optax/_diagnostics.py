"""Looking on while a method works: conflict between tasks, and dominance of one over the others.

`track_conflict` and `track_dominance` pass what they see on unchanged and keep what they found in
their state, to be read by `optax.tree_utils.tree_get` and logged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _contract
from mtl_optax._complex import as_given, as_real
from mtl_optax._gram import (
    along_tasks,
    combine,
    relative,
    scaled_gram,
    select_tasks,
    stacked_zeros,
    zero_absent,
)
from mtl_optax._tracing import varying_like
from mtl_optax._weighting import uniform


class Conflict(NamedTuple):
    """How far the task gradients disagree; the state of `track_conflict`.

    Attributes:
        cosines: `(T, T)` float32, the cosine of the angle between each two gradients; zero where
            one of them is zero or its task absent.
        conflicting: `()` float32, the fraction of pairs of present tasks whose cosine is negative;
            zero if fewer than two are present.
        norms: `(T,)` float32, `‖g_t‖`.
        norm_ratios: `(T,)` float32, `‖g_t‖` over the largest of them; zero if all are zero.
    """

    cosines: Float[Array, "T T"]
    conflicting: Float[Array, ""]
    norms: Float[Array, " T"]
    norm_ratios: Float[Array, " T"]


def conflict(gram: Float[Array, "T T"], mask: Bool[Array, " T"] | None = None) -> Conflict:
    """Measures the conflict between tasks from the Gram matrix of their gradients.

    Args:
        gram: `M[s, t] = <g_s, g_t>`, `(T, T)`, from `mtl_optax.gram` for instance.
        mask: `(T,)` bool, the present tasks; all by default.

    Returns:
        Cosines, fraction of conflicting pairs, norms and norm ratios. A task whose gradient is not
        finite makes the fraction NaN.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> gradients = jnp.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 4.0]])
        >>> found = mtl.conflict(mtl.gram(gradients))
        >>> print(found.cosines[2], round(float(found.conflicting), 3), found.norm_ratios)
        [-0.6  0.8  1. ] 0.333 [0.2 0.4 1. ]
    """
    _contract.check_real_array("conflict", "gram", gram)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(
            f"conflict: gram has shape {gram.shape}, wanted (T, T). Get it from mtl_optax.gram."
        )
    mask = _contract.check_mask("conflict", gram.shape[0], mask, argument="mask")
    pairs = jnp.outer(mask, mask)
    gram = jnp.where(pairs, gram, 0)
    norms = jnp.sqrt(jnp.diagonal(gram))
    largest = jnp.max(norms)
    lengths = jnp.where(norms > 0, norms, 1)
    cosines = jnp.clip(gram / jnp.outer(lengths, lengths), -1, 1)
    count = jnp.sum(mask).astype(gram.dtype)
    negative = jnp.sum(jnp.triu(cosines < 0, 1)).astype(gram.dtype)
    fraction = negative / jnp.maximum(count * (count - 1) / 2, 1)
    fraction = jnp.where(jnp.all(jnp.isfinite(gram)), fraction, jnp.nan)
    ratios = norms / jnp.where(largest > 0, largest, 1)
    return Conflict(*(x.astype(jnp.float32) for x in (cosines, fraction, norms, ratios)))


def track_conflict(num_tasks: int) -> optax.GradientTransformationExtraArgs:
    """Passes task gradients on unchanged and keeps their conflict in its state.

    Put it first in a chain, to see what the method sees, or between a method with `combine=False`
    and what follows, to see what the method left of the conflict.

    Args:
        num_tasks: the number T of tasks.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to the same. Its state is a
        `Conflict`, of the last step's present tasks.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> tx = optax.chain(mtl.track_conflict(2), mtl.pcgrad(2), optax.sgd(0.1))
        >>> gradients = jnp.array([[1.0, 0.0], [-3.0, 4.0]])
        >>> params = jnp.zeros(2)
        >>> _, state = tx.update(gradients, tx.init(params), params)
        >>> print(optax.tree_utils.tree_get(state, "conflicting"))
        1.0
        >>> print(optax.tree_utils.tree_get(state, "cosines")[0, 1].round(3))
        -0.6
    """
    _contract.check_num_tasks("track_conflict", num_tasks)
    contract = _contract.Contract("track_conflict", num_tasks)

    def init_fn(params: optax.Params) -> Conflict:
        contract.start(params)
        zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
        state = Conflict(zeros(num_tasks, num_tasks), zeros(), zeros(num_tasks), zeros(num_tasks))
        return varying_like(state, params)

    def update_fn(
        task_gradients: optax.Updates,
        state: Conflict,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, Conflict]:
        del state
        contract.check_step(task_gradients, params, extra)
        mask = _contract.check_mask("track_conflict", num_tasks, task_mask)
        held = scaled_gram(task_gradients, mask)
        shares, unit = relative(held)
        found = conflict(held.matrix, mask)
        lengths = found.norms * shares.astype(jnp.float32)
        largest = jnp.max(lengths)
        return task_gradients, found._replace(
            norms=lengths * unit.astype(jnp.float32),
            norm_ratios=lengths / jnp.where(largest > 0, largest, 1),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class DominanceState(NamedTuple):
    """AdaTask's AU.

    Attributes:
        squares: leaves `(T, *p.shape)`, float32 or better, the moving average of each task's
            squared updates of each parameter; of a complex one `(T, *p.shape, 2)`, for its parts.
    """

    squares: Any


def track_dominance(
    num_tasks: int, *, decay: float = 0.99
) -> optax.GradientTransformationExtraArgs:
    """Passes the tasks' own steps on unchanged and averages their squares: AdaTask's AU.

    `AU_i^t ← γ AU_i^t + (1 - γ) (Δθ_i^t)²`, where `Δθ_i^t` is task `t`'s part of the update of
    parameter `i`. So it belongs after the optimiser and before the sum over tasks. For AdaTask,
    and any other optimiser that is lifted over the tasks, these parts are what it returns:

    `chain(adatask(T, optax.adam(lr), combine=False), track_dominance(T), sum_tasks(T))`

    An optimiser of the sum has to be asked for its parts, which `split_step` does, here for Adam
    on the gradients of PCGrad:

    `chain(pcgrad(T, combine=False), split_step(T, optax.adam(lr), momentum=0.9),
    track_dominance(T), sum_tasks(T))`

    Args:
        num_tasks: the number T of tasks.
        decay: γ, in [0, 1). The paper does not give it.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to the same. Its state
        holds `squares` of that size, for `dominance_ratio` and `dominance_histogram`; those of an
        absent task stand still.

    References:
        Yang et al., `AdaTask: A Task-Aware Adaptive Learning Rate Approach to Multi-Task Learning
        <https://arxiv.org/abs/2211.15055>`_, 2023, the section on task dominance.

    Example:
        The first task dominates the first parameter, whatever the learning rate:

        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> tx = optax.chain(
        ...     mtl.split_step(2, optax.rmsprop(0.1)), mtl.track_dominance(2), mtl.sum_tasks(2)
        ... )
        >>> gradients = jnp.array([[3.0, 1.0], [1.0, 1.0]])
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> squares = optax.tree_utils.tree_get(state, "squares")
        >>> print((100 * mtl.dominance_ratio(squares)).round())
        [[90. 50.]
         [10. 50.]]
    """
    _contract.check_num_tasks("track_dominance", num_tasks)
    contract = _contract.Contract("track_dominance", num_tasks)
    _contract.check_number("track_dominance", "decay", decay, low=0, high=1, open_high=True)

    def init_fn(params: optax.Params) -> DominanceState:
        contract.start(params)
        real = as_real(params)
        return DominanceState(stacked_zeros(num_tasks, real, _contract.at_least_float32))

    def update_fn(
        task_steps: optax.Updates,
        state: DominanceState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DominanceState]:
        contract.check_step(task_steps, params, extra)
        mask = _contract.check_mask("track_dominance", num_tasks, task_mask)

        def average(old: Array, step: Array) -> Array:
            rate = jnp.asarray(decay, old.dtype)
            return rate * old + (1 - rate) * step.astype(old.dtype) ** 2

        squares = jax.tree.map(average, state.squares, as_real(task_steps))
        return task_steps, DominanceState(select_tasks(mask, squares, state.squares))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def dominance_ratio(squares: Any) -> Any:
    """Computes AdaTask's rAU: each task's share of the squared updates of every parameter.

    Args:
        squares: AU, leaves `(T, *p.shape)`, from the state of `track_dominance`.

    Returns:
        `AU^t / Σ_s AU^s`, leaves `(T, *p.shape)`, which sum to one over tasks; `1/T` where a
        parameter was not moved by any task.
    """
    _contract.check_stack("dominance_ratio", "squares", squares)

    def ratio(leaf: Array) -> Array:
        # Divided by the largest, the sum does not overflow.
        largest = jnp.max(leaf, axis=0, keepdims=True)
        unit = leaf / jnp.where(largest > 0, largest, 1)
        total = jnp.sum(unit, axis=0, keepdims=True)
        even = jnp.asarray(1 / leaf.shape[0], leaf.dtype)
        return jnp.where(total > 0, unit / jnp.where(total > 0, total, 1), even + 0 * total)

    return jax.tree.map(ratio, squares)


def dominance_histogram(squares: Any, *, buckets: int = 5) -> Float[Array, "T buckets"]:
    """Counts how many parameters each task dominates, and how far.

    Args:
        squares: AU, leaves `(T, *p.shape)`, from the state of `track_dominance`.
        buckets: into how many equal parts to divide the range of the ratio; five in the paper:
            [0, 0.2), [0.2, 0.4), [0.4, 0.6), [0.6, 0.8) and [0.8, 1].

    Returns:
        `(T, buckets)` float32: the fraction of the parameters whose rAU for a task falls in each
        bucket. Rows sum to one. A task with a large last bucket dominates.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> squares = {"a": jnp.array([[9.0, 1.0, 2.0], [1.0, 1.0, 2.0]]), "b": jnp.eye(2)[:, :1]}
        >>> print(mtl.dominance_histogram(squares))
        [[0.  0.  0.5 0.  0.5]
         [0.5 0.  0.5 0.  0. ]]
    """
    _check_buckets("dominance_histogram", buckets)
    _contract.check_stack("dominance_histogram", "squares", squares)
    return _histogram(jax.tree.leaves(dominance_ratio(squares)), buckets)


def dominance_by_layer(
    squares: Any,
    *,
    buckets: int = 5,
    group: Callable[[_contract.KeyPath], Any] | None = None,
) -> dict[str, Float[Array, "T buckets"]]:
    """Computes the `dominance_histogram` of each layer.

    Args:
        squares: AU, leaves `(T, *p.shape)`, from the state of `track_dominance`.
        buckets: as for `dominance_histogram`.
        group: maps a leaf's key path to the name of its layer; by default the path of its parent,
            so that kernel and bias belong together.

    Returns:
        Histograms `(T, buckets)` by layer, in the order in which the layers first appear.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> ones = jnp.ones((2, 3))
        >>> layers = mtl.dominance_by_layer({"trunk": {"kernel": ones, "bias": ones}, "b": ones})
        >>> list(layers)
        ['', "['trunk']"]
    """
    _check_buckets("dominance_by_layer", buckets)
    if group is not None:
        _contract.check_callable("dominance_by_layer", "group", group)
    _contract.check_stack("dominance_by_layer", "squares", squares)
    layers: dict[str, list[Array]] = {}
    ratios = jax.tree.leaves(dominance_ratio(squares))
    for name, ratio in zip(
        _contract.layer_names("dominance_by_layer", squares, group), ratios, strict=True
    ):
        layers.setdefault(name, []).append(ratio)
    return {name: _histogram(members, buckets) for name, members in layers.items()}


def _check_buckets(caller: str, buckets: Any) -> None:
    if isinstance(buckets, bool) or not isinstance(buckets, int) or buckets < 1:
        raise ValueError(f"{caller}: buckets must be an int of at least 1, got {buckets!r}.")


def _histogram(ratios: list[Array], buckets: int) -> Float[Array, "T buckets"]:
    def counts(ratio: Array) -> Int[Array, "T buckets"]:
        scaled = jnp.floor(ratio.astype(jnp.float32) * buckets)
        place = jnp.clip(scaled.astype(jnp.int32), 0, buckets - 1)
        axes = tuple(range(1, ratio.ndim))
        inside = [jnp.sum(place == b, axis=axes, dtype=jnp.int32) for b in range(buckets)]
        return jnp.stack(inside, axis=1)

    parameters = sum(ratio.size // ratio.shape[0] for ratio in ratios)
    total = sum(counts(ratio).astype(jnp.float32) for ratio in ratios)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(ratio)) for ratio in ratios]))
    return jnp.where(finite, total / parameters, jnp.nan)


class SplitStepState(NamedTuple):
    """State of the optimiser of the sum, and the tasks' own first moments.

    Attributes:
        optimizer: the state of the optimiser.
        moments: leaves `(T, *p.shape)`, or `()` without momentum.
    """

    optimizer: Any
    moments: Any


def split_step(
    num_tasks: int,
    optimizer: optax.GradientTransformation,
    *,
    momentum: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Takes an optimiser's step on the summed gradient, split into the tasks' own parts.

    Adaptive optimisers move each parameter by a factor times their first moment `m`, a sum over
    tasks, `m = Σ_t m^t`. Task `t`'s part of the step `Δθ` is `m^t Δθ / m`, coordinate by
    coordinate, so that the denominator is the joint one. The parts sum to `Δθ`: what follows
    `sum_tasks` is trained as by the optimiser alone.

    Args:
        num_tasks: the number T of tasks.
        optimizer: any optax optimiser whose step is, coordinate by coordinate, a multiple of the
            gradient, or of its moving average: SGD, AdaGrad, RMSProp, Adam. What adds to the
            step, weight decay for instance, is to follow `sum_tasks`.
        momentum: the decay of the optimiser's first moment, in [0, 1): 0.9 for `optax.adam` as it
            comes. None, the default, for an optimiser without.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `(T, *p.shape)`.
        Where `m` is zero, the step is split evenly. An absent task's moment goes on to fade and to
        move the parameters, as in the optimiser; the present tasks share that part evenly.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> tx = mtl.split_step(2, optax.adam(0.1), momentum=0.9)
        >>> gradients = jnp.array([[3.0, 1.0], [1.0, -2.0]])
        >>> params = jnp.zeros(2)
        >>> print(tx.update(gradients, tx.init(params), params)[0].round(3))
        [[-0.075 -0.1  ]
         [-0.025  0.2  ]]
    """
    _contract.check_num_tasks("split_step", num_tasks)
    contract = _contract.Contract("split_step", num_tasks)
    _contract.check_optimizer("split_step", "optimizer", optimizer)
    if momentum is not None:
        _contract.check_number("split_step", "momentum", momentum, low=0, high=1, open_high=True)
    joint = optax.with_extra_args_support(optimizer)

    def init_fn(params: optax.Params) -> SplitStepState:
        contract.start(params)
        zeros = lambda: stacked_zeros(num_tasks, as_real(params), _contract.at_least_float32)
        moments = () if momentum is None else zeros()
        return SplitStepState(joint.init(params), moments)

    def update_fn(
        task_gradients: optax.Updates,
        state: SplitStepState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, SplitStepState]:
        contract.check_step(task_gradients, params, extra)
        mask = _contract.check_mask("split_step", num_tasks, task_mask)
        task_gradients = zero_absent(mask, task_gradients)
        summed = combine(jnp.ones(num_tasks, jnp.float32), task_gradients)
        step, inner = joint.update(summed, state.optimizer, params, **extra)
        moments, kept = as_real(task_gradients), state.moments
        if momentum is not None:

            def average(old: Array, new: Array) -> Array:
                rate = jnp.asarray(momentum, old.dtype)
                return rate * old + (1 - rate) * new.astype(old.dtype)

            moments = kept = jax.tree.map(average, state.moments, moments)
        parts = jax.tree.map(lambda s, m: _parts(s, m, mask), as_real(step), moments)
        return as_given(parts, task_gradients), SplitStepState(inner, kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _parts(step: Array, moments: Array, mask: Bool[Array, " T"]) -> Array:
    dtype = _contract.at_least_float32(step, moments)
    wide, moments = jnp.expand_dims(step.astype(dtype), 0), moments.astype(dtype)
    total = jnp.sum(moments, axis=0, keepdims=True)
    known = total != 0
    own = moments * jnp.where(known, wide / jnp.where(known, total, 1), 0)
    present = along_tasks(mask, moments)
    absent = jnp.sum(jnp.where(present, 0, own), axis=0, keepdims=True)
    rest = along_tasks(uniform(mask, dtype), moments) * jnp.where(known, absent, wide)
    return (jnp.where(present, own, 0) + rest).astype(step.dtype)
