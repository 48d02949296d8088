"""A method whose weights are averaged over the steps (CR-MOGM, Zhou et al. 2022)."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, from_weighting, recipe_of, shape_of_result


class MomentumState(NamedTuple):
    """The averaged weights.

    Attributes:
        average: `(T,)` float32, or the rows of coefficients `(T, T)`.
        known: `(T,)` bool, the tasks that it holds.
        inner: the state of the weighting.
    """

    average: Float[Array, "..."]
    known: Bool[Array, " T"]
    inner: Any


def momentum(method: Method, decay: float = 0.9) -> Method:
    """Averages a method's weights over the steps: `λ_k = decay λ_{k-1} + (1 - decay) λ̂_k`.

    `λ̂_k` are the weights that the method finds in step `k`, and the first average is `λ̂_1`. With
    stochastic gradients the weights of MGDA and its kin depend on the noise of the very batch that
    they weigh; the average much less, which is what its proof of convergence rests on.

    Args:
        method: a method made from a weighting.
        decay: the share of the old average that is kept, in [0, 1]. The paper's is `1 - lr_k /
            lr_0`, with a learning rate that falls: give a schedule by
            `optax.inject_hyperparams(lambda decay: mtl.momentum(mtl.mgda(T), decay))`.

    Returns:
        A `GradientTransformationExtraArgs` called as `method` is, and of its scale. Of a method
        that modifies the task gradients, as PCGrad does, the rows of coefficients are averaged.
        An absent task's entry is held; those of the present ones are scaled to sum to what the
        method's weights sum to while a task that has an entry is absent. Averages of Nash-MTL's
        weights are of no fixed length.

    When not to use:
        Where gradients change their lengths quickly: weights that undo the lengths come late.

    References:
        Zhou et al., `On the Convergence of Stochastic Multi-Objective Gradient Manipulation and
        Beyond <https://openreview.net/forum?id=ScwfQ7hdwyP>`_, 2022, Algorithm 1; TorchJD 0.18's
        `CRMOGMWeighting`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.momentum(mtl.mgda(2), decay=0.9)
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for length in (1.0, 3.0):
        ...     rows = jnp.diag(jnp.array([length, 1.0]))
        ...     updates, state = tx.update(rows, state, params)
        ...     print(state.weights.round(3))
        [0.5 0.5]
        [0.46 0.54]
    """
    recipe = recipe_of("momentum", "method", method)
    base = recipe.weighting
    _checks.check_number("momentum", "decay", decay, low=0, high=1)

    def init() -> MomentumState:
        none = jnp.zeros(shape_of_result(base), jnp.float32)
        return MomentumState(none, jnp.zeros(base.num_tasks, bool), base.init())

    def averaged(
        mask: Bool[Array, " T"], found: Array, state: MomentumState
    ) -> tuple[Array, Array, Array]:
        """Returns the average in the dtype of what was found, and what the state holds of it."""
        pairs = jnp.outer if found.ndim == 2 else jnp.logical_and
        old, share = state.average.astype(found.dtype), jnp.asarray(decay, found.dtype)
        mixed = share * old + (1 - share) * found
        average = jnp.where(pairs(state.known, state.known), mixed, found)
        here = pairs(mask, mask)
        wanted, total = jnp.sum(jnp.where(here, found, 0)), jnp.sum(jnp.where(here, average, 0))
        missing = jnp.any(state.known & ~mask) & (wanted > 0) & (total > 0)
        average = average * jnp.where(missing, wanted / jnp.where(missing, total, 1), 1)
        return average, jnp.where(here, average, old).astype(jnp.float32), state.known | mask

    def update(evidence: Evidence, state: MomentumState) -> tuple[Array, MomentumState]:
        found, inner = base.update(evidence, state.inner)
        result, average, known = averaged(evidence.mask, evidence.marked(found), state)
        return result, MomentumState(average, known, inner)

    def keep(mask: Bool[Array, " T"], state: MomentumState) -> tuple[Array, Array, MomentumState]:
        assert base.keep is not None
        due, found, inner = base.keep(mask, state.inner)
        result, average, known = averaged(mask, found, state)
        return due, result, MomentumState(average, known, inner)

    weighting = base._replace(init=init, update=update, keep=None if base.keep is None else keep)
    return from_weighting(weighting, combine_tasks=recipe.combine_tasks, group=recipe.group)
