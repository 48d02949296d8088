"""Checks that run while a step is traced, and the texts of their errors.

All look at shapes, dtypes and Python numbers only, so under `jax.jit` they run once, and leave
nothing in the compiled program.
"""

import difflib
import itertools
import math
import numbers
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from mtl_optax._precision import at_least_float32

KeyPath = tuple[Any, ...]


_HOW_TO_STACK = (
    "Get them from mtl_optax.value_and_task_grads(loss_fn)(params, ...), or stack one gradient "
    "tree per task with jax.tree.map(lambda *g: jnp.stack(g), *gradients)."
)
_MIXED = (
    "Of a tree in which the shared leaves alone are stacked, mtl_optax.on_shared(method, shared) "
    "shows the method those."
)
_UNCOMBINED = (
    " Added to it, it would make the parameter grow. No method has combined these task gradients: "
    "none is in the chain; or it has combine=False, and no mtl_optax.sum_tasks follows; or it is "
    "inside optax.masked, optax.partition or optax.selective_transform and was not given the leaf. "
    "Put it before these; freeze with optax.chain(optax.freeze(mask), method, optimizer)."
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


def check_count(method: str, name: str, value: Any, *, low: int = 1) -> None:
    """Raises if `value` is neither a Python integer of at least `low` nor an array."""
    if _integer(method, name, value, unseen=low) < low:
        raise ValueError(f"{method}: {name} must be at least {low}, got {value}.")


def check_task(method: str, name: str, value: Any, num_tasks: int) -> None:
    """Raises if `value` is neither the number of a task, from 0, nor an array."""
    if not 0 <= _integer(method, name, value, unseen=0) < num_tasks:
        raise ValueError(
            f"{method}: {name} must be the number of a task, from 0 to {num_tasks - 1}, got "
            f"{value}."
        )


def _integer(method: str, name: str, value: Any, unseen: int) -> int:
    """Returns a Python integer, or `unseen` for an array; raises for anything else."""
    if isinstance(value, jax.Array):
        return unseen
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{method}: {name} must be an integer, got {value!r}.")
    return int(value)


def check_flag(method: str, name: str, value: object) -> None:
    """Raises unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{method}: {name} must be True or False, got {value!r}.")


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
        array = jnp.asarray(np.asarray(value, np.float64) if known else value)
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


def check_size(method: str, name: str, value: Any) -> None:
    """Raises unless `value` is a Python integer of at least one: it fixes shapes."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"{method}: {name} must be a Python int, which fixes shapes, got {value!r}."
        )
    if int(value) < 1:
        raise ValueError(f"{method}: {name} must be at least 1, got {value}.")


def check_preference(method: str, value: Any, num_tasks: int) -> Float[Array, " T"]:
    """Returns a preference `(num_tasks,)`, or raises if it is none or, where known, all zeros."""
    array = check_vector(method, "preference", value, num_tasks)
    if array is None:
        raise TypeError(f"{method}: preference must hold {num_tasks} real numbers, got None.")
    if not isinstance(value, jax.Array) and not np.any(np.asarray(value)):
        raise ValueError(f"{method}: preference must not be all zeros, got {value!r}.")
    return array


def check_key(method: str, key: Any) -> Key[Array, ""]:
    """Returns a typed key from an integer seed or from a typed key, or raises."""
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


class Argument(NamedTuple):
    """An argument of `update` that methods read beyond the gradients.

    Attributes:
        words: what its name is made of.
        form: a stack of task gradients, numbers `(T,)`, or the mask.
    """

    words: set[str]
    form: Literal["stack", "numbers", "mask"]


# The order matters to a name that could be meant for several.
_ARGUMENTS = {
    "task_losses": Argument({"loss"}, "numbers"),
    "task_mask": Argument({"mask"}, "mask"),
    "query_gradients": Argument({"query", "gradient"}, "stack"),
    "second_query_gradients": Argument({"second", "query", "gradient"}, "stack"),
    "next_losses": Argument({"next", "loss"}, "numbers"),
}
STACKS = tuple(name for name, argument in _ARGUMENTS.items() if argument.form == "stack")
NUMBERS = tuple(name for name, argument in _ARGUMENTS.items() if argument.form == "numbers")
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
        if words <= wanted.words and words & _TELLING_WORDS:
            return name
    near = difflib.get_close_matches(snake, _ARGUMENTS, n=1, cutoff=0.8)
    return near[0] if near else None


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
    leaves = jax.tree_util.tree_leaves_with_path(task_gradients)
    if not leaves:
        raise ValueError(
            f"{method}: {argument} has no array leaves, got {task_gradients!r}. {_HOW_TO_STACK}"
        )
    wanted: list[tuple[int, ...] | None] = [None] * len(leaves)
    if params is not None:
        _check_structure(method, argument, task_gradients, params)
        wanted = [jnp.shape(p) for p in jax.tree.leaves(params)]
    for (path, leaf), shape in zip(leaves, wanted, strict=True):
        name = leaf_name(argument, path)
        check_floating(method, name, leaf)
        if shape is not None and leaf.shape != (num_tasks, *shape):
            hint = _HOW_TO_STACK
            if leaf.shape == shape:
                ranks = zip(leaves, wanted, strict=True)
                mixed = any(jnp.ndim(g) > len(p or ()) for (_, g), p in ranks)
                hint = _MIXED if mixed else f"{_HOW_TO_STACK} {_AROUND_A_METHOD}"
            raise ValueError(
                f"{method}: {name} has shape {leaf.shape}, wanted {(num_tasks, *shape)}: one "
                f"gradient per task, stacked on the leading axis. {hint}"
            )
        if leaf.ndim == 0 or leaf.shape[0] != num_tasks:
            raise ValueError(
                f"{method}: {name} has shape {leaf.shape}, wanted a leading axis of num_tasks="
                f"{num_tasks}: one gradient per task. {_HOW_TO_STACK}"
            )


def check_same_shapes(method: str, task_gradients: Any, params: Any) -> None:
    """Raises unless the parameters are those that task gradients, not stacked, were gathered of."""
    leaves = jax.tree_util.tree_leaves_with_path(task_gradients)
    _check_structure(method, "task_gradients", task_gradients, params)
    for (path, leaf), param in zip(leaves, jax.tree.leaves(params), strict=True):
        if leaf.shape != jnp.shape(param):
            raise ValueError(
                f"{method}: {leaf_name('task_gradients', path)} was gathered for a parameter of "
                f"shape {leaf.shape}, and params has one of {jnp.shape(param)} there."
            )


def check_like_params(caller: str, updates: Any, params: Any | None) -> None:
    """Raises unless every update has the shape of its parameter."""
    if params is None:
        raise ValueError(
            f"{caller}: params is missing, and updates are compared with it. Call "
            "tx.update(task_gradients, state, params)."
        )
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    _check_structure(caller, "updates", updates, params)
    for (path, leaf), param in zip(leaves, jax.tree.leaves(params), strict=True):
        found, wanted = jnp.shape(leaf), jnp.shape(param)
        if found != wanted:
            raise ValueError(
                f"{caller}: {leaf_name('updates', path)} has shape {found}, wanted that of its "
                f"parameter, {wanted}.{_UNCOMBINED if found[1:] == wanted and found else ''}"
            )


def _check_structure(caller: str, argument: str, tree: Any, params: Any) -> None:
    """Raises unless a tree has the structure of params, and names a leaf that has no pair."""
    structure: Any = jax.tree.structure(tree)
    wanted: Any = jax.tree.structure(params)
    if structure == wanted:
        return
    ours = {path: argument for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
    theirs = {path: "params" for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    alone = [path for path in (theirs | ours) if (path in ours) != (path in theirs)]
    names = [leaf_name((theirs | ours)[path], path) for path in alone]
    unpaired = f" Only one of them has {some(names)}." if names else ""
    raise ValueError(
        f"{caller}: {argument} and params must have the same tree structure, got {structure} and "
        f"{wanted}.{unpaired}"
    )


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


def check_losses(
    method: str, num_tasks: int, losses: Any | None, argument: str = "task_losses"
) -> Float[Array, " T"]:
    """Returns the task losses in float32 (float64 stays), or raises if missing or misshapen."""
    if losses is None:
        what = ", those of the batch of the step before," if argument == "next_losses" else ""
        raise ValueError(
            f"{method}: {argument} is missing, and this method reads it. Call "
            f"tx.update(task_gradients, state, params, {argument}=losses) with losses{what} of "
            f"shape ({num_tasks},)."
        )
    check_real_array(method, argument, losses)
    if losses.shape != (num_tasks,):
        raise ValueError(
            f"{method}: {argument} has shape {losses.shape}, wanted ({num_tasks},): one "
            "scalar loss per task, in the order of the task gradients."
        )
    return jnp.asarray(losses, at_least_float32(losses))


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


def some(names: Iterable[str]) -> str:
    """Returns the first few of some names, as a list."""
    first = list(itertools.islice(names, 5))
    return ", ".join([*first[:4], *(["..."] if len(first) > 4 else [])])
