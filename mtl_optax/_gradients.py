"""How task gradients are obtained from loss functions."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_optax import _contract
from mtl_optax._tracing import has_operation, is_traced, varying_axes, varying_like


def value_and_task_grads(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    shared: _contract.Shared | None = None,
) -> Callable[..., Any]:
    """Makes a function that returns all task losses and the gradient of each.

    Like `jax.value_and_grad`, for functions that return the losses of T tasks on the same input.
    The forward pass runs once, the backward pass once for each task: vectorised, but one after the
    other on the CPU for large models, where that is faster.

    Args:
        fun: maps `(params, *args, **kwargs)` to losses `(T,)`, or to `(losses, aux)`.
        argnums: which positional argument or arguments to differentiate.
        has_aux: whether `fun` returns `(losses, aux)`, with `aux` any pytree (batch statistics,
            say), computed in the one forward pass.
        shared: which leaves of the differentiated argument all tasks share: a name or several,
            the beginnings of their paths from the root, such as `"trunk"` or `"trunk/kernel"` (a
            leading `params` may be left out; with several `argnums`, the place among them comes
            first); a tree of booleans (a prefix suffices); or a predicate on the leaf's key path,
            as `jax.tree_util.tree_map_with_path` passes it. All by default. For the other
            leaves, the heads, the gradient of the summed loss is computed in a single backward
            pass, at their own size and never T times that.

    Returns:
        A function of the arguments of `fun` that returns `(losses, gradients)`, or
        `((losses, aux), gradients)` if `has_aux`. Shared leaves of the gradients are
        `(T, *p.shape)`, heads `p.shape`. For a sequence `argnums`, a tuple of gradients. Those of
        complex parameters are those of `jax.grad`, the conjugates of what descent subtracts.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> def loss_fn(params, x):
        ...     y = params["trunk"] * x
        ...     return jnp.stack([jnp.sum(params["a"] * y), jnp.sum(params["b"] * y**2)])
        >>> params = {"trunk": jnp.array([1.0, 2.0]), "a": jnp.array(1.0), "b": jnp.array(0.5)}
        >>> losses, gradients = mtl.value_and_task_grads(loss_fn, shared="trunk")(params, 1.0)
        >>> print(losses, gradients["a"], gradients["b"])
        [3.  2.5] 3.0 5.0
        >>> print(gradients["trunk"])
        [[1. 1.]
         [1. 2.]]
    """
    name = "value_and_task_grads"
    _contract.check_callable(name, "fun", fun)
    numbers = _as_tuple(name, argnums)

    @functools.wraps(fun)
    def value_and_grads(*args: Any, **kwargs: Any) -> Any:
        call, params = _differentiated(name, fun, argnums, numbers, args, kwargs)
        losses, aux, gradients = _losses_and_gradients(name, call, params, has_aux, shared)
        return ((losses, aux) if has_aux else losses), gradients

    return value_and_grads


def nnx_value_and_task_grads(
    fun: Callable[..., Any],
    has_aux: bool = False,
    shared: _contract.Shared | None = None,
    *,
    wrt: Any | None = None,
) -> Callable[..., Any]:
    """Makes a function that returns all task losses and the gradients of a Flax NNX model.

    `value_and_task_grads` for models that hold their parameters. What the forward pass changes in
    the model, or in other objects of NNX among the arguments, is changed in them: batch
    statistics, the counts of random streams. Flax is imported when it is called.

    Args:
        fun: maps `(model, *args, **kwargs)` to losses `(T,)`, or to `(losses, aux)`. The model
            that it is given is a copy.
        has_aux: whether `fun` returns `(losses, aux)`.
        shared: which parameters all tasks share, as for `value_and_task_grads`. Paths are those of
            `nnx.state(model, wrt)`.
        wrt: a filter of NNX that says what is differentiated, as for `nnx.Optimizer`; `nnx.Param`
            by default.

    Returns:
        A function of the arguments of `fun` that returns `(losses, gradients)`, or
        `((losses, aux), gradients)` if `has_aux`. The gradients, an `nnx.State`, are for
        `nnx.Optimizer.update`. Shared leaves are `(T, *p.shape)`, heads `p.shape`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> from flax import nnx
        >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> tx = optax.chain(mtl.mgda(2), optax.sgd(0.1))
        >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        >>> loss_fn = lambda model, x, y: jnp.mean((model(x) - y) ** 2, axis=0)
        >>> @nnx.jit
        ... def train_step(model, optimizer, x, y):
        ...     losses, gradients = mtl.nnx_value_and_task_grads(loss_fn)(model, x, y)
        ...     optimizer.update(model, gradients, task_losses=losses)
        ...     return losses
        >>> train_step(model, optimizer, jnp.ones((4, 3)), jnp.ones((4, 2))).shape
        (2,)
    """
    name = "nnx_value_and_task_grads"
    _contract.check_callable(name, "fun", fun)

    @functools.wraps(fun)
    def value_and_grads(model: Any, *args: Any, **kwargs: Any) -> Any:
        from flax import nnx

        is_chosen = nnx.filterlib.to_predicate(nnx.Param if wrt is None else wrt)
        # Arrays among the arguments are no variables, and stay as they are.
        filters = (
            lambda path, x: path[0] == "model" and is_chosen(path[1:], x),
            nnx.Variable,
            ...,
        )
        split: Any = nnx.split
        call = {"model": model, "args": args, "kwargs": kwargs}
        graph, chosen, variables, arrays = split(call, *filters)

        def on_a_copy(params: Any) -> Any:
            chosen = nnx.State({"model": params})
            copy = nnx.merge(graph, chosen, variables, arrays, copy=True)
            out = fun(copy["model"], *copy["args"], **copy["kwargs"])
            losses, aux = split_aux(name, out) if has_aux else (out, None)
            return losses, (aux, split(copy, *filters)[2])

        params = chosen.get("model", {})
        if not jax.tree.leaves(params):
            raise ValueError(
                f"{name}: model must be an nnx.Module with variables that are differentiated "
                f"(wrt={wrt or nnx.Param!r}), got {type(model).__name__}. For a plain tree of "
                "parameters use value_and_task_grads."
            )
        _contract.check_params(name, params)
        losses, (aux, variables), gradients = _losses_and_gradients(
            name, on_a_copy, params, True, shared
        )
        nnx.update(call, variables)
        return ((losses, aux) if has_aux else losses), gradients

    return value_and_grads


def _losses_and_gradients(
    name: str,
    fun: Callable[[Any], Any],
    params: Any,
    has_aux: bool,
    shared: _contract.Shared | None,
) -> tuple[Float[Array, " T"], Any, Any]:
    """Returns the losses, the auxiliary output or None, and the gradients."""
    leaves, structure = jax.tree.flatten(params)
    chosen = [True] * len(leaves)
    if shared is not None:
        chosen = jax.tree.leaves(_contract.shared_leaves(name, shared, params))

    def on_leaves(trunk: list[Any], heads: list[Any]) -> tuple[Any, Any]:
        of_trunk, of_heads = iter(trunk), iter(heads)
        merged = [next(of_trunk) if pick else next(of_heads) for pick in chosen]
        out = fun(jax.tree.unflatten(structure, merged))
        losses, aux = split_aux(name, out) if has_aux else (out, None)
        check_task_losses(name, losses)
        return losses, aux

    trunk = [leaf for leaf, pick in zip(leaves, chosen, strict=True) if pick]
    heads = [leaf for leaf, pick in zip(leaves, chosen, strict=True) if not pick]
    losses, pullback, aux = jax.vjp(on_leaves, trunk, heads, has_aux=True)
    rows = varying_like(jnp.eye(len(losses), dtype=losses.dtype), losses)
    stacked = iter(_for_each_row(lambda row: pullback(row)[0], rows, trunk))
    summed = iter(pullback(jnp.ones_like(losses))[1] if heads else [])
    gradients = jax.tree.unflatten(
        structure, [next(stacked) if pick else next(summed) for pick in chosen]
    )
    return losses, aux, gradients


# Entries of the parameters from which on task gradients are computed one after the other on the
# CPU. Together, XLA lays them out parameters first, and what reads them pays for it: with 3e5 to
# 1e6 parameters whole steps took 1.3 to 4 times as long.
_LARGE = 300_000


# Tasks up to which one backward pass after the other is written out where it has convolutions: XLA
# runs these 15 to 25 times slower in a loop on the CPU. Compiling takes T times as long.
_FEW_TASKS = 16


def _for_each_row(pull: Callable[[Array], Any], rows: Float[Array, "T T"], params: Any) -> Any:
    """Calls `pull` for each row and stacks what it returns."""
    together = for_all_rows(pull)
    if sum(jnp.size(leaf) for leaf in jax.tree.leaves(params)) < _LARGE:
        return together(rows)
    return in_turn(pull, rows, elsewhere=together)


def for_all_rows(pull: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """Makes a function of several rows at once of the pullback of one."""
    if hasattr(jax.lax, "pcast") or not jax.sharding.get_abstract_mesh().manual_axes:
        return jax.vmap(pull)
    # JAX 0.8.1 has no rule for several of the sums over devices that a pullback may end in.
    return functools.partial(jax.lax.map, pull)


def in_turn(
    function: Callable[[Array], Any],
    rows: Float[Array, "T T"],
    elsewhere: Callable[[Array], Any] | None = None,
) -> Any:
    """Calls `function` for one row after the other and stacks the results.

    Args:
        function: a function of a row.
        rows: the rows.
        elsewhere: what serves all rows on other devices than CPUs; a loop by default.
    """
    if not is_traced(rows):
        return _stack([function(row) for row in rows])
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(rows[0])
    structure: Any = jax.tree.structure(shapes)

    def once(row: Array) -> Any:
        return structure.unflatten(jax.core.eval_jaxpr(closed.jaxpr, closed.consts, row))

    def written_out(rows: Array) -> Any:
        results: list[Any] = []
        for row in rows:
            # Begin when the last one has ended, for the sake of memory. What differs from device
            # to device would make the row differ, and the row the results.
            if results and len({*map(varying_axes, jax.tree.leaves((row, results[-1])))}) == 1:
                row, results[-1] = jax.lax.optimization_barrier((row, results[-1]))
            results.append(once(row))
        return _stack(results)

    loop = functools.partial(jax.lax.map, once)
    convolves = has_operation(closed.jaxpr, "conv_general_dilated")
    on_cpu = written_out if convolves and len(rows) <= _FEW_TASKS else loop
    elsewhere = elsewhere or loop
    if on_cpu is elsewhere:
        return loop(rows)
    return jax.lax.platform_dependent(rows, cpu=on_cpu, default=elsewhere)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def per_task_value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    shared: _contract.Shared | None = None,
) -> Callable[..., Any]:
    """Makes a function that returns each task's loss and gradient on a batch of its own.

    For multi-input problems, where every task has its own data: `jax.value_and_grad(fun)`,
    vectorised over tasks.

    Args:
        fun: maps `(params, *task_batch)` to a scalar loss, or to `(loss, aux)`.
        argnums: which positional argument or arguments to differentiate; all tasks see the same.
        has_aux: whether `fun` returns `(loss, aux)`.
        shared: which leaves of the differentiated argument all tasks share, as for
            `value_and_task_grads`; all by default. The other leaves, the heads, must have a
            leading task axis, and `fun` sees its own task's slice of them.

    Returns:
        A function of `(params, *task_batches, **kwargs)`, where every array of the arguments that
        are not differentiated is stacked over tasks on the leading axis. It returns
        `(losses, gradients)`, or `((losses, aux), gradients)`, with losses `(T,)`, `aux` stacked,
        shared leaves of the gradients `(T, *p.shape)`, and heads `p.shape` (each task's slice is
        the gradient of its own loss, and so of the summed loss).

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> def loss_fn(w, batch):
        ...     return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)
        >>> batches = {"x": jnp.ones((3, 8, 2)), "y": jnp.zeros((3, 8))}
        >>> losses, gradients = mtl.per_task_value_and_grad(loss_fn)(jnp.ones(2), batches)
        >>> print(losses, gradients.shape)
        [4. 4. 4.] (3, 2)
    """
    name = "per_task_value_and_grad"
    _contract.check_callable(name, "fun", fun)
    numbers = _as_tuple(name, argnums)

    @functools.wraps(fun)
    def of_one_task(*args: Any, **kwargs: Any) -> Any:
        out = fun(*args, **kwargs)
        loss = split_aux(name, out)[0] if has_aux else out
        if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            raise ValueError(
                f"{name}: the function must return one real scalar, the loss of one task, got "
                f"{jnp.result_type(loss)} of shape {jnp.shape(loss)}. Reduce it with jnp.mean."
            )
        return out

    @functools.wraps(fun)
    def value_and_grads(*args: Any, **kwargs: Any) -> Any:
        _, params = _differentiated(name, fun, argnums, numbers, args, kwargs)
        leaves, structure = jax.tree.flatten(params)
        chosen = [True] * len(leaves)
        if shared is not None:
            chosen = jax.tree.leaves(_contract.shared_leaves(name, shared, params))
        params_axes = jax.tree.unflatten(structure, [None if pick else 0 for pick in chosen])
        axes: list[Any] = [0] * len(args)
        if isinstance(argnums, int):
            axes[numbers[0]] = params_axes
        else:
            for number, part in zip(numbers, params_axes, strict=True):
                axes[number] = part
        _check_task_axis(name, args, axes, kwargs)
        graded = jax.value_and_grad(of_one_task, argnums, has_aux)
        mapped = jax.vmap(lambda a, k: graded(*a, **k), in_axes=(tuple(axes), 0))
        return mapped(args, kwargs)

    return value_and_grads


def _as_tuple(name: str, argnums: int | Sequence[int]) -> tuple[int, ...]:
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not numbers or not all(isinstance(number, int) for number in numbers):
        raise TypeError(f"{name}: argnums must be an int or several, got {argnums!r}.")
    return numbers


def _differentiated(
    name: str,
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    numbers: tuple[int, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Callable[[Any], Any], Any]:
    """Returns `fun` as a function of the differentiated argument(s), and their value."""
    if any(not -len(args) <= number < len(args) for number in numbers):
        raise ValueError(
            f"{name}: argnums={argnums!r} asks for an argument beyond the {len(args)} positional "
            f"ones given to {getattr(fun, '__name__', fun)!r}. Pass it by position."
        )
    params = args[argnums] if isinstance(argnums, int) else tuple(args[n] for n in numbers)
    _contract.check_params(name, params)

    def call(value: Any) -> Any:
        full = list(args)
        for number, part in zip(
            numbers, (value,) if isinstance(argnums, int) else value, strict=True
        ):
            full[number] = part
        return fun(*full, **kwargs)

    return call, params


def split_aux(caller: str, out: Any) -> tuple[Any, Any]:
    """Returns the pair of losses and auxiliary output, or raises if it is none."""
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(
            f"{caller}: with has_aux=True the function must return the pair "
            f"(losses, aux), got {type(out).__name__}."
        )
    return out


def check_task_losses(caller: str, losses: Any) -> None:
    """Raises unless `losses` is a real floating array of shape `(T,)`."""
    shape = getattr(losses, "shape", None)
    if shape is None:
        raise TypeError(
            f"{caller}: the function must return an array of losses of shape "
            f"(num_tasks,), got {type(losses).__name__}. Stack them with jnp.stack, and pass "
            "has_aux=True if it returns (losses, aux)."
        )
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(
            f"{caller}: the function must return one loss per task, shape "
            f"(num_tasks,), got shape {shape}. Stack scalar losses with jnp.stack."
        )
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise TypeError(f"{caller}: the losses must be real floating numbers, got {losses.dtype}.")


def _check_task_axis(
    name: str, args: tuple[Any, ...], axes: list[Any], kwargs: dict[str, Any]
) -> None:
    """Raises unless every mapped array has the same leading task axis."""
    sizes: dict[int, str] = {}
    mapped = [
        (f"argument {number}", arg, axis)
        for number, (arg, axis) in enumerate(zip(args, axes, strict=True))
    ]
    mapped += [(f"argument {key!r}", value, 0) for key, value in kwargs.items()]
    for root, value, axis in mapped:
        leaf_axes = jax.tree.broadcast(axis, value, is_leaf=lambda a: a is None)
        for (path, leaf), leaf_axis in zip(
            jax.tree_util.tree_leaves_with_path(value),
            jax.tree.leaves(leaf_axes, is_leaf=lambda a: a is None),
            strict=True,
        ):
            if leaf_axis is None:
                continue
            where = _contract.leaf_name(root, path)
            if jnp.ndim(leaf) == 0:
                raise ValueError(
                    f"{name}: {where} is a scalar; every task batch must be stacked over tasks on "
                    "the leading axis. Close over what all tasks share."
                )
            sizes.setdefault(jnp.shape(leaf)[0], where)
    if not sizes:
        raise ValueError(f"{name}: no task batch was given, so the number of tasks is not known.")
    if len(sizes) > 1:
        found = ", ".join(f"{where}: {size}" for size, where in sizes.items())
        raise ValueError(
            f"{name}: the leading task axes differ ({found}). Stack one batch per task, padded to "
            "one size, and heads likewise."
        )
