"""MetaBalance: auxiliary gradients near the main task's length, leaf by leaf (He et al. 2022)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting
from mtl_optax._registry import register
from mtl_optax._trees import Group, check_group


class MetaBalanceState(NamedTuple):
    """The averaged norms, of each group of leaves.

    Attributes:
        norms: `(T,)` float32, averages that start at zero.
        steps: `(T,)` int32, the steps in which each task was present.
    """

    norms: Float[Array, " T"]
    steps: Int[Array, " T"]


@register(
    "Brings auxiliary gradients near the main task's length, leaf by leaf.",
    "He et al. 2022, https://arxiv.org/abs/2203.06801",
    reads=frozenset({"norms"}),
    scale="sum",
    properties=frozenset({"deterministic", "one task", "homogeneous"}),
)
def meta_balance(
    num_tasks: int,
    *,
    main: int = 0,
    r: float = 0.7,
    decay: float = 0.9,
    group: Group = "leaf",
    combine: bool = True,
) -> Method:
    """Scales auxiliary gradients towards the main task's: `d = Σ_t (r m_main / m_t + 1 - r) g_t`.

    `m_t` is the moving average of `‖g_t‖`, and all of it is done for each leaf by itself: an
    auxiliary task that drowns the main one in one layer may be too weak in another.

    Args:
        num_tasks: the number T of tasks.
        main: the number of the main task, whose gradient stays as it is.
        r: how near the lengths are brought, in [0, 1]; 0 is the sum.
        decay: β, the share of the old average that is kept, in [0, 1).
        group: the leaves that are scaled together, as for `by_group`.
        combine: if False, return the scaled rows, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: sum. It weights tasks by leaves, so that
        its state has `group_weights`, `(K, T)`, and no task weights. A task whose gradient has
        always been zero is not scaled. Averages are divided by `1 - β^k` for each task's own count
        of steps `k`. Where the main task is absent, it sums.

    When not to use:
        Without a task that matters more than the others. Where heads are among the leaves: it is
        for shared parameters, `mtl_optax.on_shared(meta_balance(T), shared)`.

    References:
        He et al., `MetaBalance: Improving Multi-Task Recommendations via Adapting Gradient
        Magnitudes of Auxiliary Tasks <https://arxiv.org/abs/2203.06801>`_, 2022, Algorithm 1. The
        authors' code does not correct the averages, which cancels while no task is absent; there an
        auxiliary gradient of zero gives NaN, and torch-rechub 0.9.0 adds 1e-5 to `m_t`.

    Example:
        The auxiliary gradient is three times as long as the main one:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.meta_balance(2, r=0.5)
        >>> params = jnp.zeros(2)
        >>> updates, _ = tx.update(jnp.array([[1.0, 0.0], [0.0, 3.0]]), tx.init(params), params)
        >>> print(updates)
        [1. 2.]
    """
    _checks.check_num_tasks("meta_balance", num_tasks)
    _checks.check_task("meta_balance", "main", main, num_tasks)
    _checks.check_number("meta_balance", "r", r, low=0, high=1)
    _checks.check_number("meta_balance", "decay", decay, low=0, high=1, open_high=True)
    check_group("meta_balance", group)

    def init() -> MetaBalanceState:
        return MetaBalanceState(jnp.zeros(num_tasks, jnp.float32), jnp.zeros(num_tasks, jnp.int32))

    def update(evidence: Evidence, state: MetaBalanceState) -> tuple[Array, MetaBalanceState]:
        mask, kept = evidence.mask, jnp.asarray(decay, jnp.float32)
        norms = evidence.norms.astype(jnp.float32)
        norms = jnp.where(mask, kept * state.norms + (1 - kept) * norms, state.norms)
        steps = state.steps + mask.astype(jnp.int32)
        lengths = norms / jnp.where(steps > 0, 1 - kept ** steps.astype(jnp.float32), 1)
        chief = jnp.arange(num_tasks) == main
        goal = jnp.sum(jnp.where(chief, lengths, 0))
        ratios = jnp.where(lengths > 0, goal / jnp.where(lengths > 0, lengths, 1), 1)
        share = jnp.asarray(r, jnp.float32)
        scaled = jnp.any(chief & mask) & ~chief
        return jnp.where(scaled, share * ratios + (1 - share), 1), MetaBalanceState(norms, steps)

    weighting = Weighting("meta_balance", num_tasks, frozenset({"norms"}), init, update)
    return from_weighting(weighting, combine_tasks=combine, group=group)
