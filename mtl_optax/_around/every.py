"""A method whose weights serve several steps."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, from_weighting, recipe_of, shape_of_result


class EveryState(NamedTuple):
    """The weights that serve, and since when.

    Attributes:
        age: `()` int32, the steps that they have served.
        known: `(T,)` bool, the tasks that they were made for.
        result: `(T,)` float32, the weights, or `(T, T)`, the rows of coefficients.
        inner: the state of the weighting.
    """

    age: Int[Array, ""]
    known: Bool[Array, " T"]
    result: Float[Array, "..."]
    inner: Any


def every(method: Method, k: int | Array) -> Method:
    """Looks at the task gradients in every `k`-th step alone, and keeps the weights in between.

    With `TaskGradients` (`value_and_task_grads(..., stacked=False)`) a step in between asks for
    nothing but the weighted sum: it costs one backward pass in place of T. With a stack, which is
    there already, it spares the inner product and the solver. Nash-MTL's `update_weights_every`
    and the periodic weights of PSMGD are this.

    Args:
        method: a method made from a weighting.
        k: how many steps weights serve, at least 1.

    Returns:
        A `GradientTransformationExtraArgs` called as `method` is, and of its scale. A present task
        that the weights were not made for brings the next look forward; a step without any task is
        not counted. What `method` reads has to be given in every step. In a step in between,
        gradients that are not finite reach the update by their own weight, and a guard outside,
        `skip_nonfinite`, looks at all T gradients in every step.

    When not to use:
        With a method whose state is to see every step: it sees every `k`-th.

    References:
        `update_weights_every` in the code of Navon et al., `Multi-Task Learning as a Bargaining
        Game <https://arxiv.org/abs/2202.01017>`_, 2022. There the weights are kept before, and
        here after, the update's length is limited to `max_norm`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.every(mtl.mgda(2), 2)
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for length in (1.0, 2.0, 2.0):
        ...     rows = jnp.diag(jnp.array([length, 1.0]))
        ...     updates, state = tx.update(rows, state, params)
        ...     print(state.weights.round(3))
        [0.5 0.5]
        [0.5 0.5]
        [0.2 0.8]
    """
    recipe = recipe_of("every", "method", method)
    base = recipe.weighting
    _checks.check_count("every", "k", k)

    def init() -> EveryState:
        none = jnp.zeros(shape_of_result(base), jnp.float32)
        known = jnp.zeros(base.num_tasks, bool)
        return EveryState(jnp.zeros((), jnp.int32), known, none, base.init())

    def served(mask: Bool[Array, " T"], before: Int[Array, ""]) -> Int[Array, ""]:
        return before + jnp.any(mask).astype(jnp.int32)

    def update(evidence: Evidence, state: EveryState) -> tuple[Array, EveryState]:
        result, inner = base.update(evidence, state.inner)
        mask = evidence.mask
        kept = evidence.marked(result).astype(jnp.float32)
        age = served(mask, jnp.zeros_like(state.age))
        return result, EveryState(age, mask, kept, inner)

    def keep(mask: Bool[Array, " T"], state: EveryState) -> tuple[Array, Array, EveryState]:
        period = jnp.asarray(k).astype(jnp.int32)
        due = jnp.any(mask & ~state.known) | (jnp.any(mask) & (state.age >= period))
        return due, state.result, state._replace(age=served(mask, state.age))

    weighting = base._replace(init=init, update=update, keep=keep)
    return from_weighting(weighting, combine_tasks=recipe.combine_tasks, group=recipe.group)
