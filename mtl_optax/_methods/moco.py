"""MoCo: gradients and weights that are both tracked over the steps (Fernando et al. 2023)."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Weighting
from mtl_optax._methods._averaged import falling, from_averages
from mtl_optax._precision import HIGHEST
from mtl_optax._registry import register
from mtl_optax._solvers.simplex import project_present, uniform


class MoCoState(NamedTuple):
    """Where the weights have come to.

    Attributes:
        values: `(T,)` float32, the weights when each task was last present, as multiples of an even
            share; ones before.
        steps: `()` int32, the steps in which a task was present.
    """

    values: Float[Array, " T"]
    steps: Int[Array, ""]


@register(
    "Descends towards the least norm of averaged gradients, a step of the weights at a time.",
    "Fernando et al. 2023, https://openreview.net/forum?id=dLAYGdKTi2",
    reads=frozenset({"coordinates"}),
    scale="own",
    properties=frozenset(
        {"averaged", "deterministic", "equivariant", "convex", "conic", "rotation"}
    ),
)
def moco(
    num_tasks: int,
    *,
    beta: float = 0.5,
    beta_power: float = 0.5,
    gamma: float = 0.1,
    gamma_power: float = 0.5,
    rho: float = 0.0,
    combine: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Tracks each task's gradient, and the weights of the least norm: `d = Σ_t w_t y_t`.

    MGDA's weights of noisy gradients are biased. MoCo tracks both over the steps, the k-th with
    `β_k = β / k^p` and `γ_k = γ / k^q`:

    - `y_t <- y_t - β_k (y_t - g_t)`, from zero;
    - `w <- Π(w - γ_k (Y Yᵀ + ρ I) w)`, from `1 / T`, with Π the projection on the simplex, one
      step of projected gradient descent on `½ ‖Σ_t w_t y_t‖² + ½ ρ ‖w‖²`.

    Args:
        num_tasks: the number T of tasks.
        beta: β, in [0, 1]: the share of the new gradient in the first average.
        beta_power: p, at least 0, over the steps in which the task was present.
        gamma: γ, at least 0: the step of the weights.
        gamma_power: q, at least 0.
        rho: ρ, at least 0, which draws the weights to even ones.
        combine: if False, return the rows `w_t y_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Its state holds T × N numbers, the averages
        `y_t`, and its task weights, which sum to one, are of these, not of the gradients. Scale:
        its own; equal gradients tend to `g`, from `β g`. The step of the weights is quadratic in
        the gradients: long ones move them to a corner, short ones hardly at all. Among the present
        tasks weights are as they were, scaled to sum to one; even where none had any.

    When not to use:
        Where tasks differ in scale: the weights go to the shortest gradient. Where `γ ‖g‖²` is far
        from one: scale the gradients, or γ, first.

    References:
        Fernando et al., `Mitigating Gradient Bias in Multi-objective Learning: A Provably
        Convergent Approach <https://openreview.net/forum?id=dLAYGdKTi2>`_, 2023, with the defaults
        of LibMTL (main of May 2025, not in a release), which follows the authors' code. That brings
        each gradient to the length of its loss first, `g_t L_t / ‖g_t‖`, and takes a softmax of
        what is projected here: its weights, near even in one step, stay so for ever.

    Example:
        The weights go to the shorter gradient, as MGDA's:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.moco(2, beta=1.0, beta_power=0.0, gamma_power=0.0)
        >>> gradients = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for _ in range(50):
        ...     updates, state = tx.update(gradients, state, params)
        >>> print(mtl.task_weights(state).round(3))
        [0.8 0.2]
    """
    name = "moco"
    _checks.check_num_tasks(name, num_tasks)
    _checks.check_number(name, "beta", beta, low=0, high=1)
    _checks.check_number(name, "beta_power", beta_power, low=0)
    _checks.check_number(name, "gamma", gamma, low=0)
    _checks.check_number(name, "gamma_power", gamma_power, low=0)
    _checks.check_number(name, "rho", rho, low=0)

    def init() -> MoCoState:
        return MoCoState(jnp.ones(num_tasks, jnp.float32), jnp.zeros((), jnp.int32))

    def update(evidence: Evidence, state: MoCoState) -> tuple[Array, MoCoState]:
        mask, gram = evidence.mask, evidence.gram
        values = jnp.where(mask, state.values, 0).astype(gram.dtype)
        total, even = jnp.sum(values), uniform(mask, gram.dtype)
        before = jnp.where(total > 0, values / jnp.where(total > 0, total, 1), even)
        shares, unit = evidence.relative()
        slopes = shares * jnp.matmul(gram, shares * before, precision=HIGHEST)
        # What is taken from all weights alike is projected away. Taken from the slopes, what is
        # left of them may overflow, at the corner's cost, and that of the corner is zero.
        slopes = jnp.where(mask, slopes - jnp.min(jnp.where(mask, slopes, jnp.inf)), 0)
        step = falling(gamma, gamma_power, state.steps).astype(gram.dtype)
        kept = before * (1 - step * jnp.asarray(rho, gram.dtype))
        weights = project_present(kept - step * (unit * slopes) * unit, mask)
        number = jnp.sum(mask).astype(jnp.float32)
        values = jnp.where(mask, number * weights.astype(jnp.float32), state.values)
        return weights, MoCoState(values, state.steps + jnp.any(mask).astype(jnp.int32))

    weighting = Weighting(name, num_tasks, frozenset({"gram"}), init, update)
    kept = lambda count: 1 - falling(beta, beta_power, count)
    return from_averages(weighting, kept, combine_tasks=combine)
