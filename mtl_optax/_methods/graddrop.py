"""GradDrop: gradient sign dropout (Chen et al. 2020)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from mtl_optax import _contract
from mtl_optax._gram import zero_absent


class GradDropState(NamedTuple):
    """The random key of the next step."""

    key: Key[Array, ""]


def graddrop(
    num_tasks: int, *, leak: float = 0.0, key: Any = 0, combine: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Keeps, coordinate by coordinate, the gradients of one sign, drawn at random.

    At each coordinate, with `P = ½ (1 + Σ_t g_t / Σ_t |g_t|)` and one draw `U` from `[0, 1)` for
    all tasks, it keeps the positive entries if `U < P`, else the negative ones, and multiplies the
    others by `leak`: `d = Σ_t (leak + (1 - leak) kept_t) g_t`. Its mean over `U` is `Σ_t g_t`
    where `leak = 0`.

    Args:
        num_tasks: T.
        leak: the share of the other sign that passes, in [0, 1]; 1 is `sum_tasks`. The paper has
            one for each task.
        key: integer seed or typed key; lives in the state and moves at every step.
        combine: if False, return the masked rows, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`.
        Scale: sum. It is not linear in the gradients, so it has no task weights.

    References:
        Chen et al., `Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout
        <https://arxiv.org/abs/2010.06808>`_, 2020, Eqs. 1 and 2 and Algorithm 1, with `f(P) = P`.
        There, and in LibMTL, it acts on the gradients of activations, multiplied by the sign of
        the activation and summed over the batch; here, as in TorchJD, on those of parameters.

    Example:
        Coordinates on which the tasks agree pass whole; on the others one sign is kept:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.graddrop(2, key=4)
        >>> gradients = jnp.array([[1.0, 1.0, 1.0], [2.0, -2.0, -2.0]])
        >>> tx.update(gradients, tx.init(jnp.zeros(3)))[0]
        Array([ 3.,  1., -2.], dtype=float32)
    """
    _contract.check_num_tasks("graddrop", num_tasks)
    _contract.check_number("graddrop", "leak", leak, low=0, high=1)
    key = _contract.as_key("graddrop", key)

    def init_fn(params: optax.Params) -> GradDropState:
        del params
        return GradDropState(jax.random.clone(key))

    def update_fn(
        task_gradients: optax.Updates,
        state: GradDropState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, GradDropState]:
        del extra
        _contract.check_task_gradients("graddrop", num_tasks, task_gradients, params)
        if task_mask is not None:
            mask = _contract.check_mask("graddrop", num_tasks, task_mask)
            task_gradients = zero_absent(mask, task_gradients)
        leaves, structure = jax.tree.flatten(task_gradients)
        following, now = jax.random.split(state.key)
        dropped = []
        for leaf, leaf_key in zip(leaves, jax.random.split(now, len(leaves)), strict=True):
            # In float32 for every dtype, so that the draws do not depend on it.
            draw = jax.random.uniform(leaf_key, leaf.shape[1:], jnp.float32)
            dtype = _contract.at_least_float32(leaf)
            rows = drop(leaf.astype(dtype), draw.astype(dtype), jnp.asarray(leak, dtype))
            rows = jnp.sum(rows, axis=0) if combine else rows
            dropped.append(rows.astype(leaf.dtype))
        return jax.tree.unflatten(structure, dropped), GradDropState(following)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def drop(
    rows: Float[Array, "T ..."], draw: Float[Array, "..."], leak: Float[Array, ""]
) -> Float[Array, "T ..."]:
    """Masks the rows of one leaf by the draw of its coordinates."""
    # Divided by the largest entry, no sum over tasks overflows or underflows.
    largest = jnp.max(jnp.abs(rows), axis=0, keepdims=True)
    unit = rows / jnp.where(largest > 0, largest, 1)
    total = jnp.sum(jnp.abs(unit), axis=0)
    purity = (1 + jnp.sum(unit, axis=0) / jnp.where(total > 0, total, 1)) / 2
    positive = jnp.expand_dims(draw < purity, 0)
    kept = jnp.where(positive, rows > 0, rows < 0)
    # Comparisons swallow NaN; a coordinate that holds one is to stay NaN.
    share = jnp.where(kept | ~jnp.isfinite(jnp.expand_dims(purity, 0)), 1, leak)
    return share * rows
