"""A guard around a method, for gradients and losses that are not finite."""

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from mtl_optax import _checks
from mtl_optax._frame import Declaration, declare, init_and_listen
from mtl_optax._tracing import varying_like
from mtl_optax._trees import along_tasks, hide_leaves
from mtl_optax._unstacked import TaskGradients, as_stack, unwrapped

Policy = Literal["drop_task", "skip_step"]


class SkipNonfiniteState(NamedTuple):
    """The counters of `skip_nonfinite`, and the state it guards.

    Attributes:
        dropped: `(T,)` int32, in how many steps each task was kept out, alone or with the step.
        skipped: `()` int32, how many steps were skipped.
        consecutive: `()` int32, how many steps in a row, up to the last, were not finite somewhere.
        inner: the method's state.
    """

    dropped: Int[Array, " T"]
    skipped: Int[Array, ""]
    consecutive: Int[Array, ""]
    inner: Any


def skip_nonfinite(
    method: optax.GradientTransformation,
    *,
    policy: Policy = "drop_task",
    max_consecutive: int = 10,
) -> optax.GradientTransformationExtraArgs:
    """Keeps tasks, or steps, whose numbers are not finite out of the training.

    A task's numbers are its gradient, its loss and its query gradient, the latter two where they
    are given. A task that `task_mask` names absent may hold anything.

    Args:
        method: a method of this library, or a chain with one. Guard the whole chain,
            `skip_nonfinite(optax.chain(method, optax.adam(lr)))`, so that the optimiser's state
            stands still in a skipped step too; guard `on_shared(method, shared)` from outside, so
            that heads are guarded too.
        policy: "drop_task" takes a task that is not finite for absent, as `task_mask` does, with
            zeros for its numbers, and skips the step if no task is left; "skip_step" skips the
            step if any task is not finite. Both skip a step whose update is not finite.
        max_consecutive: at least 1. After that many steps in a row with something not finite, the
            next such step goes through as it is, so that the failure is seen.

    Returns:
        A `GradientTransformationExtraArgs` with the shapes and the scale of `method`. A skipped
        step has a zero update and leaves the state of `method` as it was. Leaves of the gradients
        that have the shape of their parameter, as the heads under `on_shared`, belong to no
        task: "drop_task" puts zeros for their entries that are not finite.

        What is dropped is what arrives. In one backward pass for all tasks, as in
        `value_and_task_grads`, a NaN in one task's part of the model reaches every task's gradient
        (`0 * NaN` is NaN), and the step is skipped; `per_task_value_and_grad` keeps tasks apart.

    Example:
        The second task's loss overflowed:

        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> tx = mtl.skip_nonfinite(mtl.mean_tasks(3))
        >>> gradients = jnp.array([[1.0, 0.0], [jnp.inf, jnp.nan], [0.0, 3.0]])
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> print(updates, mtl.task_weights(state), state.dropped)
        [0.5 1.5] [0.5 0.  0.5] [0 1 0]
    """
    name = "skip_nonfinite"
    _checks.check_optimizer(name, "method", method)
    _checks.check_choice(name, "policy", policy, get_args(Policy))
    _checks.check_count(name, "max_consecutive", max_consecutive)
    guarded = optax.with_extra_args_support(method)

    def init_fn(params: optax.Params) -> SkipNonfiniteState:
        count = lambda *shape: jnp.zeros(shape, jnp.int32)
        inner, declared = init_and_listen(guarded, params)
        dropped = count(_num_tasks_of(method, declared))
        reads = frozenset[str]().union(*(one.reads for one in declared))
        declare(name, dropped.shape[0], reads)
        counts = varying_like((dropped, count(), count()), params)
        return SkipNonfiniteState(*counts, inner)

    def update_fn(
        task_gradients: optax.Updates,
        state: SkipNonfiniteState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, SkipNonfiniteState]:
        num_tasks = state.dropped.shape[0]
        _checks.check_extra(name, extra)
        mask = _checks.check_mask(name, num_tasks, task_mask)
        numbers = {
            key: _checks.check_losses(name, num_tasks, extra[key], key)
            for key in _checks.NUMBERS
            if extra.get(key) is not None
        }
        task_gradients = unwrapped(task_gradients)
        lazy = isinstance(task_gradients, TaskGradients)
        shapes = task_gradients.shapes if lazy else task_gradients
        stacked = _with_task_axis(num_tasks, shapes, params)
        rows, heads = _split(stacked, shapes)
        stacks = {}
        for key in _checks.STACKS:
            if extra.get(key) is not None:
                extra[key] = hide_leaves(shapes, as_stack(extra[key]))
                # Query gradients of other shapes are for the method to name, or to ignore.
                if _like_rows(stacked, rows, extra[key]):
                    stacks[key] = extra[key]
        if lazy:
            rows, heads = [jnp.where(task_gradients.finite(), 0.0, jnp.nan)], task_gradients.heads
        for other in stacks.values():
            rows += _split(stacked, other)[0]
        # Those of the step before may hold anything for a task that was absent then.
        rows += [losses for key, losses in numbers.items() if key != "next_losses"]
        finite = _finite_tasks(num_tasks, rows)
        bad = mask & ~finite
        let_through = state.consecutive >= jnp.asarray(max_consecutive, jnp.int32)
        dropped = bad & ~let_through

        if policy == "drop_task":
            task_mask = mask & ~dropped

            def clean(has_task_axis: bool, leaf: Array) -> Array:
                if has_task_axis:
                    kept = ~along_tasks(dropped, leaf)
                else:
                    kept = jnp.isfinite(leaf) | let_through
                return jnp.where(kept, leaf, jnp.zeros_like(leaf))

            if lazy:
                task_gradients = task_gradients.masked(~dropped, lambda head: clean(False, head))
            else:
                task_gradients = jax.tree.map(clean, stacked, task_gradients)
            for key, other in stacks.items():
                stacks[key] = jax.tree.map(clean, stacked, other)
            numbers = {key: clean(True, losses) for key, losses in numbers.items()}

        extra |= numbers | stacks
        if task_mask is not None:
            extra["task_mask"] = task_mask
        updates, inner = guarded.update(task_gradients, state.inner, params, **extra)

        broken = ~_all_finite(jax.tree.leaves(updates))
        trouble = jnp.any(bad) | ~_all_finite(heads) | broken
        nothing_left = jnp.any(bad) & ~jnp.any(mask & finite)
        skip = (trouble if policy == "skip_step" else broken | nothing_left) & ~let_through
        return (
            jax.tree.map(lambda u: jnp.where(skip, jnp.zeros_like(u), u), updates),
            SkipNonfiniteState(
                jnp.where(dropped, optax.safe_increment(state.dropped), state.dropped),
                jnp.where(skip, optax.safe_increment(state.skipped), state.skipped),
                jnp.where(trouble, optax.safe_increment(state.consecutive), 0),
                jax.tree.map(lambda old, new: jnp.where(skip, old, new), state.inner, inner),
            ),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _num_tasks_of(method: Any, declared: list[Declaration]) -> int:
    """Returns the number of tasks that the parts of `method` are made for."""
    numbers = {one.num_tasks for one in declared}
    if not numbers:
        raise TypeError(
            "skip_nonfinite: method must be a method of this library or a chain with one, such as "
            f"optax.chain(mtl_optax.mgda(num_tasks), optax.adam(1e-3)), got {method!r}, in which "
            "nothing takes task gradients. For an optimiser alone use optax.apply_if_finite."
        )
    if len(numbers) > 1:
        made_for = ", ".join(f"{one.name} for {one.num_tasks}" for one in declared)
        raise ValueError(
            f"skip_nonfinite: the parts of method are made for different numbers of tasks: "
            f"{made_for}. Guard each by itself."
        )
    return numbers.pop()


def _with_task_axis(num_tasks: int, task_gradients: Any, params: Any | None) -> Any:
    """Says of each leaf whether it is stacked over tasks; heads have their parameter's shape."""
    if params is not None and _structure(params) == _structure(task_gradients):
        return jax.tree.map(
            lambda g, p: jnp.shape(g) == (num_tasks, *jnp.shape(p)), task_gradients, params
        )
    return jax.tree.map(lambda g: jnp.shape(g)[:1] == (num_tasks,), task_gradients)


def _like_rows(stacked: Any, rows: list[Any], tree: Any) -> bool:
    """Whether a tree has the stacked leaves of the task gradients."""
    if not rows or _structure(tree) != _structure(stacked):
        return False
    return [*map(jnp.shape, _split(stacked, tree)[0])] == [*map(jnp.shape, rows)]


def _structure(tree: Any) -> Any:
    return jax.tree.structure(tree)


def _split(stacked: Any, tree: Any) -> tuple[list[Any], list[Any]]:
    """Returns the leaves that have a task axis, and the others."""
    pairs = list(zip(jax.tree.leaves(stacked), jax.tree.leaves(tree), strict=True))
    return [leaf for yes, leaf in pairs if yes], [leaf for yes, leaf in pairs if not yes]


def _finite_tasks(num_tasks: int, leaves: list[Array]) -> Bool[Array, " T"]:
    finite = (jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim))) for x in leaves)
    return functools.reduce(jnp.logical_and, finite, jnp.ones(num_tasks, bool))


def _all_finite(leaves: list[Array]) -> Bool[Array, ""]:
    finite = (jnp.all(jnp.isfinite(x)) for x in leaves)
    return functools.reduce(jnp.logical_and, finite, jnp.ones((), bool))
