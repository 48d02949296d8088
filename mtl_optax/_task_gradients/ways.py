"""The forward pass, and the ways that go by its pullback."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax._complex import by_parts
from mtl_optax._gram import combine, norms, scaled_gram
from mtl_optax._precision import at_least_float32, power_of_two
from mtl_optax._task_gradients.passes import for_each_row, one_for_each
from mtl_optax._tracing import varying_axes, varying_like
from mtl_optax._trees import zero_absent
from mtl_optax._unstacked import Way

Pull = Callable[[Array], list[Array]]


class Gathered(Way):
    """What ways have in common."""

    def __init__(self, losses: Float[Array, " T"], leaves: Sequence[Any]) -> None:
        self.losses = losses
        self.leaves = [jax.ShapeDtypeStruct(jnp.shape(p), jnp.result_type(p)) for p in leaves]

    def mix(
        self,
        coefficients: Float[Array, "S T"],
        slots: Sequence[int],
        mask: Bool[Array, " T"] | None,
    ) -> list[Array]:
        stacked = self.stack(slots)
        return combine(coefficients, stacked if mask is None else zero_absent(mask, stacked))


class Stacked(Gathered):
    """Task gradients that are stacked when they are first asked for."""

    name = "stacked"

    def __init__(
        self,
        losses: Float[Array, " T"],
        leaves: Sequence[Any],
        pull: Pull,
    ) -> None:
        """Takes the pullback `pull` of a row of weights to the gradients of all leaves."""
        super().__init__(losses, leaves)
        self._pull = pull
        self._stacked: dict[int, Array] = {}

    def stack(self, slots: Sequence[int]) -> list[Array]:
        missing = [slot for slot in slots if slot not in self._stacked]
        if missing:
            some = lambda row: [self._pull(row)[slot] for slot in missing]
            leaves = [self.leaves[slot] for slot in missing]
            self._stacked.update(
                zip(missing, for_each_row(some, one_for_each(self.losses), leaves), strict=True)
            )
        return [self._stacked[slot] for slot in slots]

    def scaled_gram(self, slots: Sequence[int], mask: Bool[Array, " T"]) -> Any:
        return scaled_gram(self.stack(slots), mask)

    def norms(self, slots: Sequence[int], mask: Bool[Array, " T"]) -> Float[Array, " T"]:
        return norms(self.stack(slots))

    def finite(self, slots: Sequence[int]) -> Bool[Array, " T"]:
        return finite_rows(self.stack(slots), len(self.losses))

    def combine(
        self, weights: Float[Array, " T"], slots: Sequence[int], mask: Bool[Array, " T"] | None
    ) -> list[Array]:
        if not all(slot in self._stacked for slot in slots):
            gradients = of_weighted_sum(self._pull, of_present(weights, mask), self.losses)
            return [gradients[slot] for slot in slots]
        stacked = self.stack(slots)
        return combine(weights, stacked if mask is None else zero_absent(mask, stacked))


def finite_rows(leaves: Any, num_tasks: int) -> Bool[Array, " T"]:
    """Says of each task whether all its entries are finite."""
    finite = jnp.ones(num_tasks, bool)
    for leaf in jax.tree.leaves(leaves):
        finite &= jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))
    return finite


def like_losses(values: Array, losses: Float[Array, " T"]) -> Float[Array, " T"]:
    """Lets values of the tasks differ from device to device where the losses do, and only there."""
    more = tuple(varying_axes(values) - varying_axes(losses))
    return varying_like(jax.lax.pmean(values, more) if more else values, losses)


def of_present(weights: Float[Array, " T"], mask: Bool[Array, " T"] | None) -> Float[Array, " T"]:
    """Returns the weights with zeros for absent tasks."""
    return weights if mask is None else jnp.where(mask, weights, 0)


def of_weighted_sum(
    pullback: Callable[[Array], Any], weights: Float[Array, " T"], losses: Float[Array, " T"]
) -> Any:
    """Computes the gradient of `Σ_t w_t L_t` from a pullback of the losses.

    Weights can leave the range of a half precision where the gradients do not. Divided by a power
    of two above their sum, they make no cotangent larger than the losses themselves do.
    """
    weights = like_losses(weights, losses)
    if varying_axes(weights):  # A sum over devices needs a unit that they have in common.
        return pullback(weights.astype(losses.dtype))
    unit = 2 * power_of_two(jnp.sum(jnp.abs(weights)))

    def whole(leaf: Array) -> Array:
        wide = at_least_float32(leaf)
        return (leaf.astype(wide) * unit.astype(wide)).astype(leaf.dtype)

    divided = pullback((weights / unit).astype(losses.dtype))
    return jax.tree.map(lambda leaf: by_parts(whole, leaf), divided)
