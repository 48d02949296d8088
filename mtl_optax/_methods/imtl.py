"""IMTL: impartial multi-task learning, by gradients, by losses, or by both (Liu et al. 2021)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting, stateless
from mtl_optax._methods._learned import LearnedScalars, default_adam
from mtl_optax._precision import HIGHEST
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.simplex import unit_rows
from mtl_optax._solvers.spectrum import eigen

# Below this share the sum of the weights is mostly rounding in float32, and `d` has no bound.
_SMALLEST_SUM = 1e-5
# How much of the vector of ones, as a share, may lie outside the range of the cosines by rounding.
_LARGEST_OUTSIDE = 1e-3


@register(
    "Weights gradients so that the update projects equally on each of them.",
    "Liu et al. 2021, https://openreview.net/forum?id=IMPnRXEWpvr",
    reads=frozenset({"gram"}),
    scale="mean",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous"},
)
def imtl_g(num_tasks: int, *, safe: bool = True, combine: bool = True) -> Method:
    """Balances gradients: `d = Σ_t α_t g_t`, `Σ_t α_t = 1`, projects equally on every `g_t`.

    `<d, g_t> / ‖g_t‖` is the same for all tasks: `α = v / 1'v` with `v = M⁻¹ n`, `n_t = ‖g_t‖`.
    Weights can be negative. For three tasks and more `1'v` can be, too, and then `d` ascends for
    every task alike.

    Args:
        num_tasks: the number T of tasks.
        safe: divide by `|1'v|`, so that `d` descends for every task; it is the paper's `d` where
            `1'v > 0`, and `-d` elsewhere. False is the paper.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: mean. A zero gradient takes no part.
        Where `|1'v| < 1e-5 Σ|v_t|`, `d` would have no bound; it gets the length that ConFIG gives
        it, over T: the mean projection of the `g_t`. Of linearly dependent gradients, `M⁻¹` is the
        pseudo-inverse on the cosines where equal projections exist, equal gradients for instance;
        where they do not, as for opposite gradients, `d` is zero, to which it tends there.

    When not to use:
        Where a task has converged: the update is about as short as the shortest gradient. Where
        gradients are linearly dependent, as with more tasks than directions: rounding decides.

    References:
        Liu et al., `Towards Impartial Multi-task Learning
        <https://openreview.net/forum?id=IMPnRXEWpvr>`_, 2021, Section 3.1, whose closed form in
        differences of gradients, `α_{2:T} = g_1 U' (D U')⁻¹`, is the same `α`; LibMTL inverts
        `D U'`, TorchJD takes the pseudo-inverse of `M` in
        all cases.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.imtl_g(2)
        >>> gradients = jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> params = jnp.zeros(2)
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([0.75, 0.75], dtype=float32)
    """

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        return _impartial(evidence, safe)

    weighting = stateless("imtl_g", num_tasks, frozenset({"gram"}), weigh)
    return from_weighting(weighting, combine_tasks=combine)


@register(
    "Weights losses by learned scales that keep all of them at one.",
    "Liu et al. 2021, https://openreview.net/forum?id=IMPnRXEWpvr",
    reads=frozenset({"losses"}),
    scale="sum",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous", "conic"},
    heads="weighted",
)
def imtl_l(
    num_tasks: int,
    optimizer: optax.GradientTransformation | None = None,
    *,
    clip: float = 10.0,
    combine: bool = True,
) -> Method:
    """Balances losses: `d = Σ_t e^{s_t} g_t`, with `s` learned so that every `e^{s_t} L_t` is one.

    The scales `s` start at zero and descend `Σ_t e^{s_t} L_t - s_t`. A step weighs with the `s` it
    finds and then updates it. It is twice `uw` with `-s` for `s`.

    Args:
        num_tasks: the number T of tasks.
        optimizer: any optax optimiser for `s`; `optax.adam(1e-3)` by default. The paper learns `s`
            along with the network, so give it the network's learning rate. Each task has an
            optimiser state of its own.
        clip: `s` is kept within `[-clip, clip]`; positive. A loss that is not positive drives `s`
            to `clip`.
        combine: if False, return the rows `e^{s_t} g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: sum at the start.
        Heads are to be weighted too: `on_shared(imtl_l(T), shared, heads="weighted")`, or give it
        all the parameters.

    When not to use:
        As for `uw`, of which it is another form: where a loss can be negative, in short runs with
        the default optimiser, and where a loss can reach zero with a fast one.

    References:
        As `imtl_g`, Section 3.2. LibMTL has no IMTL-L alone; TorchJD's is the same.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> tx = mtl.imtl_l(2, optax.sgd(0.1))
        >>> gradients, losses = jnp.eye(2), jnp.array([4.0, 1.0])
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for _ in range(200):
        ...     updates, state = tx.update(gradients, state, params, task_losses=losses)
        >>> print(state.weights.round(3))
        [0.25 1.  ]
    """
    init, rescale = _loss_scales("imtl_l", num_tasks, optimizer, clip)
    weighting = Weighting("imtl_l", num_tasks, frozenset({"losses"}), init, rescale)
    return from_weighting(weighting, combine_tasks=combine)


@register(
    "IMTL-G on the gradients that IMTL-L has scaled.",
    "Liu et al. 2021, https://openreview.net/forum?id=IMPnRXEWpvr",
    reads=frozenset({"gram", "losses"}),
    scale="mean",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous"},
)
def imtl(
    num_tasks: int,
    optimizer: optax.GradientTransformation | None = None,
    *,
    safe: bool = True,
    clip: float = 10.0,
    combine: bool = True,
) -> Method:
    """Balances losses, then gradients: IMTL-G on the gradients `e^{s_t} g_t` of IMTL-L.

    Scaling a gradient leaves the direction of IMTL-G as it is, so `s` sets its length only: `d`
    projects on every task alike, and `Σ_t α_t = 1` for the weights `α_t e^{s_t}` of the update.

    Args:
        num_tasks: the number T of tasks.
        optimizer: any optax optimiser for `s`, as for `imtl_l`.
        safe: as for `imtl_g`.
        clip: as for `imtl_l`.
        combine: if False, return the rows `α_t e^{s_t} g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: mean at the start.
        The paper's heads get `e^{s_t}` times their own gradients, without `α`; `s` is `values` in
        the state.

    When not to use:
        Where a task has converged, as for `imtl_g`, or a loss can be negative, as for `imtl_l`.

    References:
        As `imtl_g`, Section 3.3. As in LibMTL, `s` descends its own loss, `e^{s_t} L_t - s_t`,
        which `α` does not weigh.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> tx = mtl.imtl(2, optax.sgd(0.1))
        >>> gradients, losses = jnp.array([[3.0, 0.0], [0.0, 1.0]]), jnp.array([4.0, 1.0])
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for _ in range(200):
        ...     updates, state = tx.update(gradients, state, params, task_losses=losses)
        >>> print([round(float(u), 3) for u in updates])  # e^s g is now [0.75, 0] and [0, 1].
        [0.429, 0.429]
    """
    init, rescale = _loss_scales("imtl", num_tasks, optimizer, clip)

    def update(evidence: Evidence, state: LearnedScalars) -> tuple[Array, LearnedScalars]:
        scales, state = rescale(evidence, state)
        scales = scales.astype(evidence.gram.dtype)
        return scales * _impartial(evidence, safe, scales), state

    weighting = Weighting("imtl", num_tasks, frozenset({"gram", "losses"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)


def _loss_scales(
    method: str, num_tasks: int, optimizer: optax.GradientTransformation | None, clip: float
) -> tuple[
    Callable[[], LearnedScalars],
    Callable[[Evidence, LearnedScalars], tuple[Float[Array, " T"], LearnedScalars]],
]:
    """Makes the start of `s`, and the step that returns `e^s` and learns from the losses."""
    _checks.check_num_tasks(method, num_tasks)
    optimizer = default_adam(1e-3) if optimizer is None else optimizer
    _checks.check_optimizer(method, "optimizer", optimizer)
    _checks.check_number(method, "clip", clip, low=0, open_low=True)

    def init() -> LearnedScalars:
        return LearnedScalars.create(optimizer, jnp.zeros(num_tasks, jnp.float32))

    def rescale(
        evidence: Evidence, state: LearnedScalars
    ) -> tuple[Float[Array, " T"], LearnedScalars]:
        scales = jnp.exp(state.values)
        gradients = scales * evidence.losses.astype(jnp.float32) - 1
        state = state.descend(optimizer, gradients, evidence.mask)
        bound = jnp.asarray(clip, jnp.float32)
        return scales, state._replace(values=jnp.clip(state.values, -bound, bound))

    return init, rescale


def _impartial(
    evidence: Evidence, safe: bool, scales: Float[Array, " T"] | None = None
) -> Float[Array, " T"]:
    """Computes the weights of IMTL-G for the gradients `scales_t g_t`."""
    gram, mask = evidence.gram, evidence.mask
    cosines, held, active = unit_rows(gram, mask)
    ones = active.astype(gram.dtype)
    point = _level(cosines, ones)
    lengths = jnp.where(active, held * evidence.relative()[0], 1)
    lengths = lengths if scales is None else scales * lengths
    shares = point / lengths
    total = jnp.sum(shares)
    length = jnp.sum(jnp.where(active, lengths, 0)) / jnp.maximum(jnp.sum(ones), 1)
    bounded = jnp.abs(total) >= _SMALLEST_SUM * jnp.sum(jnp.abs(shares))
    divisor = jnp.abs(total) if safe else total
    # With x = C⁻¹1, G'D⁻¹x projects on every task by one and has the squared norm 1'x.
    fallback = jnp.sum(point) / jnp.where(length > 0, length, 1)
    divisor = jnp.where(bounded, divisor, fallback)
    return shares / jnp.where(divisor == 0, 1, divisor)


@jax.custom_jvp
def _level(cosines: Float[Array, "T T"], ones: Float[Array, " T"]) -> Float[Array, " T"]:
    """Computes `C⁻¹1`, or where `C` is singular what it tends to, up to its length."""
    return _levelled(cosines, ones)[0]


def _levelled(
    cosines: Float[Array, "T T"], ones: Float[Array, " T"]
) -> tuple[Float[Array, " T"], Callable[[Float[Array, " T"]], Float[Array, " T"]]]:
    """Returns the point and the function that multiplies with the inverse of `C` on its range."""
    values, vectors, null = eigen(cosines)

    def parts(x: Float[Array, " T"]) -> Float[Array, " T"]:
        return jnp.matmul(x, vectors, precision=HIGHEST)

    def solved(x: Float[Array, " T"]) -> Float[Array, " T"]:
        return jnp.where(null, 0, parts(x) / jnp.where(null, 1, values))

    # As C tends to a singular matrix, C⁻¹1 tends to the part of 1 outside its range, if any.
    outside = jnp.where(null, parts(ones), 0)
    singular = jnp.sum(outside**2) > _LARGEST_OUTSIDE**2 * jnp.sum(ones)
    point = jnp.matmul(vectors, jnp.where(singular, outside, solved(ones)), precision=HIGHEST)
    return point, lambda x: jnp.matmul(vectors, solved(x), precision=HIGHEST)


@_level.defjvp
def _level_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Differentiates `Cx = 1`: the eigenvectors have no derivative where two values are equal."""
    (cosines, ones), (change, _) = primals, tangents
    point, solve = _levelled(cosines, ones)
    return point, -solve(jnp.matmul(change, point, precision=HIGHEST))
