"""Dominance of one task over the others, by AdaTask's measure.

`track_dominance` passes what it sees on unchanged and keeps squares in its state, to be read by
`optax.tree_utils.tree_get`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mtl_optax import _checks
from mtl_optax._complex import as_real
from mtl_optax._frame import Contract
from mtl_optax._gram import fold_tasks, sum_rows
from mtl_optax._precision import at_least_float32
from mtl_optax._trees import Group, check_group, group_names, select_tasks, stacked_zeros
from mtl_optax._unstacked import as_stack


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
    _checks.check_num_tasks("track_dominance", num_tasks)
    contract = Contract("track_dominance", num_tasks)
    _checks.check_number("track_dominance", "decay", decay, low=0, high=1, open_high=True)

    def init_fn(params: optax.Params) -> DominanceState:
        contract.start(params)
        real = as_real(params)
        return DominanceState(stacked_zeros(num_tasks, real, at_least_float32))

    def update_fn(
        task_steps: optax.Updates,
        state: DominanceState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DominanceState]:
        stacked = as_stack(task_steps)
        contract.check_step(stacked, params, extra)
        mask = _checks.check_mask("track_dominance", num_tasks, task_mask)

        def average(old: Array, step: Array) -> Array:
            rate = jnp.asarray(decay, old.dtype)
            return rate * old + (1 - rate) * step.astype(old.dtype) ** 2

        squares = jax.tree.map(average, state.squares, as_real(stacked))
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
    _checks.check_stack("dominance_ratio", "squares", squares)

    def ratio(leaf: Array) -> Array:
        # Divided by the largest, the sum does not overflow.
        largest = jnp.expand_dims(fold_tasks(jnp.maximum, jnp.asarray, leaf), 0)
        unit = leaf / jnp.where(largest > 0, largest, 1)
        total = jnp.expand_dims(sum_rows(unit), 0)
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
    _checks.check_stack("dominance_histogram", "squares", squares)
    return _histogram(jax.tree.leaves(dominance_ratio(squares)), buckets)


def dominance_by_layer(
    squares: Any,
    *,
    buckets: int = 5,
    group: Group = "layer",
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
    check_group("dominance_by_layer", group)
    _checks.check_stack("dominance_by_layer", "squares", squares)
    layers: dict[str, list[Array]] = {}
    ratios = jax.tree.leaves(dominance_ratio(squares))
    for name, ratio in zip(group_names("dominance_by_layer", squares, group), ratios, strict=True):
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
