"""Task gradients that are not stacked: what every way of gathering them answers."""

import abc
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._trees import shared_leaves, zero_absent


class Way(abc.ABC):
    """One forward pass, and how task gradients are gathered from it.

    Leaves of the parameters go by their numbers, `slots`. A mask of None says that all tasks are
    present; what absent tasks hold never counts.

    Attributes:
        name: as `value_and_task_grads` calls it.
        losses: `(T,)`.
        leaves: shape and dtype of each leaf of the parameters.
        at_features: whether inner products are those at marked features.
    """

    name: str
    at_features: bool = False
    losses: Float[Array, " T"]
    leaves: Sequence[jax.ShapeDtypeStruct]

    @abc.abstractmethod
    def scaled_gram(self, slots: Sequence[int], mask: Bool[Array, " T"]) -> Any:
        """Returns the `ScaledGram` of the present tasks."""

    @abc.abstractmethod
    def norms(self, slots: Sequence[int], mask: Bool[Array, " T"]) -> Float[Array, " T"]:
        """Returns the norms; any number for absent tasks."""

    @abc.abstractmethod
    def combine(
        self, weights: Float[Array, " T"], slots: Sequence[int], mask: Bool[Array, " T"] | None
    ) -> list[Array]:
        """Returns the leaves of `Σ_t w_t g_t`, the gradient of the weighted loss."""

    @abc.abstractmethod
    def mix(
        self,
        coefficients: Float[Array, "S T"],
        slots: Sequence[int],
        mask: Bool[Array, " T"] | None,
    ) -> list[Array]:
        """Returns the leaves `(S, *p.shape)` of combinations of the task gradients."""

    @abc.abstractmethod
    def stack(self, slots: Sequence[int]) -> list[Array]:
        """Returns the stacked leaves `(T, *p.shape)`."""

    @abc.abstractmethod
    def finite(self, slots: Sequence[int]) -> Bool[Array, " T"]:
        """Says of each task whether its gradient is finite, as far as that costs nothing."""


class TaskGradients:
    """Task gradients that answer what methods ask, without a stack of them.

    Made by `value_and_task_grads(..., stacked=False)` and its kin, and taken by every method where
    it takes a stacked tree. It lives within one trace: a whole step goes under `jax.jit`, `vmap` or
    `scan`, and the object is not returned from it. JAX takes it for a single leaf.

    Attributes:
        losses: `(T,)`, the task losses; methods that read them need no `task_losses`.
        num_tasks: T.
    """

    def __init__(
        self,
        way: Way,
        structure: Any,
        slots: Sequence[int],
        heads: Sequence[int] = (),
        mask: Bool[Array, " T"] | None = None,
        clean: Callable[[Array], Array] | None = None,
    ) -> None:
        self._way = way
        self._structure = structure
        self._slots = tuple(slots)
        self._heads = tuple(heads)
        self._mask = mask
        self._clean = clean  # Of gradients of heads.
        self._head_gradients: list[Array] | None = None

    @property
    def losses(self) -> Float[Array, " T"]:
        return self._way.losses

    @property
    def num_tasks(self) -> int:
        return int(self.losses.shape[0])

    def __repr__(self) -> str:
        return (
            f"TaskGradients(num_tasks={self.num_tasks}, way={self._way.name!r}; .stack() gives "
            "what takes arrays alone the stacked tree)"
        )

    def __contains__(self, key: object) -> bool:
        """Says no; Linen's `TrainState` asks its gradients for the name of a collection."""
        return False

    @property
    def __jax_array__(self) -> Any:
        """Raises where JAX takes it for an array, or asks whether it is like one."""
        raise TypeError(self._no_array())

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self._no_array()} It has no {name!r}.")

    def _no_arithmetic(self, *_: Any) -> Any:
        raise TypeError(self._no_array())

    __neg__ = __abs__ = __add__ = __radd__ = __sub__ = __rsub__ = _no_arithmetic
    __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = _no_arithmetic

    def _no_array(self) -> str:
        return (
            f"{type(self).__name__} is no array. Methods of mtl_optax take it as it is; what "
            "stands before or around a method, as clipping and optax.MultiSteps do, takes "
            "gradients.stack(), or value_and_task_grads without stacked=False. It lives within one "
            "trace: let the step under jax.jit return updates and losses."
        )

    @property
    def params(self) -> Any:
        """Shapes and dtypes of the parameters that are covered, with placeholders for others."""
        return self._tree([self._way.leaves[slot] for slot in self._slots], heads=False)

    @property
    def shapes(self) -> Any:
        """Shapes and dtypes of what `stack` returns."""
        rows = lambda p: jax.ShapeDtypeStruct((self.num_tasks, *p.shape), p.dtype)
        leaves = self._way.leaves
        stacked = {slot: rows(leaves[slot]) for slot in self._slots}
        return self._lay(stacked | {slot: leaves[slot] for slot in self._heads})

    def _tree(self, values: Sequence[Any], heads: bool = True) -> Any:
        laid = dict(zip(self._slots, values, strict=True))
        if heads and self._heads:
            laid.update(zip(self._heads, self.heads, strict=True))
        return self._lay(laid)

    def _lay(self, values: Mapping[int, Any]) -> Any:
        """Makes the tree of values by their slots, with placeholders for the others."""
        hidden = optax.MaskedNode()
        slots = range(self._structure.num_leaves)
        return self._structure.unflatten([values.get(slot, hidden) for slot in slots])

    @property
    def heads(self) -> list[Array]:
        """The leaves of the heads' gradients of the summed loss."""
        if self._head_gradients is None:
            found = self._combined(jnp.ones_like(self.losses), self._heads)
            self._head_gradients = found if self._clean is None else [*map(self._clean, found)]
        return self._head_gradients

    def check(self, method: str, num_tasks: int, params: Any, extra: Any) -> None:
        """Raises where a method cannot take it with these arguments."""
        _checks.check_extra(method, extra)
        if self.num_tasks != num_tasks:
            raise ValueError(
                f"{method}: task_gradients are of {self.num_tasks} tasks, wanted num_tasks="
                f"{num_tasks}."
            )
        if self._heads:
            raise ValueError(
                f"{method}: task_gradients hold gradients of heads, which shared= left out. "
                "mtl_optax.on_shared(method, shared) shows the method those of the shared leaves."
            )
        if params is not None:
            _checks.check_same_shapes(method, self.params, params)

    def masked(
        self, mask: Bool[Array, " T"], clean: Callable[[Array], Array] | None = None
    ) -> "TaskGradients":
        """Returns the same with zeros for the tasks that are absent, whatever they hold.

        Args:
            mask: `(T,)` bool, the tasks that are present.
            clean: what is done to each leaf of the heads' gradients.
        """
        if self._mask is not None:
            mask = mask & self._mask
        clean = clean or self._clean
        return TaskGradients(self._way, self._structure, self._slots, self._heads, mask, clean)

    def apart(self) -> "TaskGradients":
        """Returns the same for a branch, out of which nothing may come that it gathers there."""
        way = copy.copy(self._way)
        return TaskGradients(
            way, self._structure, self._slots, self._heads, self._mask, self._clean
        )

    def some(self, leaves: Sequence[int]) -> "TaskGradients":
        """Returns the task gradients of some leaves, by their numbers among those covered."""
        slots = [sorted(self._slots)[leaf] for leaf in leaves]
        return TaskGradients(self._way, self._structure, slots, (), self._mask)

    def _combined(self, weights: Float[Array, " T"], slots: Sequence[int]) -> list[Array]:
        return self._way.combine(weights, slots, self._mask) if slots else []

    def _present(self, mask: Any) -> Bool[Array, " T"]:
        mask = self._mask if mask is None else mask
        return _checks.check_mask("TaskGradients", self.num_tasks, mask, "mask")

    def scaled_gram(self, mask: Bool[Array, " T"]) -> Any:
        """Returns the `ScaledGram` of the present tasks."""
        return self._way.scaled_gram(self._slots, mask)

    def gram(self, mask: Bool[Array, " T"] | None = None) -> Float[Array, "T T"]:
        """Computes the Gram matrix `M[s, t] = <g_s, g_t>`.

        Args:
            mask: `(T,)` bool, the tasks that are present; rows of absent tasks are zero.

        Returns:
            `(T, T)` in float32 (float64 if a parameter is float64).
        """
        present = self._present(mask)
        matrix, scale = self.scaled_gram(present)
        products = matrix * jnp.expand_dims(scale, 1) * jnp.expand_dims(scale, 0)
        return jnp.where(jnp.outer(present, present), products, 0)

    def norms(
        self, mask: Bool[Array, " T"] | None = None, leaves: Any | None = None
    ) -> Float[Array, " T"]:
        """Computes the Euclidean norms of the task gradients.

        Args:
            mask: `(T,)` bool, the tasks that are present; norms of absent tasks are zero.
            leaves: which leaves to measure: a name or several, a tree of booleans or a predicate
                on the key path, as for `on_shared`; all by default.
        """
        present = self._present(mask)
        slots: Sequence[int] = self._slots
        if leaves is not None and self._way.at_features:
            raise ValueError(
                "TaskGradients.norms: norms are taken at the features here, and leaves (the "
                "norm_mask of a method) picks parameters. Leave it out."
            )
        if leaves is not None:
            slots = self._chosen("norms", leaves, "leaves")[0]
        return jnp.where(present, self._way.norms(slots, present), 0)

    def finite(self) -> Bool[Array, " T"]:
        """Says of each task whether its loss, and what its gradient is made of, are finite."""
        return self._way.finite(self._slots) & jnp.isfinite(self.losses)

    def combine(self, weights: Float[Array, " T"]) -> Any:
        """Computes `Σ_t w_t g_t`, shaped like the parameters; heads get their own gradients."""
        _checks.check_vector("TaskGradients.combine", "weights", weights, self.num_tasks)
        return self._tree(self._combined(jnp.asarray(weights), self._slots))

    def mix(self, coefficients: Float[Array, "S T"]) -> Any:
        """Computes `S` combinations of the task gradients, `r_s = Σ_t K[s, t] g_t`.

        Returns:
            A tree with leaves `(S, *p.shape)`; heads get their own gradients.
        """
        _checks.check_real_array("TaskGradients.mix", "coefficients", coefficients)
        if coefficients.ndim != 2 or coefficients.shape[1] != self.num_tasks:
            raise ValueError(
                f"TaskGradients.mix: coefficients has shape {coefficients.shape}, wanted (S, "
                f"{self.num_tasks}): a row for each combination."
            )
        mixed = self._way.mix(coefficients, self._slots, self._mask)
        return self._tree(mixed)

    def stack(self) -> Any:
        """Returns the stacked tree, leaves `(T, *p.shape)`; heads get their own gradients."""
        stacked = self._way.stack(self._slots)
        if self._mask is not None:
            stacked = zero_absent(self._mask, stacked)
        return self._tree(stacked)

    def split(self, shared: Any) -> tuple["TaskGradients", Any]:
        """Splits in task gradients of the shared leaves and gradients of the heads.

        Args:
            shared: which leaves are shared, as for `value_and_task_grads`. Where that was given it,
                it has to be the same.

        Returns:
            Task gradients of the shared leaves, and a tree of the heads' gradients of the summed
            loss, each with placeholders (`optax.MaskedNode`) for the leaves of the other.
        """
        trunk, heads = self.parts(shared)
        return trunk, heads.combine(jnp.ones_like(self.losses))

    def parts(self, shared: Any) -> tuple["TaskGradients", "TaskGradients"]:
        """Returns task gradients of the shared leaves, and of the others."""
        slots, others = self._chosen("split", shared, "shared", self._heads)
        if self._heads and set(slots) != set(self._slots):
            raise ValueError(
                "TaskGradients.split: shared chooses other leaves than value_and_task_grads was "
                "given. Give both the same."
            )
        trunk = TaskGradients(self._way, self._structure, slots, (), self._mask)
        return trunk, _Heads(self._way, self._structure, others, (), self._mask, self._clean)

    def _chosen(
        self, caller: str, choice: Any, argument: str, heads: Sequence[int] = ()
    ) -> tuple[list[int], list[int]]:
        """Returns the slots that a choice of leaves picks, and the others."""
        covered = sorted({*self._slots, *heads})
        tree = self._lay({slot: self._way.leaves[slot] for slot in covered})
        mask = shared_leaves(f"TaskGradients.{caller}", choice, tree, argument=argument)
        picked = jax.tree.leaves(mask)
        chosen = [slot for slot, pick in zip(covered, picked, strict=True) if pick]
        return chosen, [slot for slot, pick in zip(covered, picked, strict=True) if not pick]


class _Heads(TaskGradients):
    """The heads of task gradients, which are only ever combined."""

    def combine(self, weights: Float[Array, " T"]) -> Any:
        combined = super().combine(weights)
        return combined if self._clean is None else jax.tree.map(self._clean, combined)


def as_stack(tree: Any) -> Any:
    """Returns the stacked tree, for what goes by the coordinates of task gradients."""
    tree = unwrapped(tree)
    return tree.stack() if isinstance(tree, TaskGradients) else tree


def unwrapped(tree: Any) -> Any:
    """Returns the object itself where it stands alone in a tree, as in an `nnx.State`."""
    if isinstance(tree, TaskGradients):
        return tree
    leaves = jax.tree.leaves(tree)
    alone = len(leaves) == 1 and isinstance(leaves[0], TaskGradients)
    return leaves[0] if alone else tree
