"""BanditMTL: an adversarial bandit over the tasks (Mao et al. 2021)."""

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting, softmax_present
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.kl_ball import ascend, half_of_all

Radius = Literal["rho", "sqrt", "variance"]


class BanditState(NamedTuple):
    """The adversary's distribution over tasks.

    Attributes:
        scores: `(T,)` float32, `log(T p)` of the next step, at least -30.
        residual: `()` float32, by how much `KL(p ‖ u)` missed the radius in the last step.
    """

    scores: Float[Array, " T"]
    residual: Float[Array, ""]


@register(
    "Weights losses by an adversary within a divergence of equal weights.",
    "Mao et al. 2021, https://aclanthology.org/2021.acl-long.428/",
    reads=frozenset({"losses"}),
    scale="mean",
    properties=GRAM_METHOD
    | {"deterministic", "equivariant", "one task", "homogeneous", "convex", "conic"},
    heads="weighted",
)
def bandit_mtl(
    num_tasks: int,
    *,
    rho: float | None = None,
    step_size: float = 0.5,
    radius: Radius = "rho",
    combine: bool = True,
) -> Method:
    """Weights tasks by an adversary who favours large losses: `d = Σ_t p_t g_t`.

    It descends `max_p Σ_t p_t L_t` over the distributions `p` within a Kullback-Leibler ball
    around the uniform one, `KL(p ‖ u) <= r`, which adds to the mean loss a multiple of the
    standard deviation of the losses: `L̄ + sqrt(2 r Var(L))` to first order. The step uses `p`;
    then the adversary moves by mirror ascent, `p ← argmax_p η <L, p> - KL(p ‖ p_old)` within the
    ball, `p ∝ exp(τ (log p_old + η L))` with the `τ` in [0, 1] that the ball allows. `p` starts
    uniform.

    Args:
        num_tasks: the number T of tasks.
        rho: ρ, at least 0. With `ρ = 0` it is `mean_tasks`. By default, None, `r = ½ log T` over
            the present tasks, with which no task's weight goes beyond 0.89 of two tasks, 0.84 of
            three, 0.74 of ten.
        step_size: η of the adversary, at least 0.
        radius: with ρ given, `r = ρ` ("rho"), `r = sqrt(ρ)` ("sqrt"), or `r = ρ²/2` ("variance"),
            for which the coefficient of the standard deviation is ρ.
        combine: if False, return the rows `p_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: mean (`Σp = 1`).
        Losses may have either sign: adding a constant to all of them changes nothing. With
        `r >= log T` the ball holds every distribution, and `p` collapses onto the task of the
        largest loss.

    When not to use:
        Where losses have different units, or floors of different height: the largest gets the
        weight, whether it can fall or not.

    References:
        Mao et al., `BanditMTL: Bandit-based Multi-task Learning for Text Classification
        <https://aclanthology.org/2021.acl-long.428/>`_, 2021. A third-party implementation has
        `r = ρ = 1.2`, which restrains nothing for up to three tasks (`log 3` is 1.10), and the
        default η. It rewards the adversary with `p_t L_t` instead of `L_t`, and descends the mean
        of the `p_t L_t`, a second `1/T`. EMTL quotes `r = sqrt(ρ)`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.bandit_mtl(3, rho=0.1)
        >>> params = jnp.zeros(3)
        >>> state, losses = tx.init(params), jnp.array([3.0, 1.0, 1.0])
        >>> for _ in range(3):
        ...     updates, state = tx.update(jnp.eye(3), state, params, task_losses=losses)
        ...     print([round(float(u), 3) for u in updates])
        [0.333, 0.333, 0.333]
        [0.552, 0.224, 0.224]
        [0.552, 0.224, 0.224]
    """
    if rho is not None:
        _checks.check_number("bandit_mtl", "rho", rho, low=0)
    _checks.check_number("bandit_mtl", "step_size", step_size, low=0)
    _checks.check_choice("bandit_mtl", "radius", radius, get_args(Radius))

    def init() -> BanditState:
        return BanditState(jnp.zeros(num_tasks, jnp.float32), jnp.zeros((), jnp.float32))

    def update(evidence: Evidence, state: BanditState) -> tuple[Array, BanditState]:
        rewards = evidence.losses.astype(jnp.float32)
        scores, solution = ascend(
            state.scores, rewards, step_size, bound_of(evidence.mask), evidence.mask
        )
        weights = softmax_present(state.scores, evidence.mask)
        return weights, BanditState(scores, solution.residual)

    def bound_of(mask: Bool[Array, " T"]) -> Float[Array, ""]:
        if rho is None:
            return half_of_all(mask)
        bound = jnp.asarray(rho, jnp.float32)
        if radius == "sqrt":
            return jnp.sqrt(bound)
        return bound**2 / 2 if radius == "variance" else bound

    weighting = Weighting("bandit_mtl", num_tasks, frozenset({"losses"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)
