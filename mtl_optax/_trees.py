"""Trees: which leaves are chosen by name, and stacks with a leading task axis."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool

from mtl_optax._checks import KeyPath, did_you_mean, leaf_name, some

Shared: TypeAlias = Any | str | Collection[str] | Callable[[KeyPath], bool]
"""Which leaves are chosen: names, a tree of booleans, or a predicate on a leaf's key path."""

Group: TypeAlias = Literal["leaf", "layer"] | Callable[[KeyPath], Any]
"""How leaves are grouped: each by itself, by their parent, or by a function of the key path."""


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
            f"({some(leaf_name('params', path) for path in paths)}). A predicate receives the key "
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
                f"({some(map(plain_path, paths))}). A name is the beginning of a leaf's path from "
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


def check_group(caller: str, group: Group) -> None:
    """Raises unless `group` says how leaves are grouped."""
    if not callable(group) and group not in ("leaf", "layer"):
        raise ValueError(
            f"{caller}: group must be one of 'leaf', 'layer', or a function from a leaf's key path "
            f"to the name of its group, got {group!r}."
        )


def group_names(caller: str, tree: Any, group: Group) -> list[str]:
    """Returns the group that each leaf belongs to, in the order of the leaves.

    Args:
        caller: the public function to name in errors.
        tree: the parameters, or anything of their structure.
        group: "leaf", each by itself; "layer", by the path of its parent, so that the kernel and
            the bias of a layer belong together; or a function that maps a leaf's key path to the
            name of its group.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    if callable(group):
        return [str(ask(caller, "group", group, path)) for path in paths]
    check_group(caller, group)
    depth = -1 if group == "layer" else None
    return [jax.tree_util.keystr(path[:depth]) for path in paths]


def split_tree(chosen: Any, tree: Any) -> tuple[Any, Any]:
    """Splits a tree in two of its own structure, with placeholders for the other's leaves."""
    hidden = optax.MaskedNode()
    return (
        jax.tree.map(lambda keep, leaf: leaf if keep else hidden, chosen, tree),
        jax.tree.map(lambda keep, leaf: hidden if keep else leaf, chosen, tree),
    )


def merge_trees(first: Any, second: Any) -> Any:
    """Undoes `split_tree`."""
    return jax.tree.map(lambda f, s: s if is_hidden(f) else f, first, second, is_leaf=is_hidden)


def select_tasks(mask: Bool[Array, " T"], present: Any, absent: Any) -> Any:
    """Takes the rows of `present` where `mask` is true and those of `absent` elsewhere.

    Both are pytrees of one structure with leaves `(T, ...)`.
    """
    return jax.tree.map(lambda p, a: jnp.where(along_tasks(mask, p), p, a), present, absent)


def zero_absent(mask: Bool[Array, " T"], task_gradients: Any) -> Any:
    """Sets the rows of absent tasks to zero, whatever they hold."""
    return jax.tree.map(
        lambda g: jnp.where(along_tasks(mask, g), g, jnp.zeros_like(g)), task_gradients
    )


def stacked_zeros(num_tasks: int, params: Any, dtype_of: Callable[[Any], Any]) -> Any:
    """Makes zeros `(T, *p.shape)` that are cut over devices as the parameters are."""

    def zeros(p: Any) -> Array:
        one = jnp.zeros_like(p, dtype=dtype_of(p))
        return jnp.broadcast_to(one, (num_tasks, *one.shape))

    return jax.tree.map(zeros, params)


def along_tasks(values: Array, leaf: Array) -> Array:
    """Reshapes per-task `values` `(T,)` to broadcast against a leaf `(T, ...)`."""
    return values.reshape(values.shape + (1,) * (leaf.ndim - 1))
