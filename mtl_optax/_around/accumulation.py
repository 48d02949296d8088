"""One step of a method for several micro-batches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from mtl_optax import _checks
from mtl_optax._around.on_shared import by_head
from mtl_optax._complex import accumulator, by_parts
from mtl_optax._frame import declare, init_and_listen
from mtl_optax._precision import at_least_float32
from mtl_optax._tracing import cond, varying_like
from mtl_optax._trees import (
    Shared,
    along_tasks,
    hide_leaves,
    merge_trees,
    shared_leaves,
    split_tree,
    stacked_zeros,
)
from mtl_optax._unstacked import as_stack


class AccumulationState(NamedTuple):
    """What was gathered since the last full step.

    Attributes:
        micro_step: `()` int32, how many micro-batches; zero after a full step.
        present: `(T,)` int32, in how many of them each task was present.
        sums: what is averaged, in float32 or better: task gradients, leaves `(T, *p.shape)` and,
            for heads, `p.shape`.
        argument_sums: the same of what else the method reads, by the names of the arguments: the
            losses, `(T,)`, and query gradients.
        inner: the state of the transformation that follows.
    """

    micro_step: Int[Array, ""]
    present: Int[Array, " T"]
    sums: Any
    argument_sums: dict[str, Any]
    inner: Any


def accumulate_task_gradients(
    num_tasks: int,
    every_k: int,
    *,
    then: optax.GradientTransformation | None = None,
    shared: Shared = True,
    head_tasks: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Averages the task gradients of `every_k` micro-batches before a method sees them.

    What follows is given as `then`, because no member of a chain can keep the members after it
    from running, and moving their states, in the steps between.

    Args:
        num_tasks: the number T of tasks.
        every_k: the number of micro-batches of one step, at least 1.
        then: the method and all that follows: `optax.chain(method, optax.adam(lr))`.
        shared: which leaves are shared, as for `on_shared`, if `then` begins with it; all by
            default.
        head_tasks: which task each head leaf belongs to, a tree of task indices as for `on_shared`;
            an array of indices where a leaf's leading axis runs over tasks. It lets `task_mask`
            work on heads too: without it they are averaged over all micro-batches.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)`, heads `p.shape`, to what
        `then` returns. Every `every_k`-th update is that of `then` on the mean task gradients,
        mean losses and mean query gradients, each task's over the micro-batches where it was
        present (`task_mask`); a task present in none is absent. The others are zero, and the state
        of `then` stands still. So micro-batches of one size train like their union. Give losses,
        if any, with every micro-batch; arguments that `then` does not declare to read are the last
        one's. The state holds T × N numbers, as many again for each stack that `then` can read.

    Example:
        Two micro-batches make one step on their mean:

        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> chain = optax.chain(mtl.mean_tasks(2), optax.sgd(0.5))
        >>> tx = mtl.accumulate_task_gradients(2, every_k=2, then=chain)
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for gradients in (jnp.eye(2), 3 * jnp.eye(2)):
        ...     updates, state = tx.update(gradients, state, params)
        ...     print(updates)
        [0. 0.]
        [-0.5 -0.5]
    """
    name = "accumulate_task_gradients"
    _checks.check_num_tasks(name, num_tasks)
    _checks.check_count(name, "every_k", every_k)
    if then is None:
        raise TypeError(
            f"{name}: then is missing. In a chain the method would run on every micro-batch; give "
            "what follows as then=optax.chain(method, optax.adam(1e-3))."
        )
    _checks.check_optimizer(name, "then", then)
    following = optax.with_extra_args_support(then)

    def init_fn(params: optax.Params) -> AccumulationState:
        _checks.check_arrays(name, params)
        stacked = shared_leaves(name, shared, params)
        trunk, heads = split_tree(stacked, params)
        rows = lambda: stacked_zeros(num_tasks, trunk, accumulator)
        wide = lambda p: jnp.zeros_like(p, dtype=accumulator(p))
        sums = merge_trees(rows(), jax.tree.map(wide, heads))
        losses = lambda: jnp.zeros(num_tasks, at_least_float32(*jax.tree.leaves(params)))
        inner, declared = init_and_listen(following, params)
        reads = frozenset[str]().union(*(one.reads for one in declared))
        declare(name, num_tasks, reads)
        # A transformation that is not ours may read losses without a word.
        numbers = [key for key in _checks.NUMBERS if key in reads | {"task_losses"}]
        argument_sums = {key: varying_like(losses(), params) for key in numbers}
        argument_sums |= {key: rows() for key in _checks.STACKS if key in reads}
        return AccumulationState(
            jnp.zeros((), jnp.int32),
            varying_like(jnp.zeros(num_tasks, jnp.int32), params),
            sums,
            argument_sums,
            inner,
        )

    def update_fn(
        task_gradients: optax.Updates,
        state: AccumulationState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, AccumulationState]:
        task_gradients = as_stack(task_gradients)
        _checks.check_extra(name, extra)
        stacked = shared_leaves(name, shared, task_gradients)
        trunk_params = None if params is None else split_tree(stacked, params)[0]
        trunk, heads = split_tree(stacked, task_gradients)
        _checks.check_task_gradients(name, num_tasks, trunk, trunk_params)
        _check_shapes("task_gradients", task_gradients, state.sums)
        mask = _checks.check_mask(name, num_tasks, task_mask)
        present = state.present + mask.astype(jnp.int32)
        micro_step = state.micro_step + 1

        def by_leaf(values: Array, unknown: Array) -> Any:
            """Lays values of the tasks along the leaves."""
            if head_tasks is None:
                of_heads = jax.tree.map(lambda _: unknown, heads)
            else:
                of_heads = by_head(name, values, heads, head_tasks)
            return merge_trees(jax.tree.map(lambda g: along_tasks(values, g), trunk), of_heads)

        def add(total: Array, new: Array, kept: Array) -> Array:
            return total + jnp.where(kept, new.astype(total.dtype), jnp.zeros_like(total))

        def mean(total: Array, like: Array, count: Array) -> Array:
            return by_parts(lambda part: part / count.astype(part.dtype), total).astype(like.dtype)

        number = jnp.maximum(present, 1)
        leaf_mask, leaf_number = by_leaf(mask, jnp.array(True)), by_leaf(number, micro_step)
        sums = jax.tree.map(add, state.sums, task_gradients, leaf_mask)
        means = jax.tree.map(mean, sums, task_gradients, leaf_number)
        argument_sums = dict(state.argument_sums)
        for key in argument_sums:
            if extra.get(key) is None:
                continue
            if key in _checks.NUMBERS:
                losses = _checks.check_losses(name, num_tasks, extra[key], key)
                argument_sums[key] = add(argument_sums[key], losses, mask)
                extra[key] = mean(argument_sums[key], losses, number)
                continue
            given = hide_leaves(task_gradients, as_stack(extra[key]))
            _check_structure(key, given, state.sums)
            query, unread = split_tree(stacked, given)
            _check_shapes(key, query, argument_sums[key])
            kept, counts = (split_tree(stacked, x)[0] for x in (leaf_mask, leaf_number))
            argument_sums[key] = jax.tree.map(add, argument_sums[key], query, kept)
            query = jax.tree.map(mean, argument_sums[key], query, counts)
            extra[key] = merge_trees(query, unread)

        def step() -> tuple[optax.Updates, Any]:
            return following.update(means, state.inner, params, task_mask=present > 0, **extra)

        def wait() -> tuple[optax.Updates, Any]:
            return jax.tree.map(jnp.zeros_like, shapes), state.inner

        shapes, _ = jax.eval_shape(step)
        full = micro_step == jnp.asarray(every_k, jnp.int32)
        updates, inner = cond(full, step, wait)
        gathered = AccumulationState(micro_step, present, sums, argument_sums, inner=())
        emptied = jax.tree.map(lambda x: jnp.where(full, jnp.zeros_like(x), x), gathered)
        return updates, emptied._replace(inner=inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_structure(argument: str, tree: Any, sums: Any) -> None:
    found: Any = jax.tree.structure(tree)
    wanted: Any = jax.tree.structure(sums)
    if found != wanted:
        raise ValueError(
            f"accumulate_task_gradients: {argument} must have the tree structure of the params "
            f"given to init, got {found}, wanted {wanted}."
        )


def _check_shapes(argument: str, tree: Any, sums: Any) -> None:
    _check_structure(argument, tree, sums)
    for (path, leaf), total in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(sums), strict=True
    ):
        if jnp.shape(leaf) != total.shape:
            raise ValueError(
                f"accumulate_task_gradients: {_checks.leaf_name(argument, path)} has shape "
                f"{jnp.shape(leaf)}, wanted {total.shape}. Shared leaves are stacked over tasks, "
                "heads are not; say which with shared=..., as for on_shared."
            )
