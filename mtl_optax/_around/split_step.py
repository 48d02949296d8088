"""An optimiser's step on the summed gradient, split into the tasks' own parts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._complex import as_given, as_real
from mtl_optax._frame import Contract
from mtl_optax._gram import combine, sum_rows
from mtl_optax._precision import at_least_float32
from mtl_optax._solvers.simplex import uniform
from mtl_optax._trees import along_tasks, stacked_zeros, zero_absent
from mtl_optax._unstacked import as_stack


class SplitStepState(NamedTuple):
    """State of the optimiser of the sum, and the tasks' own first moments.

    Attributes:
        optimizer: the state of the optimiser.
        moments: leaves `(T, *p.shape)`, or `()` without momentum.
    """

    optimizer: Any
    moments: Any


def split_step(
    num_tasks: int,
    optimizer: optax.GradientTransformation,
    *,
    momentum: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Takes an optimiser's step on the summed gradient, split into the tasks' own parts.

    Adaptive optimisers move each parameter by a factor times their first moment `m`, a sum over
    tasks, `m = Σ_t m^t`. Task `t`'s part of the step `Δθ` is `m^t Δθ / m`, coordinate by
    coordinate, so that the denominator is the joint one. The parts sum to `Δθ`: what follows
    `sum_tasks` is trained as by the optimiser alone.

    Args:
        num_tasks: the number T of tasks.
        optimizer: any optax optimiser whose step is, coordinate by coordinate, a multiple of the
            gradient, or of its moving average: SGD, AdaGrad, RMSProp, Adam. What adds to the
            step, weight decay for instance, is to follow `sum_tasks`.
        momentum: the decay of the optimiser's first moment, in [0, 1): 0.9 for `optax.adam` as it
            comes. None, the default, for an optimiser without.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `(T, *p.shape)`.
        Where `m` is zero, the step is split evenly. An absent task's moment goes on to fade and to
        move the parameters, as in the optimiser; the present tasks share that part evenly.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> tx = mtl.split_step(2, optax.adam(0.1), momentum=0.9)
        >>> gradients = jnp.array([[3.0, 1.0], [1.0, -2.0]])
        >>> params = jnp.zeros(2)
        >>> print(tx.update(gradients, tx.init(params), params)[0].round(3))
        [[-0.075 -0.1  ]
         [-0.025  0.2  ]]
    """
    _checks.check_num_tasks("split_step", num_tasks)
    contract = Contract("split_step", num_tasks)
    _checks.check_optimizer("split_step", "optimizer", optimizer)
    if momentum is not None:
        _checks.check_number("split_step", "momentum", momentum, low=0, high=1, open_high=True)
    joint = optax.with_extra_args_support(optimizer)

    def init_fn(params: optax.Params) -> SplitStepState:
        contract.start(params)
        zeros = lambda: stacked_zeros(num_tasks, as_real(params), at_least_float32)
        moments = () if momentum is None else zeros()
        return SplitStepState(joint.init(params), moments)

    def update_fn(
        task_gradients: optax.Updates,
        state: SplitStepState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, SplitStepState]:
        task_gradients = as_stack(task_gradients)
        contract.check_step(task_gradients, params, extra)
        mask = _checks.check_mask("split_step", num_tasks, task_mask)
        task_gradients = zero_absent(mask, task_gradients)
        summed = combine(jnp.ones(num_tasks, jnp.float32), task_gradients)
        step, inner = joint.update(summed, state.optimizer, params, **extra)
        moments, kept = as_real(task_gradients), state.moments
        if momentum is not None:

            def average(old: Array, new: Array) -> Array:
                rate = jnp.asarray(momentum, old.dtype)
                return rate * old + (1 - rate) * new.astype(old.dtype)

            moments = kept = jax.tree.map(average, state.moments, moments)
        parts = jax.tree.map(lambda s, m: _parts(s, m, mask), as_real(step), moments)
        return as_given(parts, task_gradients), SplitStepState(inner, kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _parts(step: Array, moments: Array, mask: Bool[Array, " T"]) -> Array:
    dtype = at_least_float32(step, moments)
    wide, moments = jnp.expand_dims(step.astype(dtype), 0), moments.astype(dtype)
    total = _summed(moments)
    known = total != 0
    own = moments * jnp.where(known, wide / jnp.where(known, total, 1), 0)
    present = along_tasks(mask, moments)
    absent = _summed(jnp.where(present, 0, own))
    rest = along_tasks(uniform(mask, dtype), moments) * jnp.where(known, absent, wide)
    return (jnp.where(present, own, 0) + rest).astype(step.dtype)


def _summed(rows: Float[Array, "T ..."]) -> Float[Array, "1 ..."]:
    return jnp.expand_dims(sum_rows(rows), 0)
