"""Task gradients one at a time: the memory of one gradient, whatever the number of tasks."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax._complex import by_parts
from mtl_optax._gram import gram_from_rows, norms
from mtl_optax._precision import power_of_two
from mtl_optax._task_gradients.passes import in_turn, one_for_each
from mtl_optax._task_gradients.ways import Stacked, of_present, of_weighted_sum
from mtl_optax._tracing import varying_axes


class RowByRow(Stacked):
    """Task gradients of which one is held at a time.

    The gradient `g_s` of one loss comes of a backward pass, then `M[s, :] = J g_s`, the change of
    all losses along it, of the transpose of that pass. With the weights known, one backward pass of
    the weighted loss ends the step.
    """

    name = "rows"

    def scaled_gram(self, slots: Sequence[int], mask: Bool[Array, " T"]) -> Any:
        products, lengths = self._look(slots)
        return gram_from_rows(products, lengths, mask)

    def norms(self, slots: Sequence[int], mask: Bool[Array, " T"]) -> Float[Array, " T"]:
        def length_of(row: Array) -> Float[Array, ""]:
            gradient = self._some(slots, row)
            _check_pieces(gradient, self.losses)
            return _length(gradient)

        return in_turn(length_of, one_for_each(self.losses))

    def finite(self, slots: Sequence[int]) -> Bool[Array, " T"]:
        return jnp.isfinite(self.norms(slots, jnp.ones(len(self.losses), bool)))

    def combine(
        self, weights: Float[Array, " T"], slots: Sequence[int], mask: Bool[Array, " T"] | None
    ) -> list[Array]:
        weights = of_present(weights, mask)
        return of_weighted_sum(lambda row: self._some(slots, row), weights, self.losses)

    def _some(self, slots: Sequence[int], row: Array) -> list[Array]:
        gradients = self._pull(row)
        return [gradients[slot] for slot in slots]

    def _look(self, slots: Sequence[int]) -> tuple[Float[Array, "T T"], Float[Array, " T"]]:
        """Returns the rows of the Gram matrix for `gram_from_rows`, and the norms."""
        # Of the losses, and of the units, which are those of the parameters.
        room = math.sqrt(min(jnp.finfo(d).max for d in (self.losses.dtype, jnp.float32)))
        pull = lambda row: self._some(slots, row)

        def scaled(leaf: Array, unit: Float[Array, ""]) -> Array:
            # Conjugate, for what comes back is the product itself, and no inner product.
            divided = lambda part: (part.astype(unit.dtype) / unit).astype(part.dtype)
            return jnp.conj(by_parts(divided, leaf))

        def look(row: Float[Array, " T"]) -> Any:
            # The transpose of the pullback, and not a jvp of the losses, so that functions with a
            # backward pass of their own count as they do in the stacked way.
            gradient, push = jax.vjp(pull, row)
            _check_pieces(gradient, self.losses)
            length = _length(gradient)
            unit = power_of_two(length)
            # A product has the size of a norm, and in float16 to leave room for larger ones.
            share = jnp.clip(unit / room, 1, room)
            (along,) = push([scaled(g, unit * share) for g in gradient])
            # The gradient of parameters that do not differ from device to device is a sum over
            # those that the losses differ on.
            parts = tuple(varying_axes(along) - varying_axes(gradient))
            along = jax.lax.psum(along.astype(length.dtype), parts) if parts else along
            return along.astype(length.dtype) * share, length

        def pair(row: Float[Array, " T"]) -> Any:
            gradient = pull(row)
            length = _length(gradient)
            unit = power_of_two(length)

            def product(other: Float[Array, " T"]) -> Float[Array, ""]:
                sums = [_inner(g, h, unit) for g, h in zip(gradient, pull(other), strict=True)]
                return sum(sums, jnp.zeros((), length.dtype))

            return in_turn(product, one_for_each(self.losses)), length

        try:
            jax.eval_shape(look, one_for_each(self.losses)[0])
        except _PiecesError:
            raise
        except _NO_TRANSPOSE:
            # A backward pass that cannot be transposed runs again for every pair of tasks.
            return in_turn(pair, one_for_each(self.losses))
        return in_turn(look, one_for_each(self.losses))


class _PiecesError(ValueError):
    """What lies on one device is no gradient."""


# What JAX raises where a function has no derivative, or its transpose no rule.
_NO_TRANSPOSE = (NotImplementedError, TypeError, ValueError, AssertionError)


def _inner(g: Array, h: Array, unit: Float[Array, ""]) -> Float[Array, ""]:
    one = lambda part: part.astype(unit.dtype)
    if jnp.iscomplexobj(g):
        real, imaginary = jnp.real, jnp.imag
        return _inner(real(g), real(h), unit) + _inner(imaginary(g), imaginary(h), unit)
    return jnp.sum(one(g) / unit * one(h))


def _length(gradient: Sequence[Array]) -> Float[Array, ""]:
    return norms([jnp.expand_dims(g, 0) for g in gradient])[0]


def _check_pieces(gradient: Any, losses: Float[Array, " T"]) -> None:
    """Raises where what lies on one device is neither a whole gradient nor the device's own."""
    kinds = {varying_axes(leaf) for leaf in jax.tree.leaves(gradient)}
    if len(kinds) > 1 or not max(kinds) <= varying_axes(losses):
        raise _PiecesError(
            'way="rows": inside jax.shard_map the shared parameters must all vary over the same '
            "axes of the mesh, and the losses over these too, got parameters that vary over "
            f"{sorted(map(sorted, kinds))} and losses that vary over "
            f"{sorted(varying_axes(losses))}. Parameters that are cut into pieces are for jax.jit "
            "on a mesh."
        )
