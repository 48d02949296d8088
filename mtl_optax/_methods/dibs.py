"""DiBS-MTL: bargaining by the distances to what each task prefers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, from_weighting, stateless
from mtl_optax._precision import HIGHEST, root
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.simplex import unit_rows
from mtl_optax._tracing import varying_like


@register(
    "Walks along unit gradients, each weighed by the distance to what its task prefers.",
    "DiBS-MTL 2025, https://github.com/suryakmurthy/dibs-mtl",
    reads=frozenset({"gram"}),
    scale="unit",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "conic"},
)
def dibs(
    num_tasks: int,
    *,
    radius: float = 1.0,
    step_size: float | None = None,
    num_steps: int = 5,
    combine: bool = True,
) -> Method:
    """Walks from zero, `d ← d + η Σ_t ‖r ĝ_t - d‖ ĝ_t`, with the unit gradients `ĝ_t`.

    Each task prefers the point `r ĝ_t` of a ball of radius `r`, and pulls the harder, the further
    `d` is from it. Only the directions of the gradients count, so that no task gains by a loss of
    another unit. The walk ends after K steps, or with the first that leaves the ball.

    Args:
        num_tasks: the number T of tasks.
        radius: `r`, positive; `d` is in proportion to it.
        step_size: `η`, positive; `1 / (K × number of present tasks)` by default. Well above
            `2 / T` the walk is not stable: what rounding there is grows from step to step.
        num_steps: K, at least 1. An array, as `optax.inject_hyperparams` makes it, has no
            derivatives in reverse.
        combine: if False, return the rows, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: unit, whatever that of the gradients;
        by default equal ones give `r (1 - (1 - 1/K)^K) ĝ`, however many. A zero gradient takes no
        part.

    When not to use:
        With the authors' own numbers, if you look for a bargain: their `r` is the learning rate,
        1e-3, and `η` a fifth of that, so that `d` never leaves the neighbourhood of zero and each
        task's weight is `K η r / ‖g_t‖` to a part in a thousand. That is the sum of the unit
        gradients. The defaults here let distances count, and are ours.
        With a learning rate that does not decay: near an optimum its steps grow no shorter.

    References:
        The authors' code of "DiBS-MTL: Transformation-Invariant Multitask Learning with Direction
        Oracles", https://github.com/suryakmurthy/dibs-mtl, 2025, whose class of several steps this
        is; the paper itself was not read. Its class of one step is `num_steps=1`. That for
        Meta-World takes `r = 1`, one step of `η = r`, and leaves out a step that would leave the
        ball. All of them clip the norm to one.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.dibs(2, num_steps=1)
        >>> gradients = jnp.array([[100.0, 0.0], [0.0, 0.1]])
        >>> params = jnp.zeros(2)
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([0.5, 0.5], dtype=float32)
    """
    _checks.check_num_tasks("dibs", num_tasks)
    _checks.check_number("dibs", "radius", radius, low=0, open_low=True)
    if step_size is not None:
        _checks.check_number("dibs", "step_size", step_size, low=0, open_low=True)
    _checks.check_count("dibs", "num_steps", num_steps)
    walk = _walk if isinstance(num_steps, jax.Array) else _walk_of_length

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        cosines, lengths, active = unit_rows(evidence.gram, evidence.mask)
        present = jnp.maximum(jnp.sum(evidence.mask), 1).astype(lengths.dtype)
        shares = present * jnp.asarray(num_steps, lengths.dtype)
        step = 1 / shares if step_size is None else jnp.asarray(step_size, lengths.dtype)
        point = walk(cosines, active, jnp.asarray(radius, lengths.dtype), step, num_steps)
        return point / lengths / evidence.scale

    weighting = stateless("dibs", num_tasks, frozenset({"gram"}), weigh)
    return from_weighting(weighting, combine_tasks=combine)


def _steps(
    cosines: Float[Array, "T T"],
    active: Bool[Array, " T"],
    radius: Float[Array, ""],
    step_size: Float[Array, ""],
    num_steps: Any,
) -> Float[Array, " T"]:
    """Returns the coefficients of `d` in the unit gradients."""

    def step(_: Any, point: Float[Array, " T"]) -> Float[Array, " T"]:
        products = jnp.matmul(cosines, point, precision=HIGHEST)
        # One number for all tasks, whose rounding so does not tell them apart.
        square = jnp.dot(point, products, precision=HIGHEST)
        distances = root(radius**2 - 2 * radius * products + square)
        pulls = jnp.where(active & (square <= radius**2), distances, 0)
        return point + step_size * pulls

    start = varying_like(jnp.zeros_like(radius, shape=active.shape), cosines, radius, step_size)
    return jax.lax.fori_loop(0, num_steps, step, start)


_walk = jax.jit(_steps)
# Of a length known while tracing, a loop has derivatives in reverse.
_walk_of_length = functools.partial(jax.jit, static_argnums=4)(_steps)
