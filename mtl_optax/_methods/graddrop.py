"""GradDrop: gradient sign dropout (Chen et al. 2020)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt32

from mtl_optax import _checks
from mtl_optax._complex import as_given, as_real
from mtl_optax._frame import Contract
from mtl_optax._gram import fold_tasks
from mtl_optax._methods._draws import Draws, RandomState
from mtl_optax._precision import at_least_float32
from mtl_optax._registry import register
from mtl_optax._trees import zero_absent
from mtl_optax._unstacked import as_stack


@register(
    "Keeps the gradients of one sign at each coordinate, drawn at random.",
    "Chen et al. 2020, https://arxiv.org/abs/2010.06808",
    reads=frozenset({"coordinates"}),
    scale="sum",
    properties=frozenset({"equivariant", "one task", "homogeneous"}),
)
def graddrop(
    num_tasks: int, *, leak: float = 0.0, key: Any = 0, combine: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Keeps, coordinate by coordinate, the gradients of one sign, drawn at random.

    At each coordinate, with `P = ½ (1 + Σ_t g_t / Σ_t |g_t|)` and one draw `U` from `[0, 1)` for
    all tasks, it keeps the positive entries if `U < P`, else the negative ones, and multiplies the
    others by `leak`: `d = Σ_t (leak + (1 - leak) kept_t) g_t`. Its mean over `U` is `Σ_t g_t`
    where `leak = 0`.

    Args:
        num_tasks: the number T of tasks.
        leak: the share of the other sign that passes, in [0, 1]; 1 is `sum_tasks`. The paper has
            one for each task.
        key: integer seed or typed key; lives in the state, as a plain array, and moves at every
            step.
        combine: if False, return the masked rows, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: sum. It is not linear in the gradients,
        so it has no task weights.

    When not to use:
        Where tasks differ in scale: the sign of the larger gradient is kept nearly always. With
        small batches: every coordinate's draw adds to their noise.

    References:
        Chen et al., `Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout
        <https://arxiv.org/abs/2010.06808>`_, 2020, Eqs. 1 and 2 and Algorithm 1, with `f(P) = P`.
        There, and in LibMTL, it acts on the gradients of activations, multiplied by the sign of
        the activation and summed over the batch; here, as in TorchJD, on those of parameters.

    Example:
        Coordinates on which the tasks agree pass whole; on the others one sign is kept:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.graddrop(2, key=1)
        >>> gradients = jnp.array([[1.0, 1.0, 1.0], [2.0, -2.0, -2.0]])
        >>> params = jnp.zeros(3)
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([ 3.,  1., -2.], dtype=float32)
    """
    _checks.check_num_tasks("graddrop", num_tasks)
    contract = Contract("graddrop", num_tasks)
    _checks.check_number("graddrop", "leak", leak, low=0, high=1)
    draws = Draws("graddrop", key)

    def init_fn(params: optax.Params) -> RandomState:
        contract.start(params)
        return draws.init()

    def update_fn(
        task_gradients: optax.Updates,
        state: RandomState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, RandomState]:
        task_gradients = as_stack(task_gradients)
        contract.check_step(task_gradients, params, extra)
        if task_mask is not None:
            mask = _checks.check_mask("graddrop", num_tasks, task_mask)
            task_gradients = zero_absent(mask, task_gradients)
        leaves, structure = jax.tree.flatten(as_real(task_gradients))
        state, now = draws.next(state)
        words_of_leaves = jax.random.bits(now, (len(leaves), 2), jnp.uint32)
        dropped = []
        for leaf, words in zip(leaves, words_of_leaves, strict=True):
            dtype = at_least_float32(leaf)
            draw = uniform_draws(words, leaf.shape[1:]).astype(dtype)
            kept = (drop_and_sum if combine else drop)(
                leaf.astype(dtype), draw, jnp.asarray(leak, dtype)
            )
            dropped.append(kept.astype(leaf.dtype))
        return as_given(jax.tree.unflatten(structure, dropped), task_gradients), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def drop(
    rows: Float[Array, "T ..."], draw: Float[Array, "..."], leak: Float[Array, ""]
) -> Float[Array, "T ..."]:
    """Masks the rows of one leaf by the draw of its coordinates."""
    positive, negative = jnp.maximum(rows, 0), jnp.minimum(rows, 0)
    choice, finite = (jnp.expand_dims(x, 0) for x in _choose(*_signed_halves(rows), draw))
    kept = jnp.where(choice, positive, negative) + leak * jnp.where(choice, negative, positive)
    return jnp.where(finite, kept, rows)


def drop_and_sum(
    rows: Float[Array, "T ..."], draw: Float[Array, "..."], leak: Float[Array, ""]
) -> Float[Array, "..."]:
    """Sums what `drop` returns over the tasks, without holding it."""
    up, down = _signed_halves(rows)
    choice, finite = _choose(up, down, draw)
    kept = jnp.where(choice, up, down) + leak * jnp.where(choice, down, up)
    return 2 * jnp.where(finite, kept, up + down)


def _signed_halves(rows: Float[Array, "T ..."]) -> tuple[Array, Array]:
    """Sums the positive and the negative entries over the tasks; halved, lest both overflow."""
    halves = lambda row: (jnp.maximum(row, 0) / 2, jnp.minimum(row, 0) / 2)
    return fold_tasks(lambda sums, row: jax.tree.map(jnp.add, sums, halves(row)), halves, rows)


def _choose(up: Array, down: Array, draw: Float[Array, "..."]) -> tuple[Array, Array]:
    """Returns where the positive entries are kept, and where all entries are finite."""
    total = up - down
    purity = up / jnp.where(total > 0, total, 1)
    # Comparisons swallow NaN; a coordinate that holds one is to stay NaN.
    return draw < purity, jnp.isfinite(total)


def uniform_draws(words: UInt32[Array, "2"], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draws from [0, 1), one for each coordinate, by a hash of the coordinate's number.

    Two rounds of Wellons' `lowbias32 <https://nullprogram.com/blog/2018/07/31/>`_, each keyed with
    one of `words`. A generator of high quality would take ten times the time of all the rest.
    """
    numbers = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        step = jnp.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        numbers = numbers + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * step
    bits = _lowbias32(_lowbias32(numbers + words[0]) ^ words[1])
    return (bits >> jnp.uint32(8)).astype(jnp.float32) / 2**24


def _lowbias32(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(0x846CA68B)
    return x ^ (x >> jnp.uint32(16))
