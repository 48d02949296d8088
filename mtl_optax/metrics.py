"""Figures that summarise a multi-task result: Δm, Δp and the task variance.

The papers have two conventions for the average change against single-task baselines. `delta_m`
averages over all metrics and counts a drop as positive, so that less is better; `delta_p` averages
over tasks the mean over each task's metrics and counts a gain as positive, so that more is better.
"""

import numbers
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mtl_optax._precision import HIGHEST, at_least_float32


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
