"""The contract every method shares: types, trace-time checks and the texts of their errors.

All checks look at shapes, dtypes and Python numbers only, so under `jax.jit` they run once, while
the step is traced, and leave nothing in the compiled program.
"""

import contextvars
import difflib
import itertools
import math
import numbers
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key

KeyPath = tuple[Any, ...]
Shared: TypeAlias = Any | str | Collection[str] | Callable[[KeyPath], bool]
"""Which leaves are chosen: names, a tree of booleans, or a predicate on a leaf's key path."""


class Declaration(NamedTuple):
    """What a transformation of task gradients says of itself when its state is made.

    Attributes:
        name: its factory's name.
        num_tasks: the number T of tasks it is made for.
        reads: the extra arguments of `update` that it cannot do without.
    """

    name: str
    num_tasks: int
    reads: frozenset[str]


_HEARD: contextvars.ContextVar[list[Declaration] | None] = contextvars.ContextVar(
    "declarations", default=None
)


def declare(name: str, num_tasks: int, reads: Iterable[str] = ()) -> None:
    """Tells whoever stands around, through any chain, what `init` was called for."""
    heard = _HEARD.get()
    if heard is not None:
        heard.append(Declaration(name, num_tasks, frozenset(reads)))


def init_and_listen(
    transformation: optax.GradientTransformation, params: optax.Params
) -> tuple[optax.OptState, list[Declaration]]:
    """Returns the state of `transformation`, and what its parts declared while it was made."""
    heard: list[Declaration] = []
    token = _HEARD.set(heard)
    try:
        return transformation.init(params), heard
    finally:
        _HEARD.reset(token)


_HOW_TO_STACK = (
    "Get them from mtl_optax.value_and_task_grads(loss_fn)(params, ...), or stack one gradient "
    "tree per task with jax.tree.map(lambda *g: jnp.stack(g), *gradients)."
)
_MIXED = (
    "Of a tree in which the shared leaves alone are stacked, mtl_optax.on_shared(method, shared) "
    "shows the method those."
)
_AROUND_A_METHOD = (
    "If optax.MultiSteps stands around the method, use mtl_optax.accumulate_task_gradients instead."
)


def check_num_tasks(method: str, num_tasks: int) -> None:
    """Raises unless `num_tasks` is a Python integer of at least one."""
    if isinstance(num_tasks, bool) or not isinstance(num_tasks, numbers.Integral):
        raise TypeError(
            f"{method}: num_tasks must be a Python int, got {num_tasks!r}. It fixes array shapes; "
            'with optax.inject_hyperparams name it in static_args=("num_tasks",).'
        )
    if num_tasks < 1:
        raise ValueError(f"{method}: num_tasks must be at least 1, got {num_tasks}.")


def check_number(
    method: str,
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raises if the Python number `value` lies outside its interval; arrays pass unseen.

    `optax.inject_hyperparams` hands hyper-parameters over as traced arrays, whose values are not
    known while tracing.
    """
    if isinstance(value, jax.Array):
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{method}: {name} must be a real number, got {value!r}.")
    number = float(value)
    bottom, top = -math.inf if low is None else low, math.inf if high is None else high
    below = number <= bottom if open_low or low is None else number < bottom
    above = number >= top if open_high or high is None else number > top
    if below or above or number != number:
        left = "(-inf" if low is None else f"{'(' if open_low else '['}{low:g}"
        right = "inf)" if high is None else f"{high:g}{')' if open_high else ']'}"
        raise ValueError(f"{method}: {name} must lie in {left}, {right}, got {value!r}.")


def check_count(method: str, name: str, value: Any) -> None:
    """Raises if `value` is neither a Python integer of at least one nor an array."""
    if isinstance(value, jax.Array):
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{method}: {name} must be an integer, got {value!r}.")
    if value < 1:
        raise ValueError(f"{method}: {name} must be at least 1, got {value}.")


def check_vector(
    method: str, name: str, value: Any | None, num_tasks: int, *, positive: bool = False
) -> Float[Array, " T"] | None:
    """Returns `value` as an array `(num_tasks,)`, and None for None; raises if it is not one.

    The sign is checked where the numbers are known, and not where they are traced.
    """
    if value is None:
        return None
    known = not isinstance(value, jax.Array)
    try:
        array = jnp.asarray(value, jnp.float32 if known else None)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{method}: {name} must hold {num_tasks} real numbers, got {value!r}."
        ) from error
    if array.shape != (num_tasks,):
        raise ValueError(
            f"{method}: {name} has shape {array.shape}, wanted ({num_tasks},): one number per task."
        )
    if known and not np.all(np.isfinite(np.asarray(value, np.float64))):
        raise ValueError(f"{method}: {name} must be finite, got {value!r}.")
    if known and positive and not np.all(np.asarray(value) > 0):
        raise ValueError(f"{method}: {name} must be positive, got {value!r}.")
    return array


def check_choice(method: str, name: str, value: object, choices: Sequence[str]) -> None:
    """Raises unless `value` is one of `choices`, suggesting the nearest."""
    if value not in choices:
        raise ValueError(
            f"{method}: {name} must be one of {', '.join(map(repr, choices))}, got {value!r}."
            f"{did_you_mean(value, choices)}"
        )


def check_callable(caller: str, name: str, value: object) -> None:
    """Raises unless `value` can be called."""
    if not callable(value):
        raise TypeError(f"{caller}: {name} must be a function, got {value!r}.")


def check_optimizer(method: str, name: str, optimizer: object) -> None:
    """Raises unless `optimizer` has the `init` and `update` of an optax transformation."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"{method}: {name} must be an optax.GradientTransformation such as "
            f"optax.adam(1e-3), got {optimizer!r}."
        )


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """Returns a sentence that names the choice nearest to `value`, or nothing."""
    nearest = difflib.get_close_matches(str(value), list(choices), n=1, cutoff=0.4)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def leaf_name(root: str, path: KeyPath) -> str:
    """Returns how a user would write the leaf at `path` of the tree called `root`."""
    return root + jax.tree_util.keystr(path)


# What methods read beyond the gradients, and the words that each name is made of. The order
# matters to a name that could be meant for several.
_ARGUMENTS = {
    "task_losses": {"loss"},
    "task_mask": {"mask"},
    "query_gradients": {"query", "gradient"},
    "second_query_gradients": {"second", "query", "gradient"},
    "next_losses": {"next", "loss"},
}
_TELLING_WORDS = {"loss", "mask", "query"}
_WORDS = {
    "losses": "loss",
    "masks": "mask",
    "queries": "query",
    "grad": "gradient",
    "grads": "gradient",
    "gradients": "gradient",
}


def check_extra(method: str, extra: Mapping[str, Any]) -> None:
    """Raises if an extra argument is a near miss of one that methods read; others pass.

    `value`, `grad`, `value_fn` and the like are for the optimiser in the same chain, and `loss` is
    Optax's own example of an argument that a user's transformation reads.
    """
    for given in extra:
        known = given in _ARGUMENTS or given == "loss"
        meant = None if known else _meant_argument(given)
        if meant is not None:
            raise ValueError(
                f"{method}: no method reads an argument {given!r}. Did you mean {meant!r}? If it "
                "is for another transformation of the chain, give it another name."
            )


def _meant_argument(given: str) -> str | None:
    """Returns the argument that a name is a near miss of: by its words, or by its letters."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", given).lower()
    words = {_WORDS.get(word, word) for word in re.findall("[a-z]+", snake)}
    words -= {"task", "tasks", "per"}
    for name, wanted in _ARGUMENTS.items():
        if words <= wanted and words & _TELLING_WORDS:
            return name
    near = difflib.get_close_matches(snake, _ARGUMENTS, n=1, cutoff=0.8)
    return near[0] if near else None


class Contract:
    """What one transformation of task gradients is made for, and what it checks at every step.

    It remembers the shapes of the parameters that `init` was given, so that an `update` that is
    not given them is checked against those.
    """

    def __init__(self, method: str, num_tasks: int, reads: Iterable[str] = ()) -> None:
        self._method, self._num_tasks, self._reads = method, num_tasks, frozenset(reads)
        self._seen: dict[Any, set[tuple[tuple[int, ...], ...]]] = {}

    def start(self, params: Any) -> None:
        """Is called by every `init`."""
        check_arrays(self._method, params)
        declare(self._method, self._num_tasks, self._reads)
        leaves, structure = jax.tree.flatten(params)
        shapes = tuple(tuple(getattr(leaf, "shape", ())) for leaf in leaves)
        self._seen.setdefault(structure, set()).add(shapes)

    def check_step(self, task_gradients: Any, params: Any | None, extra: Mapping[str, Any]) -> None:
        """Checks what every `update` is given."""
        check_extra(self._method, extra)
        check_task_gradients(self._method, self._num_tasks, task_gradients, params)
        if params is None:
            told = self._told_by_init(task_gradients)
            check_task_gradients(self._method, self._num_tasks, task_gradients, told)

    def _told_by_init(self, task_gradients: Any) -> Any | None:
        """Returns the parameters' shapes if the gradients have them, and so are not stacked.

        Warns where nothing tells: gradients of the parameters' own shapes pass, and lose their
        leading axis, wherever that happens to be `num_tasks`. Ranks decide, because inside
        `jax.shard_map` the shapes are those of a piece.
        """
        structure: Any
        leaves, structure = jax.tree.flatten(task_gradients)
        shapes = [jnp.shape(leaf) for leaf in leaves]
        seen = self._seen.get(structure, set())
        if any(all(len(g) == len(p) + 1 for g, p in zip(shapes, of, strict=True)) for of in seen):
            return None
        for of in seen:
            if any(g == p for g, p in zip(shapes, of, strict=True)):
                return structure.unflatten(jax.ShapeDtypeStruct(p, jnp.float32) for p in of)
        warn(
            f"{self._method}: params is missing, and init of this transformation has seen none of "
            "this structure and these ranks. So nothing tells task gradients from gradients of "
            f"one loss whose leading axes happen to be num_tasks={self._num_tasks}. Pass params: "
            "tx.update(task_gradients, state, params)."
        )
        return None


_BETWEEN = {"contextlib", "functools", "jax", "jaxtyping", "mtl_optax", "optax"}


def warn(message: str) -> None:
    """Warns at the user's line, where Python shows it once, whatever lies between."""
    frames = (frame for frame, _ in traceback.walk_stack(sys._getframe(1)))
    packages = (str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames)
    level = next((n for n, package in enumerate(packages, 2) if package not in _BETWEEN), 2)
    warnings.warn(message, stacklevel=level)


def check_task_gradients(
    method: str,
    num_tasks: int,
    task_gradients: Any,
    params: Any | None,
    argument: str = "task_gradients",
) -> None:
    """Raises unless every leaf is a floating array of shape `(num_tasks, *p.shape)`."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(task_gradients)
    if not leaves:
        raise ValueError(
            f"{method}: {argument} has no array leaves, got {task_gradients!r}. {_HOW_TO_STACK}"
        )
    wanted: list[tuple[int, ...] | None] = [None] * len(leaves)
    if params is not None:
        wanted_structure = jax.tree_util.tree_structure(params)
        if wanted_structure != structure:  # type: ignore[operator]
            raise ValueError(
                f"{method}: {argument} and params must have the same tree structure, got "
                f"{structure} and {wanted_structure}.{_unpaired(argument, leaves, params)}"
            )
        wanted = [jnp.shape(p) for p in jax.tree.leaves(params)]
    for (path, leaf), shape in zip(leaves, wanted, strict=True):
        name = leaf_name(argument, path)
        check_floating(method, name, leaf)
        if shape is not None and leaf.shape != (num_tasks, *shape):
            mend = _HOW_TO_STACK
            if leaf.shape == shape:
                ranks = zip(leaves, wanted, strict=True)
                mixed = any(jnp.ndim(g) > len(p or ()) for (_, g), p in ranks)
                mend = _MIXED if mixed else f"{_HOW_TO_STACK} {_AROUND_A_METHOD}"
            raise ValueError(
                f"{method}: {name} has shape {leaf.shape}, wanted {(num_tasks, *shape)}: one "
                f"gradient per task, stacked on the leading axis. {mend}"
            )
        if leaf.ndim == 0 or leaf.shape[0] != num_tasks:
            raise ValueError(
                f"{method}: {name} has shape {leaf.shape}, wanted a leading axis of num_tasks="
                f"{num_tasks}: one gradient per task. {_HOW_TO_STACK}"
            )


def _unpaired(argument: str, leaves: Sequence[tuple[KeyPath, Any]], params: Any) -> str:
    """Returns a sentence that names a leaf which only the one or the other tree has, if any."""
    ours = {path: argument for path, _ in leaves}
    theirs = {path: "params" for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    alone = [path for path in (theirs | ours) if (path in ours) != (path in theirs)]
    names = [leaf_name((theirs | ours)[path], path) for path in alone]
    return f" Only one of them has {_some(names)}." if names else ""


def check_stack(caller: str, argument: str, tree: Any) -> int:
    """Returns T, the leading axis that all leaves share, or raises if they do not."""
    leaves = jax.tree.leaves(tree)
    if not leaves or not getattr(leaves[0], "shape", ()):
        raise ValueError(
            f"{caller}: {argument} must have leaves of shape (T, *p.shape), got {tree!r}. "
            f"{_HOW_TO_STACK}"
        )
    num_tasks = leaves[0].shape[0]
    check_task_gradients(caller, num_tasks, tree, None, argument)
    return num_tasks


def check_params(caller: str, params: Any) -> None:
    """Raises unless there are leaves, and every one can be differentiated."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"{caller}: params has no array leaves to differentiate, got {params!r}.")
    check_arrays(caller, params)
    for path, leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(
                f"{caller}: {leaf_name('params', path)} has dtype "
                f"{jnp.result_type(leaf)}; gradients need floating or complex parameters. Keep "
                "other values out of the differentiated argument."
            )


def check_arrays(caller: str, params: Any) -> None:
    """Raises unless every leaf is an array or a number."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not isinstance(leaf, numbers.Number) and not hasattr(leaf, "dtype"):
            raise TypeError(
                f"{caller}: {leaf_name('params', path)} is no array but {type(leaf).__name__} "
                f"{leaf!r}. Differentiate the arrays alone: in Equinox, params, static = "
                "eqx.partition(model, eqx.is_inexact_array), and eqx.combine(params, static) in "
                "the loss function."
            )


def check_losses(method: str, num_tasks: int, task_losses: Any | None) -> Float[Array, " T"]:
    """Returns the task losses in float32 (float64 stays), or raises if missing or misshapen."""
    if task_losses is None:
        raise ValueError(
            f"{method}: task_losses is missing, and this method reads it. Call "
            "tx.update(task_gradients, state, params, task_losses=losses) with losses of shape "
            f"({num_tasks},)."
        )
    check_real_array(method, "task_losses", task_losses)
    if task_losses.shape != (num_tasks,):
        raise ValueError(
            f"{method}: task_losses has shape {task_losses.shape}, wanted ({num_tasks},): one "
            "scalar loss per task, in the order of the task gradients."
        )
    return jnp.asarray(task_losses, at_least_float32(task_losses))


def check_mask(
    method: str, num_tasks: int, task_mask: Any | None, argument: str = "task_mask"
) -> Bool[Array, " T"]:
    """Returns the mask of the present tasks, all of them where `task_mask` is None."""
    if task_mask is None:
        return jnp.ones(num_tasks, bool)
    if not hasattr(task_mask, "dtype") or task_mask.dtype != bool:
        raise TypeError(
            f"{method}: {argument} must be a boolean array of shape ({num_tasks},), True for a "
            f"task that is present, got {task_mask!r}."
        )
    if task_mask.shape != (num_tasks,):
        raise ValueError(
            f"{method}: {argument} has shape {task_mask.shape}, wanted ({num_tasks},)."
        )
    return jnp.asarray(task_mask)


def check_array(method: str, name: str, value: Any) -> None:
    """Raises unless `value` is an array."""
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        raise TypeError(
            f"{method}: {name} must be an array, got {type(value).__name__} {value!r}. "
            "Make it one with jnp.asarray or jnp.stack."
        )


def check_floating(method: str, name: str, value: Any) -> None:
    """Raises unless `value` is an array of floating numbers, real or complex."""
    check_array(method, name, value)
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        raise TypeError(
            f"{method}: {name} must have a floating dtype, got {value.dtype}. "
            "Convert it with .astype(jnp.float32)."
        )


def check_real_array(method: str, name: str, value: Any) -> None:
    """Raises unless `value` is an array of real floating numbers."""
    check_floating(method, name, value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"{method}: {name} must have a real floating dtype, got {value.dtype}. Take jnp.real "
            "of it, if its imaginary part is zero."
        )


def at_least_float32(*arrays: Any) -> jnp.dtype[Any]:
    """Returns the real dtype to compute in: float64 if any array has its digits, else float32."""
    double = (jnp.float64, jnp.complex128)
    wide = any(jnp.result_type(array) in double for array in arrays)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def as_key(method: str, key: Any) -> Key[Array, ""]:
    """Returns a typed key from an integer seed or from a typed key."""
    if isinstance(key, jax.Array):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            return key
        if key.ndim == 0:  # optax.inject_hyperparams turns an integer seed into a float array.
            return jax.random.key(key.astype(jnp.uint32))
    elif isinstance(key, numbers.Integral) and not isinstance(key, bool):
        return jax.random.key(int(key))
    raise TypeError(
        f"{method}: key must be an int seed or a typed key from jax.random.key(seed), got {key!r}."
    )


def shared_leaves(caller: str, shared: Shared, tree: Any, argument: str = "shared") -> Any:
    """Returns a tree of Python bools shaped like `tree`: True where a leaf is shared.

    Args:
        caller: the public function to name in errors.
        shared: a name or several, each the beginning of a leaf's path from the root in whole
            components, `"trunk"` or `"trunk/kernel"`, without the leading `params` of Linen; a
            tree of booleans (a prefix of `tree` suffices); or a predicate on the key path that
            `jax.tree_util.tree_map_with_path` passes.
        tree: the parameters, or anything of their structure.
        argument: what the caller's users know `shared` as.
    """
    structure: Any = jax.tree.structure(tree)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    names = _as_names(shared)
    mask: Any
    if names:
        mask = structure.unflatten(_named_leaves(caller, argument, names, paths, tree))
    elif callable(shared) and not _is_tree(shared, tree):
        asked = [bool(ask(caller, argument, shared, path)) for path in paths]
        mask = structure.unflatten(asked)
    else:
        _check_booleans(caller, argument, shared)
        try:
            mask = jax.tree.map(
                lambda chosen, part: jax.tree.map(lambda _: bool(chosen), part), shared, tree
            )
        except ValueError as error:
            raise ValueError(
                f"{caller}: {argument} must be a tree of booleans with the structure of params, a "
                f"name or several, or a predicate on the leaf's key path. {error}"
            ) from error
    if not any(jax.tree.leaves(mask)):
        raise ValueError(
            f"{caller}: {argument} selects no leaf of params "
            f"({_some(leaf_name('params', path) for path in paths)}). A predicate receives the key "
            "path of jax.tree_util.tree_map_with_path; jax.tree_util.keystr(path) is its text. "
            f'Names fit every kind of tree: {argument}="trunk".'
        )
    return mask


def ask(caller: str, argument: str, function: Callable[[KeyPath], Any], path: KeyPath) -> Any:
    """Returns what a user's function says of a leaf, or raises an error that names both."""
    try:
        return function(path)
    except Exception as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise ValueError(
            f"{caller}: {argument}, the function {name}, raised {type(error).__name__} ({error}) "
            f"at {leaf_name('params', path)}. It gets the key path of "
            "jax.tree_util.tree_map_with_path, whose entries depend on the kind of tree; "
            "jax.tree_util.keystr(path, simple=True, separator='/') is its plain text, "
            f"{plain_path(path)!r} here."
        ) from error


def plain_path(path: KeyPath) -> str:
    """Returns the keys of a leaf's path alone, such as `trunk/kernel`, for any kind of tree."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _as_names(shared: Any) -> list[str]:
    """Returns the names, one or several, that `shared` consists of; none if it is no such thing."""
    if isinstance(shared, str):
        return [shared]
    several = list(shared) if isinstance(shared, list | tuple | set | frozenset) else []
    return several if all(isinstance(name, str) for name in several) else []


def _named_leaves(
    caller: str, argument: str, names: Sequence[str], paths: Sequence[KeyPath], tree: Any
) -> list[bool]:
    """Returns for each path whether one of the names is its beginning; each must be of some."""
    known = [_components(path) for path in paths]
    hidden = [
        _components(path)
        for path, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_hidden)
        if is_hidden(node)
    ]
    chosen = [False] * len(paths)
    for name in names:
        parts = tuple(name.split("/"))
        found = [_begins(path, parts) for path in known]
        # A leaf that a wrapper hides, or a branch of such, is known by its name all the same.
        if not any(found) and not any(_begins(h, parts) or _begins(parts, h) for h in hidden):
            candidates = {
                "/".join(path[:n]): None for path in known for n in range(1, len(path) + 1)
            }
            raise ValueError(
                f"{caller}: {argument}={name!r} names no leaf of params "
                f"({_some(map(plain_path, paths))}). A name is the beginning of a leaf's path from "
                f"the root, in whole components.{did_you_mean(name, candidates)}"
            )
        chosen = [a or b for a, b in zip(chosen, found, strict=True)]
    return chosen


def _components(path: KeyPath) -> tuple[str, ...]:
    """Returns the keys of a path as text; one that is a path itself, as Haiku's, in its parts."""
    return tuple(plain_path(path).split("/"))


def _begins(path: tuple[str, ...], start: tuple[str, ...]) -> bool:
    """Whether a path begins so, at its root or, if that is Linen's `params`, behind it."""
    inside = path[1:] if path[0] == "params" else path
    return start in (path[: len(start)], inside[: len(start)])


def _is_tree(value: Any, like: Any) -> bool:
    """Whether a value is a tree of booleans, or has the structure for one, whatever it may do.

    A module of booleans can be called as its model can, and is no predicate for that.
    """
    if jax.tree_util.all_leaves([value]):
        return False
    leaves = jax.tree.leaves(value)
    if leaves and all(map(_is_boolean, leaves)):
        return True
    try:
        jax.tree.map(lambda _, part: None, value, like)
    except ValueError:
        return False
    return True


def _is_boolean(leaf: Any) -> bool:
    if isinstance(leaf, jax.core.Tracer):
        return False
    return isinstance(leaf, bool | np.bool_) or (
        isinstance(leaf, np.ndarray | jax.Array) and leaf.shape == () and leaf.dtype == np.bool_
    )


def _check_booleans(caller: str, argument: str, tree: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not _is_boolean(leaf):
            raise TypeError(
                f"{caller}: {leaf_name(argument, path)} must be a boolean, known while tracing, "
                f"got {leaf!r}. {argument} is a tree of booleans with the structure of params, a "
                "name or several, or a predicate on the leaf's key path."
            )


def _some(names: Iterable[str]) -> str:
    """Returns the first few of some names, as a list."""
    first = list(itertools.islice(names, 5))
    return ", ".join([*first[:4], *(["..."] if len(first) > 4 else [])])


def is_hidden(node: Any) -> bool:
    """Whether a node is the placeholder of a leaf that belongs to another part of the tree."""
    return isinstance(node, optax.MaskedNode)


def hide_leaves(like: Any, tree: Any) -> Any:
    """Puts the placeholders of `like` for the leaves of `tree`; another structure stays as it is.

    `optax.masked` and `on_shared` hide leaves of gradients and params, not of extra arguments.
    """
    try:
        return jax.tree.map(lambda a, b: a if is_hidden(a) else b, like, tree, is_leaf=is_hidden)
    except ValueError:
        return tree


def layer_names(caller: str, tree: Any, group: Callable[[KeyPath], Any] | None) -> list[str]:
    """Returns the layer that each leaf belongs to, in the order of the leaves.

    Args:
        caller: the public function to name in errors.
        tree: the parameters, or anything of their structure.
        group: maps a leaf's key path to the name of its layer; by default the path of its parent,
            so that the kernel and the bias of a layer belong together.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    if group is None:
        return [jax.tree_util.keystr(path[:-1]) for path in paths]
    return [str(ask(caller, "group", group, path)) for path in paths]
