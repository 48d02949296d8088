"""What an optimiser's state tells, as numbers to log."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import optax

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


def scalars(state: optax.OptState, *, tasks: Sequence[str] | None = None) -> dict[str, float]:
    """Turns the state of any optimiser into a flat dictionary of numbers, ready to be logged.

    It holds, of every method, tracker and guard in `state`: task `weights`; the solver's `gap` or
    `residual` and its `iterations`; the `cosines` of two tasks, once for each pair, the fraction
    `conflicting`, `norms` and `norm_ratios`; the guard's counts `dropped`, `skipped` and
    `consecutive`; and each scalar hyper-parameter of `optax.inject_hyperparams`.

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
        >>> _, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 1.0]]), tx.init(jnp.zeros(2)))
        >>> mtl.scalars(state, tasks=["depth", "edges"])
        {'weights/depth': 0.5, 'weights/edges': 0.5, 'gap': 0.0, 'iterations': 1.0}
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    places = [(_without_variable(path), leaf) for path, leaf in leaves]
    found = [(path, leaf) for path, leaf in places if _is_logged(path, leaf)]
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
        key = jax.tree_util.keystr(path, simple=True, separator="/") if name in repeated else name
        named = list(map(str, tasks or range(len(value)))) if value.ndim else []
        if value.ndim == 2:
            pairs = ((s, t) for t in range(len(value)) for s in range(t))
            numbers |= {f"{key}/{named[s]}/{named[t]}": float(value[s, t]) for s, t in pairs}
        elif value.ndim == 1:
            numbers |= {f"{key}/{task}": float(x) for task, x in zip(named, value, strict=True)}
        else:
            numbers[key] = float(value)
    return numbers


def _without_variable(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Drops the last step where it leads into one of Flax's variables, which NNX puts around."""
    return path[:-1] if path[-1:] == (jax.tree_util.GetAttrKey("value"),) else path


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)


def _is_logged(path: tuple[Any, ...], leaf: Any) -> bool:
    """Whether a leaf is such a field, or an injected hyper-parameter."""
    if len(path) > 1 and path[-2] == jax.tree_util.GetAttrKey("hyperparams"):
        return getattr(leaf, "ndim", 0) == 0
    last = path[-1] if path else None
    return isinstance(last, jax.tree_util.GetAttrKey) and last.name in _FIELDS
