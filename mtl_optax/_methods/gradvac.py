"""GradVac: gradients that agree as much as they did before (Wang et al. 2021)."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting
from mtl_optax._methods._draws import Draws, RandomState, random_orders
from mtl_optax._precision import HIGHEST, root
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.simplex import unit_rows
from mtl_optax._tracing import varying_like

Update = Literal["always", "conflict"]


class GradVacState(NamedTuple):
    """What GradVac has seen.

    Attributes:
        targets: `(T, T)` float32, the averaged cosine of each task's gradient, as corrected so
            far, with each other task's.
        key: the words of the next step's random key; none for fewer than three tasks, which draw
            nothing.
    """

    targets: Float[Array, "T T"]
    key: UInt32[Array, " words"] | None


@register(
    "Brings each pair of gradients to the cosine that it has had on average.",
    "Wang et al. 2021, https://arxiv.org/abs/2010.05874",
    reads=frozenset({"gram"}),
    scale="sum",
    properties=GRAM_METHOD | {"one task", "homogeneous", "conic"},
)
def gradvac(
    num_tasks: int,
    *,
    decay: float = 0.5,
    init: float = 0.0,
    limit: float = 0.99,
    update: Update = "always",
    key: Any = 0,
    combine: bool = True,
) -> Method:
    """Brings each pair of gradients to the cosine it has had on average: `d = Σ_i g_i'`.

    For each task i, `g_i'` starts as `g_i` and meets the other tasks in random order. With
    `φ = cos(g_i', g_j)` and the target `φ̂_ij`, where `φ < φ̂_ij`

        g_i' <- g_i' + ‖g_i'‖ [φ̂ sqrt(1 - φ²) - φ sqrt(1 - φ̂²)] / (‖g_j‖ sqrt(1 - φ̂²)) g_j,

    after which the cosine is `φ̂_ij`. Then `φ̂_ij <- decay φ̂_ij + (1 - decay) φ`, with the `φ` of
    before the correction. With targets of zero, as in the first call, it is PCGrad.

    Args:
        num_tasks: the number T of tasks.
        decay: the share of the old target that is kept, in [0, 1]: one minus the β of the paper.
        init: the first targets, in (-1, 1).
        limit: what targets are kept within, in [0, 1). Towards one the correction grows without
            bound.
        update: move targets "always", or in a "conflict" alone, when `φ < φ̂`.
        key: an int seed or a typed key.
        combine: if False, return the rows `g_i'`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: sum. A zero gradient is neither corrected
        nor met, and its targets stand still. By layers: `mtl_optax.by_group(gradvac(T))`.

    When not to use:
        Where one task's gradient is far longer than the others': lengths stay as they are. Where
        tasks agree: corrections make the update longer than the sum, by the limit.

    References:
        Wang et al., `Gradient Vaccine: Investigating and Improving Multi-task Optimization in
        Massively Multilingual Models <https://arxiv.org/abs/2010.05874>`_, 2021, Eq. 7 and
        Algorithm 1. TorchJD 0.18 and LibMTL start at zero with a decay of 0.5, and have no limit:
        after thirty steps of identical gradients and one of nearly identical ones LibMTL's update
        was 4e7 long. They add 1e-8 to products of norms, which swamps short gradients. Samsung's
        code moves targets in a conflict alone. UniGrad-FS is `init=0.1, update="conflict"`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.gradvac(2)
        >>> rows, params = jnp.array([[1.0, 0.0], [-0.5, 1.0]]), jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     updates, state = tx.update(rows, state, params)
        ...     print([round(float(x), 4) for x in updates])
        [0.8, 1.4]
        [0.6624, 1.2165]
    """
    _checks.check_num_tasks("gradvac", num_tasks)
    _checks.check_number("gradvac", "decay", decay, low=0, high=1)
    _checks.check_number("gradvac", "init", init, low=-1, high=1, open_low=True, open_high=True)
    _checks.check_number("gradvac", "limit", limit, low=0, high=1, open_high=True)
    _checks.check_choice("gradvac", "update", update, get_args(Update))
    draws = Draws("gradvac", key)

    def start() -> GradVacState:
        targets = jnp.full((num_tasks, num_tasks), init, jnp.float32)
        return GradVacState(targets, draws.init().key if num_tasks > 2 else None)

    def vaccinate(evidence: Evidence, state: GradVacState) -> tuple[Array, GradVacState]:
        following, orders = None, jnp.tile(jnp.arange(num_tasks), (num_tasks, 1))
        if state.key is not None:
            (following,), now = draws.next(RandomState(state.key))
            orders = random_orders(now, num_tasks)
        cosines, lengths, active = unit_rows(evidence.gram, evidence.mask)
        bound = jnp.asarray(limit, jnp.float32)
        targets = jnp.clip(state.targets, -bound, bound)
        rows, seen = correct(cosines, active, targets.astype(cosines.dtype), orders)

        share = jnp.asarray(decay, jnp.float32)
        moved = share * targets + (1 - share) * seen.astype(jnp.float32)
        pairs = jnp.outer(active, active) & ~jnp.eye(num_tasks, dtype=bool)
        if update == "conflict":
            pairs &= seen < targets
        following_state = GradVacState(jnp.where(pairs, moved, state.targets), following)
        rows = rows * jnp.expand_dims(lengths, 1) / jnp.expand_dims(lengths, 0)
        return evidence.for_gradients(rows), following_state

    weighting = Weighting("gradvac", num_tasks, frozenset({"gram"}), start, vaccinate)
    return from_weighting(weighting, combine_tasks=combine)


@jax.jit
def correct(
    cosines: Float[Array, "T T"],
    active: Bool[Array, " T"],
    targets: Float[Array, "T T"],
    orders: Int[Array, "T T"],
) -> tuple[Float[Array, "T T"], Float[Array, "T T"]]:
    """Corrects each of the unit gradients.

    Args:
        cosines: `(T, T)`.
        active: `(T,)` bool, the tasks that have a direction.
        targets: `(T, T)`, below one by magnitude.
        orders: row `i` is the order in which task `i` meets the tasks; its own place is skipped.

    Returns:
        The coefficients `(T, T)` of the corrected unit gradients in the unit gradients, and the
        cosines `(T, T)` that were met.
    """
    num_tasks = cosines.shape[0]
    places = jnp.arange(num_tasks)
    eps, sizes = 4 * float(jnp.finfo(cosines.dtype).eps), jnp.abs(cosines)

    def one(
        task: Int[Array, ""], goals: Float[Array, " T"], order: Int[Array, " T"]
    ) -> tuple[Array, Array]:
        def meet(place: Int[Array, ""], carried: tuple[Array, Array]) -> tuple[Array, Array]:
            row, seen = carried
            other = order[place]
            products = jnp.matmul(cosines, row, precision=HIGHEST)
            square = jnp.dot(row, products, precision=HIGHEST)
            # A row that cancels has no direction but that of its rounding.
            noise = num_tasks * eps * jnp.dot(jnp.abs(row), sizes @ jnp.abs(row))
            length = root(jnp.where(square > noise, square, 0))
            phi = jnp.clip(products[other] / jnp.where(length > 0, length, 1), -1, 1)
            goal = goals[other]
            wanted = (other != task) & active[other] & active[task] & (phi < goal)
            share = length * (goal * root(1 - phi**2) / root(1 - goal**2) - phi)
            here = places == other
            return (
                row + jnp.where(here & wanted, share, 0),
                jnp.where(here & (length > 0), phi, seen),
            )

        own = jax.nn.one_hot(task, num_tasks, dtype=cosines.dtype)
        start = varying_like((own, goals), cosines, order, goals)
        return jax.lax.fori_loop(0, num_tasks, meet, start)

    return jax.vmap(one)(places, targets, orders)
