"""Conflict between tasks.

`track_conflict` passes what it sees on unchanged and keeps what it found in its state, to be read
by `optax.tree_utils.tree_get` and logged.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._frame import Contract
from mtl_optax._gram import relative, scaled_gram
from mtl_optax._tracing import varying_like
from mtl_optax._unstacked import unwrapped


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
    _checks.check_real_array("conflict", "gram", gram)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(
            f"conflict: gram has shape {gram.shape}, wanted (T, T). Get it from mtl_optax.gram."
        )
    mask = _checks.check_mask("conflict", gram.shape[0], mask, argument="mask")
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
    _checks.check_num_tasks("track_conflict", num_tasks)
    contract = Contract("track_conflict", num_tasks)

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
        task_gradients = unwrapped(task_gradients)
        contract.check_step(task_gradients, params, extra)
        mask = _checks.check_mask("track_conflict", num_tasks, task_mask)
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
