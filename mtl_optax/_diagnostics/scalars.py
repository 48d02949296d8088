"""What an optimiser's state tells: the task weights, and numbers to log.

States are known by their type and not by the names of leaves alone, for parameters have names too.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from mtl_optax._checks import KeyPath
from mtl_optax._frame import GroupsState, WeightingState
from mtl_optax._trees import plain_path

# The fields of our states that are worth a curve, with their number of axes, all of them tasks.
_FIELDS = {
    "weights": 1,
    "gap": 0,
    "residual": 0,
    "iterations": 0,
    "cosines": 2,
    "conflicting": 0,
    "norms": 1,
    "norm_ratios": 1,
    "dropped": 1,
    "skipped": 0,
    "consecutive": 0,
}
_INJECTED = (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)


def task_weights(state: optax.OptState, which: int = -1) -> Float[Array, " T"]:
    """Returns the weights of a method's last step, from the state of any optimiser around it.

    Args:
        state: the state of a method of this library, or of a chain or wrapper with one in it; the
            `opt_state` of an `nnx.Optimizer` will do.
        which: the number of the method, of several in `state`: 0 is the first of a chain, -1, the
            default, the last.

    Returns:
        `(T,)` float32, the `w` of `Σ_t w_t g_t`; zeros before the first step. After `jax.vmap` over
        runs it is `(runs, T)`.

    Raises:
        ValueError: if no method in `state` weights tasks, as those do not that go coordinate by
            coordinate, or if there is no such number.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> tx = optax.chain(mtl.mgda(2), optax.adam(0.1))
        >>> params = jnp.zeros(2)
        >>> _, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 1.0]]), tx.init(params), params)
        >>> print(mtl.task_weights(state))
        [0.5 0.5]
    """
    if not isinstance(which, int):
        raise TypeError(
            f"task_weights: which must be an int, the number of a method in state, got {which!r}."
        )
    found = list(_weights(state))
    if not found:
        raise ValueError(
            f"task_weights: state holds no task weights, got {_types(state) or state!r}. Methods "
            "keep them whose update is a weighted sum of the task gradients: "
            "mtl_optax.method_info(name).has_task_weights."
        )
    if not -len(found) <= which < len(found):
        raise ValueError(
            f"task_weights: which={which} asks for a method beyond the {len(found)} in state."
        )
    return found[which]


def scalars(state: optax.OptState, *, tasks: Sequence[str] | None = None) -> dict[str, float]:
    """Turns the state of any optimiser into a flat dictionary of numbers, ready to be logged.

    It holds, of every method, tracker and guard in `state`: task `weights`; the solver's `gap` or
    `residual` and its `iterations`; the `cosines` of two tasks, once for each pair, the fraction
    `conflicting`, `norms` and `norm_ratios`; the guard's counts `dropped`, `skipped` and
    `consecutive`; and each scalar hyper-parameter of `optax.inject_hyperparams`. Of a weighting of
    your own, these fields of its state, where that is a named tuple.

    Args:
        state: an optimiser's state, of one run, or the `opt_state` of an `nnx.Optimizer`; arrays on
            devices are fetched in one go.
        tasks: T names; their numbers by default.

    Returns:
        Names such as `"weights/0"`, `"cosines/0/1"` and `"gap"`, and floats. Where the state holds
        a field twice, as with two trackers in a chain, the place in the state comes first:
        `"0/conflicting"`, `"2/conflicting"`, or the names that `optax.named_chain` gave.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> tx = optax.chain(mtl.mgda(2), optax.sgd(0.1))
        >>> params = jnp.zeros(2)
        >>> _, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 1.0]]), tx.init(params), params)
        >>> mtl.scalars(state, tasks=["depth", "edges"])
        {'weights/depth': 0.5, 'weights/edges': 0.5, 'gap': 0.0, 'iterations': 1.0}
    """
    found = list(_logged(state))
    if any(isinstance(leaf, jax.core.Tracer) for _, leaf in found):
        raise TypeError(
            "scalars: state is being traced. Return the state from the compiled step, and call "
            "scalars on what comes back."
        )
    repeated = {name for name, n in Counter(_name(path) for path, _ in found).items() if n > 1}
    numbers: dict[str, float] = {}
    for (path, _), value in zip(found, jax.device_get([leaf for _, leaf in found]), strict=True):
        name = _name(path)
        if value.ndim != _FIELDS.get(name, 0):
            raise ValueError(
                f"scalars: state has {name} of shape {value.shape}, wanted "
                f"{_FIELDS.get(name, 0)} axes. Of several runs in one state, pass one: "
                "jax.tree.map(lambda x: x[0], state)."
            )
        if tasks is not None and value.ndim and len(tasks) != len(value):
            raise ValueError(
                f"scalars: tasks has {len(tasks)} names, but state has {name} of {len(value)} "
                "tasks. Give one name for each task."
            )
        key = plain_path(path) if name in repeated else name
        named = list(map(str, tasks or range(len(value)))) if value.ndim else []
        if value.ndim == 2:
            pairs = ((s, t) for t in range(len(value)) for s in range(t))
            numbers |= {f"{key}/{named[s]}/{named[t]}": float(value[s, t]) for s, t in pairs}
        elif value.ndim == 1:
            numbers |= {f"{key}/{task}": float(x) for task, x in zip(named, value, strict=True)}
        else:
            numbers[key] = float(value)
    return numbers


def _weights(node: Any) -> Iterator[Array]:
    """Yields the weights of every method; a weighting's own state, inside one, may have others."""
    if _is_ours(node) and "weights" in getattr(node, "_fields", ()):
        yield from jax.tree.leaves(node.weights)  # NNX puts a variable around each array.
    else:
        for _, child in _children(node):
            yield from _weights(child)


def _logged(
    node: Any, path: KeyPath = (), of_weighting: bool = False
) -> Iterator[tuple[KeyPath, Array]]:
    """Yields what is worth a curve: fields of states of this library, and of weightings' states.

    A weighting never sees a parameter, so that in its state a field's name can be relied on.
    """
    if isinstance(node, GroupsState):  # Numbers of many groups are for `group_weights` to show.
        return
    is_state = isinstance(node, tuple) and (of_weighting or _is_ours(node))
    for key, child in _children(node):
        here = (*path, key)
        if isinstance(node, _INJECTED) and getattr(key, "name", None) == "hyperparams":
            yield from _hyperparameters(child, here)
        elif is_state and getattr(key, "name", None) in _FIELDS:
            # NNX puts a variable around each array.
            yield from ((here, leaf) for leaf in jax.tree.leaves(child))
        else:
            yield from _logged(child, here, of_weighting or isinstance(node, WeightingState))


def _hyperparameters(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Array]]:
    for key, child in _children(node):
        for leaf in jax.tree.leaves(child):
            if getattr(leaf, "ndim", 0) == 0:
                yield (*path, key), leaf


def _children(node: Any) -> list[tuple[Any, Any]]:
    """Returns what a node of a tree consists of, with the keys; nothing of a leaf."""
    if jax.tree_util.all_leaves([node]):
        return []
    parts, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda part: part is not node)
    return [(path[0], part) for path, part in parts]


def _is_ours(node: Any) -> bool:
    return type(node).__module__.partition(".")[0] == "mtl_optax"


def _types(node: Any) -> list[str]:
    """Returns the names of the states in an optimiser's state, for an error."""
    if hasattr(node, "_fields"):
        return [type(node).__name__]
    return [name for _, child in _children(node) for name in _types(child)]


def _name(path: KeyPath) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)
