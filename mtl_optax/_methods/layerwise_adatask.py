"""Layer-wise AdaTask: each task's share of a joint step size, by layer (Yang et al. 2023)."""

import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mtl_optax import _checks
from mtl_optax._complex import as_given, as_real
from mtl_optax._frame import Contract, OptimizerMethod
from mtl_optax._gram import fold_tasks, norms, sum_rows
from mtl_optax._precision import at_least_float32
from mtl_optax._registry import register
from mtl_optax._solvers.simplex import uniform
from mtl_optax._tracing import varying_like
from mtl_optax._trees import Group, along_tasks, check_group, group_names, zero_absent
from mtl_optax._unstacked import as_stack

Total = Literal["sum_sq", "sq_sum"]


class LayerwiseAdaTaskState(NamedTuple):
    """Roots of accumulated squares: N numbers for the parameters, and T for each layer.

    The squares themselves would overflow where the gradients do not.

    Attributes:
        parameters: leaves `p.shape`, `sqrt(G_i)`, the root of the joint accumulator; of a complex
            parameter `(*p.shape, 2)`, for its real and imaginary parts.
        layers: `(T, L)` float32, `sqrt(C_l^t)`, each task's root mean square in each layer, in the
            order in which the layers first appear among the leaves.
        steps: `()` int32, the steps taken.
    """

    parameters: Any
    layers: Float[Array, "T L"]
    steps: Int[Array, ""]


@register(
    "AdaTask by layers: one joint state, shared out among the tasks in each layer.",
    "Yang et al. 2023, https://arxiv.org/abs/2211.15055",
    reads=frozenset({"coordinates"}),
    scale="step",
    properties=frozenset({"deterministic", "equivariant"}),
    heads=optax.rmsprop(1e-3, decay=0.99),
    is_optimizer=True,
)
def layerwise_adatask(
    num_tasks: int,
    *,
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    decay: float = 0.99,
    eps: float = 1e-8,
    total: Total = "sum_sq",
    min_share: float = 1e-3,
    bias_correction: bool = False,
    group: Group = "layer",
    combine: bool = True,
) -> OptimizerMethod:
    """Divides each task's gradient by its layer's share of a joint RMSProp accumulator.

    With `g_i^t` the gradient of task `t` at parameter `i` of layer `l`, and EMA the exponential
    moving average with `decay`,

    - `G_i = EMA(Σ_t (g_i^t)²)` for every parameter, and `C_l^t = EMA(mean_{i in l} (g_i^t)²)`;
    - `G_i^t = max(C_l^t / Σ_s C_l^s, min_share) G_i`, the task's accumulator;
    - `Δθ_i = -η Σ_t g_i^t / (sqrt(G_i^t) + eps)`.

    It approaches `adatask(T, optax.rmsprop(η, decay))` with a state of `N + L T` numbers rather
    than `N T`; if each layer is one parameter, they are the same.

    Args:
        num_tasks: the number T of tasks.
        learning_rate: η, a number or a schedule.
        decay: decay of the moving averages, in [0, 1).
        eps: added outside the root, as in `adatask`'s default; at least 0.
        total: "sum_sq" accumulates `Σ_t (g_i^t)²`; "sq_sum" `(Σ_t g_i^t)²`, as RMSProp on the
            summed loss does, which vanishes where the tasks cancel.
        min_share: the least share, in [0, 1]. A task that is small in its layer but large at one
            parameter would otherwise take steps there without bound.
        bias_correction: divide `G_i` by `1 - decay^k` at step `k`. Without, as in RMSProp, the
            first step is `1 / sqrt(1 - decay)` times as long, 10 times by default.
        group: maps a leaf's key path to the name of its layer; by default the path of its parent,
            so that kernel and bias belong together.
        combine: if False, return the tasks' own steps, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`: final updates, the learning rate included; an
        optimiser behind them would climb. T equal tasks make T times the step of one. Scale: that
        of the steps of RMSProp, whatever the gradients'. With heads:
        `on_shared(layerwise_adatask(T), shared, heads=optax.rmsprop(lr))`.

    When not to use:
        Where a layer mixes parameters of which some are a task's own: one whose gradient exceeds
        its task's share of the layer takes a step many times as long, without a bound.

    References:
        Yang et al., `AdaTask: A Task-Aware Adaptive Learning Rate Approach to Multi-Task Learning
        <https://arxiv.org/abs/2211.15055>`_, 2023, Eq. 9, whose `G_i` carries a task index that it
        cannot have. It leaves open which squares `G_i` accumulates, how the first steps are
        corrected, and whether the share is bounded. The public code has no layer-wise variant.

    Example:
        A task of a hundred times the scale takes no larger steps:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.layerwise_adatask(
        ...     2, learning_rate=0.1, min_share=0.0, bias_correction=True, combine=False
        ... )
        >>> params = {"layer": {"kernel": jnp.zeros(2), "bias": jnp.zeros(1)}}
        >>> gradients = {
        ...     "layer": {
        ...         "kernel": jnp.array([[1.0, -1.0], [100.0, 100.0]]),
        ...         "bias": jnp.array([[1.0], [-100.0]]),
        ...     }
        ... }
        >>> steps, state = tx.update(gradients, tx.init(params), params)
        >>> print((10 * steps["layer"]["kernel"]).round(2), state.layers.shape)
        [[-1.  1.]
         [-1. -1.]] (2, 1)
    """
    name = "layerwise_adatask"
    _checks.check_num_tasks(name, num_tasks)
    if not callable(learning_rate):
        _checks.check_number(name, "learning_rate", learning_rate, low=0)
    _checks.check_number(name, "decay", decay, low=0, high=1, open_high=True)
    _checks.check_number(name, "eps", eps, low=0)
    _checks.check_number(name, "min_share", min_share, low=0, high=1)
    check_group(name, group)
    _checks.check_choice(name, "total", total, get_args(Total))
    contract = Contract(name, num_tasks)

    def init_fn(params: optax.Params) -> LayerwiseAdaTaskState:
        contract.start(params)
        layers = len(set(group_names(name, params, group)))
        zeros = lambda p: jnp.zeros_like(p, dtype=at_least_float32(p))
        return LayerwiseAdaTaskState(
            jax.tree.map(zeros, as_real(params)),
            varying_like(jnp.zeros((num_tasks, layers), jnp.float32), params),
            jnp.zeros((), jnp.int32),
        )

    def update_fn(
        task_gradients: optax.Updates,
        state: LayerwiseAdaTaskState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, LayerwiseAdaTaskState]:
        task_gradients = as_stack(task_gradients)
        contract.check_step(task_gradients, params, extra)
        mask = _checks.check_mask(name, num_tasks, task_mask)
        task_gradients = zero_absent(mask, task_gradients)
        rows, structure = jax.tree.flatten(as_real(task_gradients))
        wide = [g.astype(at_least_float32(g)) for g in rows]
        somebody = jnp.any(mask)
        steps_taken = state.steps + somebody.astype(jnp.int32)

        def average(old: Array, new: Array) -> Array:
            rate = jnp.asarray(decay, old.dtype)
            return _root(
                jnp.stack([jnp.sqrt(rate) * old, jnp.sqrt(1 - rate) * new.astype(old.dtype)])
            )

        parameters = [
            jnp.where(somebody, average(v, _joint_root(total, g)), v)
            for v, g in zip(jax.tree.leaves(state.parameters), wide, strict=True)
        ]
        layer_of = group_names(name, task_gradients, group)
        order = list(dict.fromkeys(layer_of))
        roots = jnp.stack([_layer_root(wide, layer_of, layer) for layer in order], axis=1)
        layers = jnp.where(along_tasks(mask, roots), average(state.layers, roots), state.layers)
        shares = _root_shares(layers, mask, jnp.asarray(min_share, jnp.float32))

        rate = learning_rate(state.steps) if callable(learning_rate) else learning_rate
        steps = []
        for g, v, layer, row in zip(wide, parameters, layer_of, rows, strict=True):
            if bias_correction:
                passed = jnp.asarray(decay, v.dtype) ** steps_taken.astype(v.dtype)
                v = v / jnp.sqrt(jnp.where(passed < 1, 1 - passed, 1))
            share = along_tasks(shares[:, order.index(layer)].astype(g.dtype), g)
            size = share * v.astype(g.dtype)[None] + jnp.asarray(eps, g.dtype)
            step = -jnp.asarray(rate, g.dtype) * (g / jnp.where(size > 0, size, 1))
            step = sum_rows(step) if combine else step
            steps.append(step.astype(row.dtype))
        accumulated = jax.tree.unflatten(structure, parameters)
        return (
            as_given(jax.tree.unflatten(structure, steps), task_gradients),
            LayerwiseAdaTaskState(accumulated, layers, steps_taken),
        )

    return OptimizerMethod(init_fn, update_fn)


def _root(rows: Float[Array, "K ..."]) -> Float[Array, "..."]:
    """Computes `sqrt(Σ_k x_k²)` without squares that overflow or underflow."""
    largest = fold_tasks(lambda most, x: jnp.maximum(most, jnp.abs(x)), jnp.abs, rows)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    square = lambda x: (x / unit) ** 2
    return unit * jnp.sqrt(fold_tasks(lambda total, x: total + square(x), square, rows))


def _joint_root(total: Total, rows: Float[Array, "T ..."]) -> Float[Array, "..."]:
    return _root(rows) if total == "sum_sq" else jnp.abs(sum_rows(rows))


def _layer_root(rows: list[Array], layer_of: list[str], layer: str) -> Float[Array, " T"]:
    """Returns each task's root mean square over the leaves of a layer."""
    members = [g for g, name in zip(rows, layer_of, strict=True) if name == layer]
    size = max(sum(g[0].size for g in members), 1)
    return norms(members).astype(jnp.float32) / math.sqrt(size)


def _root_shares(
    layers: Float[Array, "T L"], mask: Array, least: Float[Array, ""]
) -> Float[Array, "T L"]:
    """Returns the root of each task's share of a layer's squares among the present tasks."""
    layers = jnp.where(along_tasks(mask, layers), layers, 0)
    sums = _root(layers)[None]
    even = along_tasks(jnp.sqrt(uniform(mask)), layers)
    shares = jnp.where(sums == 0, even, layers / jnp.where(sums == 0, 1, sums))
    return jnp.maximum(shares, jnp.sqrt(least))
