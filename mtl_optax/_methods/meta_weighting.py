"""MetaWeighting: task weights learned on held-out losses (Mao et al. 2022)."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._evidence import checked_query
from mtl_optax._frame import Contract, SolverReport, no_report, report
from mtl_optax._gram import ScaledGram, cross_gram, relative, weigh_rows
from mtl_optax._gram import combine as combine_rows
from mtl_optax._precision import HIGHEST
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.min_norm import min_norm
from mtl_optax._solvers.simplex import project_present
from mtl_optax._tracing import varying_like
from mtl_optax._trees import select_tasks, stacked_zeros, zero_absent
from mtl_optax._unstacked import as_stack

Project = Literal["none", "nonneg", "simplex"]


class MetaWeightingState(NamedTuple):
    """What the next step needs of the last one: T × N numbers.

    Attributes:
        weights: `(T,)` float32, `w / T`, the weights of the last update `Σ_t w_t s_t / T`.
        values: `(T,)` float32, `w`.
        support: each task's gradient when it was last present, leaves `(T, *p.shape)`; zeros
            before.
        report: gap and iterations of the min-norm problem of the last step.
    """

    weights: Float[Array, " T"]
    values: Float[Array, " T"]
    support: Any
    report: SolverReport


@register(
    "Learns weights whose training step lowers all held-out losses.",
    "Mao et al. 2022, https://aclanthology.org/2022.findings-acl.271/",
    reads=frozenset({"query gradients"}),
    scale="mean",
    properties=GRAM_METHOD | {"deterministic", "equivariant"},
    heads="weighted",
)
def meta_weighting(
    num_tasks: int,
    *,
    step_size: float = 0.1,
    learning_rate: float = 1.0,
    project: Project = "none",
    combine: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Learns weights under which a training step lowers all held-out losses: `d = Σ_t w_t s_t / T`.

    Each step sees two stacks of task gradients at the same parameters: those of a support batch,
    `s_t`, which train the parameters, and those of a query batch, `q_t`. The parameters came from
    the step before, `θ = θ_old - (η/T) Σ_t w_t s_t_old`, so that the query losses depend on `w` by
    `D = -(η/T) Q S_oldᵀ`, `(T, T)`. With λ the MGDA weights of the rows of `D`, `w` moves by
    `-α λᵀD = (αη/T) λᵀ Q S_oldᵀ`, which lowers every query loss to first order. Then the update is
    made with the new `w`. It starts at ones and stays there in the first step.

    Args:
        num_tasks: the number T of tasks.
        step_size: α, at least 0. The paper uses 0.1 and 0.5.
        learning_rate: η, at least 0: the learning rate of the optimiser that takes the updates.
            With the default, 1, `step_size` is the whole factor. Only SGD moves the parameters
            as `D` supposes; with another optimiser `D` is an approximation.
        project: "none" lets weights grow and turn negative, as the paper does; "nonneg" keeps
            them at or above zero; "simplex" projects them on `w >= 0`, `Σw = T`.
        combine: if False, return the rows `w_t s_t / T`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, query_gradients=...)`, a stack like that of the
        task gradients. Scale: mean, at the start. The state holds the support gradients; of the two
        stacks only a `(T, T)` matrix is formed. The step of `w` is quadratic in the scale of the
        gradients, and ends in infinity where their squares do, at 1e19 in float32. With
        `task_mask`, T is the number of present tasks.

    When not to use:
        Where a second batch, and its T gradients, cost too much. Where gradients are short and
        `step_size` is not raised: the step of the weights falls with their square.

    References:
        Mao et al., `MetaWeighting: Learning to Weight Tasks in Multi-Task Learning
        <https://aclanthology.org/2022.findings-acl.271/>`_, 2022. No public code is known.

    Example:
        The second task's training step helps the query losses of both, and gains weight:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.meta_weighting(2, step_size=1.0)
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> support, query = jnp.eye(2), jnp.array([[0.0, 1.0], [0.0, 1.0]])
        >>> for _ in range(3):
        ...     updates, state = tx.update(support, state, params, query_gradients=query)
        ...     print(state.values)
        [1. 1.]
        [1.  1.5]
        [1. 2.]
    """
    _checks.check_num_tasks("meta_weighting", num_tasks)
    _checks.check_number("meta_weighting", "step_size", step_size, low=0)
    _checks.check_number("meta_weighting", "learning_rate", learning_rate, low=0)
    _checks.check_choice("meta_weighting", "project", project, get_args(Project))
    contract = Contract("meta_weighting", num_tasks, {"query_gradients"})

    def init_fn(params: optax.Params) -> MetaWeightingState:
        contract.start(params)
        support = stacked_zeros(num_tasks, params, jnp.result_type)
        zeros, ones = jnp.zeros(num_tasks, jnp.float32), jnp.ones(num_tasks, jnp.float32)
        weights, values, solver = varying_like((zeros, ones, no_report()), params)
        return MetaWeightingState(weights, values, support, solver)

    def update_fn(
        task_gradients: optax.Updates,
        state: MetaWeightingState,
        params: optax.Params | None = None,
        *,
        query_gradients: optax.Updates | None = None,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, MetaWeightingState]:
        task_gradients = as_stack(task_gradients)
        contract.check_step(task_gradients, params, extra)
        like = jax.tree.map(lambda rows: rows[0], state.support)
        query_gradients = checked_query("meta_weighting", num_tasks, query_gradients, like)
        mask = _checks.check_mask("meta_weighting", num_tasks, task_mask)
        number = jnp.maximum(jnp.sum(mask), 1).astype(jnp.float32)

        products, scale, whole = cross_gram(query_gradients, state.support, mask)
        gram = jnp.matmul(products, products.T, precision=HIGHEST)
        shares, unit = relative(ScaledGram(gram, scale))
        unit = unit * whole
        solution = min_norm(gram, mask, shares)
        descent = jnp.matmul(shares * solution.weights, products, precision=HIGHEST)
        descent = descent.astype(jnp.float32)
        factor = jnp.asarray(step_size, jnp.float32) * jnp.asarray(learning_rate, jnp.float32)
        values = state.values + factor / number * descent * unit.astype(jnp.float32)
        if project == "nonneg":
            values = jnp.maximum(values, 0)
        elif project == "simplex":
            values = project_present(values, mask, number)
        values = jnp.where(mask, values, state.values)

        weights = jnp.where(mask, values / number, 0)
        support = jax.tree.map(lambda g, s: g.astype(s.dtype), task_gradients, state.support)
        if task_mask is not None:
            support = select_tasks(mask, support, state.support)
            task_gradients = zero_absent(mask, task_gradients)
        updates = (combine_rows if combine else weigh_rows)(weights, task_gradients)
        summary = report(solution.gap, solution.iterations, gram, shares)
        return updates, MetaWeightingState(weights, values, support, summary)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
