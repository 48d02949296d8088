"""MoDo and SDMGrad: weights from the inner products between two batches."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting
from mtl_optax._precision import HIGHEST, root
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.simplex import project_present, uniform
from mtl_optax._tracing import varying_like

_FAR = 1e30


class CarriedWeights(NamedTuple):
    """What MoDo and SDMGrad carry from step to step.

    Attributes:
        values: `(T,)` float32, the weights on the simplex; those of absent tasks are held.
    """

    values: Float[Array, " T"]

    @classmethod
    def create(cls, num_tasks: int) -> "CarriedWeights":
        """Starts with equal weights."""
        return cls(jnp.full(num_tasks, 1 / num_tasks, jnp.float32))

    def of_present(self, mask: Bool[Array, " T"], dtype: Any) -> Float[Array, " T"]:
        """Returns the weights of the present tasks, scaled to sum to one."""
        values = jnp.where(mask, self.values, 0).astype(dtype)
        total = jnp.sum(values)
        return jnp.where(total > 0, values / jnp.where(total > 0, total, 1), uniform(mask, dtype))

    def move(self, mask: Bool[Array, " T"], values: Float[Array, " T"]) -> "CarriedWeights":
        """Takes over the weights of the present tasks."""
        return CarriedWeights(jnp.where(mask, values.astype(jnp.float32), self.values))


_PROPERTIES = GRAM_METHOD | {"deterministic", "one task", "convex", "conic"}


@register(
    "One projected step on MGDA's weights, from two independent batches.",
    "Chen et al. 2023, https://arxiv.org/abs/2305.20057",
    reads=frozenset({"cross"}),
    scale="mean",
    properties=_PROPERTIES | {"equivariant"},
    heads="weighted",
    ambiguous="linearly dependent",
)
def modo(
    num_tasks: int,
    *,
    learning_rate: float = 0.1,
    regularization: float = 0.1,
    combine: bool = True,
) -> Method:
    """Takes a step of two batches towards MGDA's weights: `λ <- Π_Δ(λ - γ (A λ + ρ λ))`.

    `A = G_1 G_2ᵀ` is an unbiased estimate of the Gram matrix, which that of one batch is not: noise
    makes its diagonal too large, and weights too even. The update is `d = Σ_t λ_t g_t`.

    Args:
        num_tasks: the number T of tasks.
        learning_rate: γ, positive. The step of λ grows with the square of the gradients.
        regularization: ρ, at least 0.
        combine: if False, return the rows `λ_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, query_gradients=...)`, which makes `A` of the task
        gradients and the query gradients, those of a second batch at the same parameters; or with
        `second_query_gradients=...` too, which makes `A` of these two, so that the update is of a
        third batch. Scale: mean. λ starts at `1/T`; where tasks are absent, λ is that of the
        present ones, scaled to sum to one.

    When not to use:
        Where gradients are short or long: γ has to fit their squares. Where T or 2T more backward
        passes cost too much.

    References:
        Chen et al., `Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization
        and Conflict-Avoidance <https://arxiv.org/abs/2305.20057>`_, 2023, Algorithm 1. TorchJD 0.18
        has γ = ρ = 0.1, LibMTL γ = 0.001; LibMTL updates with a third batch, and divides the heads'
        gradients by 3. In TorchJD's example the update is the mean of both batches: give that as
        task gradients, and the two batches as query gradients.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.modo(2, regularization=0.0)
        >>> params = jnp.zeros(2)
        >>> first, second = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> _, state = tx.update(first, tx.init(params), params, query_gradients=second)
        >>> print([round(float(w), 3) for w in state.weights])
        [0.525, 0.475]
    """
    _checks.check_num_tasks("modo", num_tasks)
    _checks.check_number("modo", "learning_rate", learning_rate, low=0, open_low=True)
    _checks.check_number("modo", "regularization", regularization, low=0)

    def update(evidence: Evidence, state: CarriedWeights) -> tuple[Array, CarriedWeights]:
        mask, dtype = evidence.mask, evidence.cross.dtype
        before = state.of_present(mask, dtype)
        rate, share = (jnp.asarray(x, dtype) for x in (learning_rate, regularization))
        slopes = jnp.matmul(evidence.cross, before, precision=HIGHEST) * evidence.cross_scale
        # From far away the projection is a corner, however far.
        step = jnp.clip(rate * evidence.cross_unit, 0, _FAR)
        values = project_present(before - step * slopes - rate * share * before, mask)
        return values, state.move(mask, values)

    return _method("modo", num_tasks, update, combine)


@register(
    "Regularised MGDA weights by several projected steps, from two independent batches.",
    "Xiao et al. 2023, https://arxiv.org/abs/2305.18409",
    reads=frozenset({"cross"}),
    scale="mean",
    # Neither "equivariant" nor "homogeneous": at the default rate the steps do not settle, and
    # blow rounding up.
    properties=_PROPERTIES,
    heads="weighted",
)
def sdmgrad(
    num_tasks: int,
    *,
    regularization: float = 0.3,
    learning_rate: float = 5.0,
    momentum: float = 0.5,
    steps: int = 20,
    preference: Any | None = None,
    combine: bool = True,
) -> Method:
    """Follows MGDA near a preference, on two batches: `d = Σ_t α_t g_t`, `α = (w + λ w̃) / (1 + λ)`.

    `w` is carried from step to step, and moved by `v <- μ v + A (w + λ w̃)`, `w <- Π_Δ(w - η v)`,
    `v` from zero, on `A = G_1 G_2ᵀ` divided by the square of `mean_t sqrt(max(A_tt, 0))`. For an
    infinite λ it is the preference's weighted sum.

    Args:
        num_tasks: the number T of tasks.
        regularization: λ, at least 0.
        learning_rate: η, positive. With the default, that of LibMTL, the steps do not settle: they
            do below about `2 (1 - μ)` over the largest eigenvalue of the divided `A`, 0.2 say.
        momentum: μ, in [0, 1).
        steps: how often `w` is moved in each call, at least 1.
        preference: w̃, `(T,)`, used as it is given; `1/T` by default.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, query_gradients=...)`, which makes `A` of the task
        gradients and the query gradients, those of a second batch at the same parameters; or with
        `second_query_gradients=...` too, which makes `A` of these two, so that the update is of a
        third batch, as in the paper. Scale: mean. Where no diagonal entry of `A` is positive, `w`
        stays. Where tasks are absent, `w` is that of the present ones, scaled to sum to one.

    When not to use:
        Where T or 2T more backward passes cost too much. With the default learning rate, where
        weights are to mean something: they jump between the corners of the simplex.

    References:
        Xiao et al., `Direction-oriented Multi-objective Learning: Simple and Provable Stochastic
        Algorithms <https://arxiv.org/abs/2305.18409>`_, 2023, Algorithm 1. η is 10 in the authors'
        code and in TorchJD 0.18, and 5 in LibMTL, which also adds 1e-8 to the divisor. The
        authors' code makes its three batches share one buffer, so that it runs with one; it
        multiplies the update by T and clips it to norm one.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.sdmgrad(2, learning_rate=0.2, regularization=0.0)
        >>> params = jnp.zeros(2)
        >>> rows = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> _, state = tx.update(rows, tx.init(params), params, query_gradients=rows)
        >>> print([round(float(w), 2) for w in state.weights])
        [0.8, 0.2]
    """
    _checks.check_num_tasks("sdmgrad", num_tasks)
    _checks.check_number("sdmgrad", "regularization", regularization, low=0)
    _checks.check_number("sdmgrad", "learning_rate", learning_rate, low=0, open_low=True)
    _checks.check_number("sdmgrad", "momentum", momentum, low=0, high=1, open_high=True)
    _checks.check_count("sdmgrad", "steps", steps)
    given = _checks.check_vector("sdmgrad", "preference", preference, num_tasks)

    def update(evidence: Evidence, state: CarriedWeights) -> tuple[Array, CarriedWeights]:
        mask, dtype = evidence.mask, evidence.cross.dtype
        wished = uniform(mask, dtype) if given is None else jnp.where(mask, given.astype(dtype), 0)
        products = evidence.cross * jnp.expand_dims(evidence.cross_scale, 1)
        lengths = root(jnp.where(mask, jnp.diagonal(products), 0))
        unit = jnp.dot(uniform(mask, dtype), lengths)
        products = products / jnp.where(unit > 0, unit**2, jnp.inf)
        rate, kept, share = (
            jnp.asarray(x, dtype) for x in (learning_rate, momentum, regularization)
        )
        before = state.of_present(mask, dtype)
        # A loop of a number that is known can be differentiated backwards.
        number = {"known": None, "steps": steps}
        if not isinstance(steps, jax.Array):
            number = {"known": int(steps), "steps": None}
        values = _walk(products, before, wished, mask, (rate, kept, share), **number)
        weights = (values + share * wished) / (1 + share)
        return weights, state.move(mask, values)

    return _method("sdmgrad", num_tasks, update, combine)


@functools.partial(jax.jit, static_argnames="known")
def _walk(
    products: Float[Array, "T T"],
    before: Float[Array, " T"],
    wished: Float[Array, " T"],
    mask: Bool[Array, " T"],
    numbers: tuple[Array, Array, Array],
    known: int | None,
    steps: Array | None,
) -> Float[Array, " T"]:
    """Moves the weights as often as is said."""
    rate, kept, share = numbers

    def move(_: Any, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        values, speed = carried
        slopes = jnp.matmul(products, values + share * wished, precision=HIGHEST)
        speed = kept * speed + slopes
        return project_present(values - rate * speed, mask), speed

    start = varying_like((before, jnp.zeros_like(before)), products, before, wished, mask)
    last = known if known is not None else jnp.asarray(steps, jnp.int32)
    values, _ = jax.lax.fori_loop(0, last, move, start)
    return values


def _method(name: str, num_tasks: int, update: Any, combine: bool) -> Method:
    init = lambda: CarriedWeights.create(num_tasks)
    weighting = Weighting(name, num_tasks, frozenset({"cross"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)
