"""PCGrad: projecting conflicting gradients (Yu et al. 2020)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting, stateless
from mtl_optax._methods._draws import Draws, RandomState, random_orders
from mtl_optax._precision import HIGHEST
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._tracing import varying_like


@register(
    "Projects each task's gradient off those it conflicts with.",
    "Yu et al. 2020, https://arxiv.org/abs/2001.06782",
    reads=frozenset({"gram"}),
    scale="sum",
    properties=GRAM_METHOD | {"one task", "homogeneous", "conic"},
)
def pcgrad(num_tasks: int, *, key: Any = 0, combine: bool = True) -> Method:
    """Projects each task's gradient off the others it conflicts with: `d = Σ_i g_i'`.

    For each task `i`, starting from `g_i' = g_i`, and for the other tasks `j` in random order:
    if `<g_i', g_j> < 0` then `g_i' ← g_i' - <g_i', g_j> / ‖g_j‖² g_j`. The rows are computed as
    coefficients `K` `(T, T)`, `g_i' = Σ_j K_ij g_j`, from the Gram matrix alone.

    Args:
        num_tasks: the number T of tasks.
        key: integer seed or typed key; lives in the state, as a plain array, and moves at every
            step. For two tasks the order changes nothing, and the state holds no key.
        combine: if False, return the projected rows `g_i'`, leaves `(T, *p.shape)`, for AdaTask
            on PCGrad: `chain(pcgrad(T, combine=False), per_task(T, optimizer), sum_tasks(T))`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: sum. For two tasks `d` conflicts with
        neither; for more it may.

    When not to use:
        Where tasks differ in scale: as in the plain sum, the longest gradient leads. Where hardly
        any gradients conflict, it is the plain sum at the price of T backward passes.

    References:
        Yu et al., `Gradient Surgery for Multi-Task Learning
        <https://arxiv.org/abs/2001.06782>`_, 2020, Algorithm 1. As there, and in TorchJD, `j = i`
        is left out, and each task has an order of its own. LibMTL, nash-mtl and the authors'
        TensorFlow code include `j = i`, which changes the result once `<g_i', g_i> < 0`; the last
        discards the return value of its shuffle, so that its order is fixed.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.pcgrad(2)
        >>> gradients = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
        >>> params = jnp.zeros(2)
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([0.5, 1.5], dtype=float32)
    """
    _checks.check_num_tasks("pcgrad", num_tasks)
    draws, reads = Draws("pcgrad", key), frozenset({"gram"})

    def project(evidence: Evidence, orders: Int[Array, "T T"]) -> Float[Array, "T T"]:
        return evidence.for_gradients(project_conflicts(evidence.gram, orders))

    def update(evidence: Evidence, state: RandomState) -> tuple[Array, RandomState]:
        state, now = draws.next(state)
        return project(evidence, random_orders(now, num_tasks)), state

    if num_tasks < 3:
        any_order = jnp.tile(jnp.arange(num_tasks), (num_tasks, 1))
        weighting = stateless("pcgrad", num_tasks, reads, lambda e: project(e, any_order))
    else:
        weighting = Weighting("pcgrad", num_tasks, reads, draws.init, update)
    return from_weighting(weighting, combine_tasks=combine)


@jax.jit
def project_conflicts(gram: Float[Array, "T T"], orders: Int[Array, "T T"]) -> Float[Array, "T T"]:
    """Computes the coefficients `K` of the projected gradients.

    Args:
        gram: `(T, T)`; nothing is projected on a task whose row is zero, as an absent task's is.
        orders: row `i` is the order in which `g_i` meets the tasks; its own place is skipped.
    """
    num_tasks = gram.shape[0]

    def project(task: Int[Array, ""], order: Int[Array, " T"]) -> Float[Array, " T"]:
        def meet(place: Int[Array, ""], row: Float[Array, " T"]) -> Float[Array, " T"]:
            other = order[place]
            product = jnp.dot(gram[other], row, precision=HIGHEST)
            square = gram[other, other]
            conflict = (other != task) & (product < 0) & (square > 0)
            share = -product / jnp.where(conflict, square, 1)
            return row + jnp.where((jnp.arange(num_tasks) == other) & conflict, share, 0)

        own = varying_like(jax.nn.one_hot(task, num_tasks, dtype=gram.dtype), gram, order)
        return jax.lax.fori_loop(0, num_tasks, meet, own)

    return jax.vmap(project)(jnp.arange(num_tasks), orders)
