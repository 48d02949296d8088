"""M-ConFIG: ConFIG on momenta of the gradients, one task in each step (Liu et al. 2024)."""

import math
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from mtl_optax import _checks
from mtl_optax._around.task_ema import TaskEmaState, first_averages, next_averages
from mtl_optax._complex import as_given, as_real
from mtl_optax._evidence import Given, gather_evidence
from mtl_optax._frame import Contract, WeightingState, recipe_of, weigh
from mtl_optax._gram import combine
from mtl_optax._methods.config import Length, config
from mtl_optax._precision import at_least_float32, power_of_two, root
from mtl_optax._registry import register
from mtl_optax._tracing import varying_like
from mtl_optax._unstacked import as_stack


class MConFIGState(NamedTuple):
    """Momenta of the task gradients, T × N numbers, and of the update, 2 N.

    Attributes:
        ema: each task's momentum, and in how many steps it was present.
        steps: `()` int32, the steps with an update.
        momentum: ConFIG's update of the last step, times `1 - decay^steps`; complex leaves as
            pairs of real ones, all in float32 or better.
        sizes: the root of the average of squares, likewise.
    """

    ema: TaskEmaState
    steps: Int[Array, ""]
    momentum: Any
    sizes: Any


@register(
    "ConFIG on momenta of the gradients, for steps that see one task each.",
    "Liu et al. 2024, https://arxiv.org/abs/2408.11104",
    reads=frozenset({"coordinates"}),
    scale="unit",
    properties=frozenset({"deterministic", "equivariant"}),
    ambiguous="linearly dependent",
)
def m_config(
    num_tasks: int,
    *,
    decay: float = 0.9,
    square_decay: float = 0.999,
    preference: Any | None = None,
    length: Length = "projection",
    wait: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Keeps a momentum of each task's gradient, and makes ConFIG's update of them.

    A step needs the gradient of one task alone: name it in `task_mask`, one-hot, and give zeros, or
    anything, for the others. With `β₁`, `β₂` and the `k_t` steps of a present task:

    - `m_t <- β₁ m_t + (1 - β₁) g_t`, and `c` is ConFIG's update of all `m_t / (1 - β₁^k_t)`;
    - in the n-th update `f_n = (1 - β₁^n) c` is the momentum of a gradient that nobody computed,
      `h = (f_n - β₁ f_(n-1)) / (1 - β₁)`;
    - `s <- β₂ s + (1 - β₂) h²` by coordinates, and `d = c / sqrt(s / (1 - β₂^n))`.

    Args:
        num_tasks: the number T of tasks.
        decay: `β₁`, in [0, 1), the share of the old momenta that is kept.
        square_decay: `β₂`, in [0, 1).
        preference: as for `config`.
        length: as for `config`.
        wait: whether updates are zero until every task was present, as in the public code. By
            default those that never were are left out.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_mask=...)`. Scale: unit; entries are of the
        size of one, as Adam's are, whose place it takes: SGD is to follow. The state holds
        `(T + 2) N` numbers. A step without any task changes nothing and gives zero.

        The exception among all methods: an absent task takes part, by its momentum, if it was
        present before. Only its own state stands still.

    When not to use:
        With Adam behind it: it would divide by sizes twice. Where gradients of all tasks are as
        cheap as that of one: momenta of the absent are old. With a learning rate that does not
        decay: at a Pareto stationary point ConFIG's update is rounding, and here of size one.

    References:
        Liu et al., `ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks
        <https://arxiv.org/abs/2408.11104>`_, 2024, Algorithm 1, after conflictfree 0.1.8's
        PseudoMomentumOperator. That adds 1e-8 to the divisor, here a coordinate without any
        gradient is left out instead; and gives NaN for two tasks, by default, where `config` says.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.m_config(2)
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for task in (0, 1):
        ...     gradients, mask = jnp.eye(2), jnp.arange(2) == task
        ...     updates, state = tx.update(gradients, state, params, task_mask=mask)
        >>> print(updates.round(2))
        [1.   0.74]
    """
    name = "m_config"
    _checks.check_num_tasks(name, num_tasks)
    _checks.check_number(name, "decay", decay, low=0, high=1, open_high=True)
    _checks.check_number(name, "square_decay", square_decay, low=0, high=1, open_high=True)
    _checks.check_vector(name, "preference", preference, num_tasks, positive=True)
    _checks.check_choice(name, "length", length, get_args(Length))
    rule = config(num_tasks, preference=preference, length=length)
    weighting = recipe_of(name, "length", rule).weighting
    contract = Contract(name, num_tasks)

    def init_fn(params: optax.Params) -> MConFIGState:
        contract.start(params)
        zeros = lambda p: jnp.zeros_like(p, dtype=at_least_float32(p))
        return MConFIGState(
            first_averages(num_tasks, params),
            varying_like(jnp.zeros((), jnp.int32), params),
            jax.tree.map(zeros, as_real(params)),
            jax.tree.map(zeros, as_real(params)),
        )

    def update_fn(
        task_gradients: optax.Updates,
        state: MConFIGState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, MConFIGState]:
        task_gradients = as_stack(task_gradients)
        contract.check_step(task_gradients, params, extra)
        mask = _checks.check_mask(name, num_tasks, task_mask)
        dtype = at_least_float32(*jax.tree.leaves(state.ema.averages))
        share, square_share = (jnp.asarray(1 - x, dtype) for x in (decay, square_decay))

        ema = next_averages(state.ema, task_gradients, mask, decay, "debiased")
        rows, seen = ema.averages, ema.counts > 0
        acts = jnp.any(mask) & (jnp.all(seen) | (not wait))
        steps = state.steps + acts.astype(jnp.int32)

        given = Given(name, num_tasks, rows, seen, {})
        evidence = gather_evidence(weighting.reads, given)
        nothing = WeightingState(jnp.zeros(num_tasks, jnp.float32), weighting.init())
        direction = combine(weigh(weighting, evidence, nothing)[1], rows)

        begun, squares_begun = (_weight(steps, x, dtype) for x in (decay, square_decay))

        def root_of_squares(old: Array, before: Array, direction: Array) -> Array:
            implied = (begun * direction - (1 - share) * before) / share
            return _root_sum(jnp.sqrt(1 - square_share) * old, jnp.sqrt(square_share) * implied)

        real = as_real(direction)
        momentum = jax.tree.map(lambda c: begun.astype(c.dtype) * c, real)
        sizes = jax.tree.map(
            lambda *leaves: root_of_squares(*leaves).astype(leaves[0].dtype),
            state.sizes,
            state.momentum,
            real,
        )

        def divided(c: Array, size: Array) -> Array:
            known = acts & (size != 0)
            corrected = c * jnp.sqrt(squares_begun).astype(c.dtype) / jnp.where(known, size, 1)
            return jnp.where(known, corrected, jnp.zeros_like(c))

        updates = as_given(jax.tree.map(divided, real, sizes), direction)
        updates = jax.tree.map(lambda u, g: u.astype(g.dtype), updates, task_gradients)
        momentum, sizes = jax.tree.map(
            lambda new, old: jnp.where(acts, new, old),
            (momentum, sizes),
            (state.momentum, state.sizes),
        )
        return updates, MConFIGState(ema, steps, momentum, sizes)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _weight(count: Array, decay: Any, dtype: Any) -> Array:
    """Returns `1 - decay^count`, with all its digits; of no count as of one."""
    if isinstance(decay, jax.Array):
        rate = jnp.log(decay.astype(dtype))
    else:
        rate = jnp.asarray(math.log(decay) if decay > 0 else -math.inf, dtype)
    return -jnp.expm1(jnp.maximum(count, 1).astype(dtype) * rate)


def _root_sum(one: Array, other: Array) -> Array:
    """Returns `sqrt(one² + other²)`, whose squares may leave the dtype."""
    unit = power_of_two(jnp.maximum(jnp.abs(one), jnp.abs(other)))
    return unit * root((one / unit) ** 2 + (other / unit) ** 2)
