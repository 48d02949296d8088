"""Projection on the ball of distributions within a Kullback-Leibler radius of the uniform one.

The adversary of BanditMTL and EMTL plays a distribution `p` over tasks. Its step maximises
`η <R, p> - KL(p ‖ p_k)` over the simplex subject to `KL(p ‖ u) <= r`. Stationarity,
`η R_t - log(p_t / p_{k,t}) - λ log(T p_t) = const`, makes `p = softmax(τ q)` with
`q = log p_k + η R` and `τ = 1 / (1 + λ)`: the projection is a search for one number.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mtl_optax._precision import HELD, exponent, shift
from mtl_optax._tracing import varying_like

# Kept from falling further, a task's log probability can rise again within a few steps.
_LOWEST = -30.0
# A ratio to the uniform weight below e to this is zero, and its square is to be finite: 0 * inf.
_ZERO = -1e9


class KLBallSolution(NamedTuple):
    """What `kl_ball` returns.

    Attributes:
        log_weights: `log p`, `(T,)`; of no meaning for absent tasks.
        power: `τ`, `()`, in [0, 1]; one inside the ball, where `p` is the softmax of `q` itself.
        residual: `()`, by how much `KL(p ‖ u)` misses the radius; zero inside the ball.
        iterations: `()` int32, evaluations of the divergence.
    """

    log_weights: Float[Array, " T"]
    power: Float[Array, ""]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]


class _Search(NamedTuple):
    low: Float[Array, ""]
    high: Float[Array, ""]
    power: Float[Array, ""]
    iterations: Int[Array, ""]
    done: Bool[Array, ""]


@functools.partial(jax.jit, static_argnames=("max_iterations",))
def kl_ball(
    logits: Float[Array, " T"],
    radius: Float[Array, ""] | float,
    mask: Bool[Array, " T"] | None = None,
    excess: Int[Array, ""] | int = 0,
    *,
    max_iterations: int = 50,
) -> KLBallSolution:
    """Finds the largest `τ` in [0, 1] for which `KL(softmax(τ q) ‖ u) <= r`.

    The divergence grows with τ, at the rate `τ Var_p(q)`, and for small τ like `τ²`. Newton's
    method on its logarithm as a function of `log τ`, from the lower end of the bracket
    `sqrt(8 r) / range(q) <= τ <= 1` (Hoeffding's lemma bounds the divergence by
    `τ² range(q)² / 8`); a step that leaves the bracket is replaced by its geometric mean.

    Args:
        logits: `q / 2^excess`, `(T,)`, float32 or float64, below `2^100`.
        radius: `r >= 0`, `()`.
        mask: `(T,)` bool, the tasks to weigh, with `u` uniform over them; all by default.
        excess: `()`, at least zero; where `q` itself would overflow.
        max_iterations: cap on evaluations; about five are usual.

    Returns:
        The projection with its residual. Non-finite logits give NaN.
    """
    mask = jnp.ones(logits.shape, bool) if mask is None else mask
    dtype = logits.dtype
    radius = jnp.asarray(radius, dtype)
    # Relative to the largest, logits that lie close together keep their differences.
    highest = jnp.max(jnp.where(mask, logits, -jnp.inf))
    depths = jnp.where(mask, logits - highest, 0)
    top = shift(jnp.ones((), dtype), jnp.minimum(excess, jnp.finfo(dtype).maxexp - 2))
    power, iterations = _power(depths, radius, top, mask, max_iterations)
    value, _ = _divergence(power, depths, mask)
    residual = jnp.where(power < top, jnp.abs(value - radius), 0)
    finite = jnp.all(jnp.isfinite(depths)) & ~jnp.isnan(radius)
    log_weights = _log_ratios(power, depths, mask) - jnp.log(_number(mask, dtype))
    log_weights = jnp.where(finite, log_weights, jnp.nan)
    return KLBallSolution(log_weights, power / top, residual, iterations)


def _number(mask: Bool[Array, " T"], dtype: Any) -> Float[Array, ""]:
    return jnp.maximum(jnp.sum(mask), 1).astype(dtype)


def _log_ratios(
    power: Float[Array, ""], depths: Float[Array, " T"], mask: Bool[Array, " T"]
) -> Float[Array, " T"]:
    """Returns `log(p / u)` of `p = softmax(τ q)`, not cancelled where `p` is near `u`."""
    exponents = jnp.maximum(power * depths, _ZERO)
    number = _number(mask, depths.dtype)
    shortfall = jnp.dot(mask.astype(depths.dtype) / number, jnp.expm1(exponents))
    near = shortfall > -0.5
    total = jnp.sum(jnp.where(mask, jnp.exp(exponents), 0))
    log_mean = jnp.where(
        near, jnp.log1p(jnp.where(near, shortfall, 0)), jnp.log(total) - jnp.log(number)
    )
    return exponents - log_mean


def _divergence(
    power: Float[Array, ""], depths: Float[Array, " T"], mask: Bool[Array, " T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns `KL(p ‖ u)` and its derivative with respect to `log τ`, `τ² Var_p(q)`."""
    ratios = _log_ratios(power, depths, mask)
    weights = mask.astype(depths.dtype) / _number(mask, depths.dtype) * jnp.exp(ratios)
    value = jnp.dot(weights, ratios)
    return value, jnp.dot(weights, (ratios - value) ** 2)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _power(
    depths: Float[Array, " T"],
    radius: Float[Array, ""],
    top: Float[Array, ""],
    mask: Bool[Array, " T"],
    max_iterations: int,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Searches for `τ`: the largest up to `top` in the radius, and the evaluations it took."""
    dtype = depths.dtype
    eps = float(jnp.finfo(dtype).eps)
    spread = -jnp.min(depths)

    def body(state: _Search) -> _Search:
        value, slope = _divergence(state.power, depths, mask)
        low = jnp.where(value <= radius, state.power, state.low)
        high = jnp.where(value > radius, state.power, state.high)
        step = jnp.log(radius / value) * value / slope
        newton = state.power * jnp.exp(step)
        # A comparison with NaN is false, and so is one that overflowed.
        power = jnp.where((newton > low) & (newton < high), newton, jnp.sqrt(low) * jnp.sqrt(high))
        near = jnp.abs(value - radius) <= 4 * eps * radius
        done = near | (high <= low * (1 + 4 * eps)) | ~jnp.isfinite(value)
        return _Search(low, high, jnp.where(done, state.power, power), state.iterations + 1, done)

    outermost, _ = _divergence(top, depths, mask)
    active = outermost > radius
    lowest = jnp.sqrt(8 * radius) / jnp.where(spread > 0, spread, 1)
    lowest = jnp.clip(lowest, jnp.finfo(dtype).tiny, top)
    start = _Search(lowest, top, lowest, jnp.array(1, jnp.int32), ~active | (radius <= 0))
    final = jax.lax.while_loop(
        lambda state: ~state.done & (state.iterations < max_iterations),
        body,
        varying_like(start, depths, radius, top, mask),
    )
    power = jnp.where(active, jnp.where(radius > 0, final.power, 0), top)
    return power, final.iterations


@_power.defjvp
def _power_jvp(max_iterations: int, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """The implicit function theorem on `KL(p ‖ u) = r`."""
    (depths, radius, top, mask), (move, growth, *_) = primals, tangents
    power, iterations = _power(depths, radius, top, mask, max_iterations)
    _, slope = _divergence(power, depths, mask)
    along = lambda q: _divergence(power, q, mask)[0]
    _, change = jax.jvp(along, (depths,), (move,))
    inside = (power >= top) | (slope <= 0)
    rate = jnp.where(inside, 0, power / jnp.where(inside, 1, slope))
    still = np.zeros((), jax.dtypes.float0)
    return (power, iterations), (rate * (growth - change), still)


def half_of_all(mask: Bool[Array, " T"], dtype: Any = jnp.float32) -> Float[Array, ""]:
    """Returns half of `log T`, beyond which the ball of `T` tasks, those in `mask`, holds all."""
    return jnp.log(_number(mask, dtype)) / 2


def ascend(
    scores: Float[Array, " T"],
    rewards: Float[Array, " T"],
    step_size: Float[Array, ""] | float,
    radius: Float[Array, ""] | float,
    mask: Bool[Array, " T"],
    unit: Int[Array, ""] | int = 0,
) -> tuple[Float[Array, " T"], KLBallSolution]:
    """Takes one step of mirror ascent on `<R, p>` within the ball.

    Args:
        scores: `p` as `log(T p)`, `(T,)`; zeros are uniform. Any constant may be added.
        rewards: `R / 2^unit`, `(T,)`, in the dtype of `scores`.
        step_size: `η`.
        radius: `r`.
        mask: the tasks that play. The others keep their scores, and the players between them the
            share that they had, so that no one moves who is absent.
        unit: the power of two that the rewards are counted in.

    Returns:
        The new scores, and the distribution over the playing tasks.
    """
    dtype = scores.dtype
    total = jax.nn.logsumexp(jnp.where(mask, scores, -jnp.inf))
    step_size, rewards = jnp.asarray(step_size, dtype), jnp.where(mask, rewards, 0)
    # The product may leave the dtype, while softmax(τ q) does not.
    size = jnp.maximum(exponent(jnp.max(jnp.abs(rewards))) - HELD, 0)
    length = exponent(step_size)
    moves = shift(step_size, -length) * shift(rewards, -size)
    excess = jnp.maximum(size + length + unit, 0)
    logits = shift(scores, -excess) + shift(moves, size + length + unit - excess)
    logits = jnp.where(mask, logits, 0)
    solution = kl_ball(logits, jnp.asarray(radius, dtype), mask, excess)
    moved = jnp.maximum(solution.log_weights + total, _LOWEST)
    return jnp.where(mask, moved, scores), solution
