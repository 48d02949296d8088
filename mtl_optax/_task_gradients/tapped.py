"""Task gradients from taps: contractions of cotangents with what the parameters meet."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_optax._complex import as_real
from mtl_optax._gram import (
    SAFE_SQUARE,
    ScaledGram,
    combine,
    gathered,
    in_scales,
    largest_entries,
    own_products,
    scaled_gram,
    weigh_rows,
)
from mtl_optax._gram import products as inner_products
from mtl_optax._precision import HIGHEST, at_least_float32, power_of_two, root
from mtl_optax._task_gradients import taps as t
from mtl_optax._task_gradients.passes import all_rows, one_for_each
from mtl_optax._task_gradients.ways import Gathered, finite_rows, of_present, of_weighted_sum
from mtl_optax._trees import zero_absent

# Lookups up to which each is compared with each; beyond, those of one row are found by sorting.
_COMPARED = 1024

# Products of the inputs and of the cotangents lose digits where the gradient is small beside what
# it is the sum of. They are taken for right where its squared norm is so many times the unit of
# rounding, beside the square of that.
_ROOM = 1e3
# Where they are not, the gradients are made after all, as many of their rows at a time.
_COLUMNS = 32


def worth_tapping(num_tasks: int, own_batches: bool = False) -> Callable[[list[t.Site]], bool]:
    """Makes the rule that says which parameters are to be tapped.

    It counts multiplications: with taps, or with the parameter's own task gradients. A table is
    tapped unless it has few rows, for an array of `(T, V, d)` is what costs there.

    Args:
        num_tasks: T.
        own_batches: whether every task has inputs of its own.
    """

    def worth(sites: list[t.Site]) -> bool:
        n = t.number_of_rows(sites)
        if num_tasks == 1:
            return False
        if sites[0].kind == "gather":
            return n <= 2 * sites[0].shapes[0][0]
        _, a, b = t.weight_shape(sites[0])
        direct = num_tasks * n * a * b + num_tasks**2 * a * b
        if own_batches:
            return (num_tasks * n) ** 2 * (a + b) < direct
        return n * n * a + num_tasks * n * n * b + num_tasks**2 * n * b < direct

    return worth


class _Dense:
    """A parameter that is multiplied with data.

    Attributes:
        inputs: `(c, n, a)`, or `(T, c, n, a)` where every task has its own.
        cotangents: `(T, c, n, b)`.
    """

    def __init__(self, inputs: Array, cotangents: Array, precision: Any, lay: Any) -> None:
        self.inputs = inputs
        self.cotangents = cotangents
        self._own = inputs.ndim == 4
        self._precision = precision
        self._lay = lay

    def products(self, dtype: Any) -> tuple[Any, Float[Array, " T"]]:
        """Returns a pair of stacks that has the products, and sums of norms, for their errors."""
        x, d = self.inputs.astype(dtype), self.cotangents.astype(dtype)
        met = jnp.sqrt(jnp.sum(x * x, axis=-1))
        sizes = jnp.sqrt(jnp.sum(d * d, axis=-1)) * (met if self._own else jnp.expand_dims(met, 0))
        bounds = jnp.sum(sizes, axis=(1, 2))
        if self._own:
            # Rows of all tasks meet rows of all tasks: `(s, i, t, j)`, and one of the two kernels
            # counts as the stack of the other.
            flat = lambda z: jnp.moveaxis(z, 0, 1).reshape(z.shape[1], -1, z.shape[-1])
            both = _einsum("cia,cja->cij", flat(x), flat(x))
            both *= _einsum("cia,cja->cij", flat(d), flat(d))
            num_tasks, _, n, _ = d.shape
            both = jnp.sum(both.reshape(-1, num_tasks, n, num_tasks, n), axis=(0, 2, 4))
            return (jnp.eye(num_tasks, dtype=dtype), both), bounds
        # One product for each task, with all of it laid out as what it is contracted with.
        kernels = _einsum("cia,cja->cij", x, x)
        kernels = jnp.broadcast_to(kernels, (len(d), *kernels.shape))
        return (d, _einsum("tcij,tcjb->tcib", kernels, d)), bounds

    def largest(self, dtype: Any) -> Float[Array, " T"]:
        """Returns what no entry of a task's gradient is larger than."""
        # Row by row, for inputs that no loss depends on can be as large as they like.
        of_row = lambda z: jnp.max(jnp.abs(z), axis=-1, initial=0).astype(dtype)
        x, d = of_row(self.inputs), of_row(self.cotangents)
        products = d * (x if self._own else jnp.expand_dims(x, 0))
        return jnp.max(products, axis=(1, 2), initial=0) * d.shape[-1]

    @property
    def columns(self) -> int:
        """The number that `blocks` cuts."""
        return int(self.inputs.shape[-1])

    def blocks(self, count: int, dtype: Any) -> Callable[[Array], Float[Array, "T _"]]:
        """Makes the function that returns a part of the task gradients, one of `count`."""
        form = "tcia,tcib->tcab" if self._own else "cia,tcib->tcab"
        columns = _in_blocks(self.inputs.astype(dtype), count)
        d = self.cotangents.astype(dtype)
        return lambda number: _einsum(form, columns(number), d).reshape(len(d), -1)

    def summed(self, weights: Float[Array, " T"]) -> Array:
        """Returns `Σ_t w_t g_t` as the parameter's gradient."""
        if self._own:
            weighted = weigh_rows(weights, _in_range(self.cotangents))
            form = "tcia,tcib->cab"
        else:
            weighted = combine(weights, _in_range(self.cotangents))
            form = "cia,cib->cab"
        return self.lay(form, self.inputs, weighted)

    def lay(self, form: str, inputs: Array, cotangents: Array) -> Array:
        if inputs.dtype != cotangents.dtype:
            dtype = at_least_float32(inputs, cotangents)
            inputs, cotangents = inputs.astype(dtype), cotangents.astype(dtype)
        return self._lay(jnp.einsum(form, inputs, cotangents, precision=self._precision))

    def stacked(self) -> Array:
        """Returns the task gradients themselves."""
        one = lambda x, d: self.lay("cia,cib->cab", x, d)
        return jax.vmap(one, (0 if self._own else None, 0))(self.inputs, self.cotangents)


class _Lookups:
    """A table whose rows are looked up.

    Attributes:
        rows: `(n,)`, the rows, or `(T, n)` where every task looks up its own; out of range where
            there is no gradient.
        cotangents: `(T, n, d)`.
    """

    def __init__(self, rows: Int[Array, "..."], cotangents: Array, size: int, lay: Any) -> None:
        self.rows = rows
        self._size = size
        self._own = rows.ndim == 2
        valid = jnp.expand_dims(rows < size, -1)
        self.cotangents = jnp.where(valid, cotangents, jnp.zeros_like(cotangents))
        self._lay = lay

    def products(self, dtype: Any) -> tuple[Any, Float[Array, " T"]]:
        d = self.cotangents.astype(dtype)
        if self._own or d.shape[1] > _COMPARED:
            sums = self._sums(dtype)
            # Sums that are made first lose nothing.
            return (sums, sums), jnp.zeros(len(d), dtype)
        bounds = jnp.sum(jnp.sqrt(jnp.sum(d * d, axis=-1)), axis=-1)
        same = (jnp.expand_dims(self.rows, 0) == jnp.expand_dims(self.rows, 1)).astype(dtype)
        same = jnp.broadcast_to(same, (len(d), *same.shape))
        return (d, _einsum("tij,tjb->tib", same, d)), bounds

    def _sums(self, dtype: Any) -> Float[Array, "T n d"]:
        """Sums the cotangents of each row that is looked up, at some place of its own."""
        d = self.cotangents.astype(dtype)
        if not self._own and d.shape[1] <= _COMPARED:
            same = jnp.expand_dims(self.rows, 1) == jnp.expand_dims(self.rows, 0)
            return jnp.zeros_like(d).at[:, jnp.argmax(same, axis=1)].add(d)
        flat = self.rows.reshape(-1)
        order = jnp.argsort(flat)
        ordered = flat[order]
        first = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
        place = jnp.zeros_like(flat).at[order].set(jnp.cumsum(first).astype(flat.dtype) - 1)
        place = jnp.broadcast_to(place.reshape(self.rows.shape), self.cotangents.shape[:2])
        add = lambda place, d: jnp.zeros((flat.size, d.shape[-1]), dtype).at[place].add(d)
        return jax.vmap(add)(place, d)

    def largest(self, dtype: Any) -> Float[Array, " T"]:
        most = jnp.max(jnp.abs(self.cotangents), axis=(1, 2), initial=0).astype(dtype)
        return most * self.cotangents.shape[1]

    @property
    def columns(self) -> int:
        return int(self.cotangents.shape[-1])

    def blocks(self, count: int, dtype: Any) -> Callable[[Array], Float[Array, "T _"]]:
        columns = _in_blocks(self._sums(dtype), count)
        return lambda number: columns(number).reshape(len(self.cotangents), -1)

    def summed(self, weights: Float[Array, " T"]) -> Array:
        if self._own:
            d = weigh_rows(weights, _in_range(self.cotangents))
            return self.lay(self.rows.reshape(-1), d.reshape(-1, d.shape[-1]))
        return self.lay(self.rows, combine(weights, _in_range(self.cotangents)))

    def lay(self, rows: Int[Array, " n"], cotangents: Array) -> Array:
        table = jnp.zeros((self._size, cotangents.shape[-1]), cotangents.dtype)
        return self._lay(table.at[rows].add(cotangents, mode="drop"))

    def stacked(self) -> Array:
        rows = 0 if self._own else None
        return jax.vmap(self.lay, (rows, 0))(self.rows, self.cotangents)


def _in_blocks(x: Array, count: int) -> Callable[[Array], Array]:
    """Makes the function that returns one of `count` blocks of the last axis."""
    width = -(-x.shape[-1] // count)
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width * count - x.shape[-1])])
    return lambda number: jax.lax.dynamic_slice_in_dim(padded, number * width, width, axis=-1)


def _in_range(cotangents: Array) -> Array:
    """Weighted cotangents can leave the range of float16 where the gradient does not."""
    return cotangents.astype(jnp.float32) if cotangents.dtype == jnp.float16 else cotangents


def _einsum(form: str, left: Array, right: Array) -> Array:
    return jnp.einsum(form, left, right, precision=HIGHEST)


class Rows(NamedTuple):
    """What one backward pass gives: for one row of weights, or with an axis of rows in front.

    Attributes:
        direct: gradients of the parameters that have no taps, by their slots.
        taps: the cotangents, by the numbers of the sites.
    """

    direct: Mapping[int, Array]
    taps: Mapping[int, Array]


class Tapped(Gathered):
    """Task gradients by what they are made of, where parameters meet data."""

    name = "taps"
    own_inputs = False  # Whether every task has inputs of its own.

    def __init__(
        self,
        losses: Float[Array, " T"],
        leaves: Sequence[Any],
        sites: Mapping[int, list[t.Site]],
        met: Mapping[int, Array],
        pull: Callable[[Array], Rows],
        heads: frozenset[int],
    ) -> None:
        super().__init__(losses, leaves)
        self._sites = sites
        self._met = met
        self._pull = pull
        self._heads = heads
        self._gathered: Rows | None = None
        self._dtype = at_least_float32(*self.leaves)

    def _rows(self) -> Rows:
        if self._gathered is None:
            direct = set(range(len(self.leaves))) - self._heads - set(self._sites)

            def pull(row: Array) -> Rows:
                found = self._pull(row)
                return found._replace(direct={slot: found.direct[slot] for slot in sorted(direct)})

            self._gathered = all_rows(pull, one_for_each(self.losses))
        return self._gathered

    def _leaf(self, slot: int, taps: Mapping[int, Array], mask: Any = None) -> Any:
        """Returns the contraction of a tapped parameter, with zeros for absent tasks."""
        sites = self._sites[slot]
        met = [self._met[site.number] for site in sites]
        cotangents = [taps[site.number] for site in sites]
        if mask is not None:
            cotangents = zero_absent(mask, cotangents)
            met = zero_absent(mask, met) if self.own_inputs else met
        parameter = self.leaves[slot]
        if sites[0].kind == "gather":
            return _Lookups(
                t.indices(sites, met),
                t.gather_cotangents(sites, cotangents),
                sites[0].shapes[0][0],
                t.lay_rows(sites[0], parameter),
            )
        joined = t.dense(sites, met, parameter)
        precision = sites[0].params["precision"]
        return _Dense(joined.inputs, t.dense_cotangents(sites, cotangents), precision, joined.lay)

    def _parts(self, slots: Sequence[int], mask: Any = None) -> tuple[list[Any], list[Array]]:
        """Returns the contractions of tapped parameters and the stacks of the others."""
        rows = self._rows()
        tapped = [self._leaf(slot, rows.taps, mask) for slot in slots if slot in self._sites]
        direct = [rows.direct[slot] for slot in slots if slot not in self._sites]
        return tapped, direct if mask is None else zero_absent(mask, direct)

    def scaled_gram(self, slots: Sequence[int], mask: Bool[Array, " T"]) -> ScaledGram:
        # Of a task's own inputs, those that are not finite would meet all others.
        tapped, stacks = self._parts(slots, mask if self.own_inputs else None)
        if not tapped:
            return scaled_gram(stacks, mask)
        return _scaled_gram(tapped, stacks, mask, self._dtype)

    def norms(self, slots: Sequence[int], mask: Bool[Array, " T"]) -> Float[Array, " T"]:
        matrix, scale = self.scaled_gram(slots, mask)
        return scale * root(jnp.diagonal(matrix))

    def combine(
        self, weights: Float[Array, " T"], slots: Sequence[int], mask: Bool[Array, " T"] | None
    ) -> list[Array]:
        # Heads have no gradient for each task.
        if self._heads & set(slots) or self._gathered is None:
            pull = lambda row: self._gradients(slots, self._pull(row))
            return of_weighted_sum(pull, of_present(weights, mask), self.losses)
        tapped, direct = map(iter, self._parts(slots, mask))
        return [
            next(tapped).summed(weights) if slot in self._sites else combine(weights, next(direct))
            for slot in slots
        ]

    def finite(self, slots: Sequence[int]) -> Bool[Array, " T"]:
        rows = self._rows()
        numbers = [site.number for slot in slots for site in self._sites.get(slot, ())]
        taps, met = ([of[number] for number in numbers] for of in (rows.taps, self._met))
        direct = [rows.direct[slot] for slot in slots if slot not in self._sites]
        if not self.own_inputs:  # Inputs of all tasks.
            met = [jnp.expand_dims(x, 0) for x in met]
        return finite_rows((taps, met, direct), len(self.losses))

    def _gradients(self, slots: Sequence[int], row: Rows) -> list[Array]:
        """Returns the gradients that one backward pass gives."""
        taps = {number: jnp.expand_dims(tap, 0) for number, tap in row.taps.items()}
        one = jnp.ones(1, self._dtype)
        return [
            self._leaf(slot, taps).summed(one) if slot in self._sites else row.direct[slot]
            for slot in slots
        ]

    def stack(self, slots: Sequence[int]) -> list[Array]:
        rows = self._rows()
        return [
            self._leaf(slot, rows.taps).stacked() if slot in self._sites else rows.direct[slot]
            for slot in slots
        ]


def _scaled_gram(
    tapped: Sequence[Any], stacks: Sequence[Array], mask: Bool[Array, " T"], dtype: Any
) -> ScaledGram:
    """Computes the Gram matrix, again from the gradients, part by part, where that is not safe."""
    found = [leaf.products(dtype) for leaf in tapped]
    products = inner_products([left for (left, _), _ in found], [right for (_, right), _ in found])
    bounds = jnp.sqrt(sum(bound**2 for _, bound in found))
    stacks = as_real(stacks)
    if stacks:
        products += own_products(stacks)
    squares = jnp.diagonal(products)
    eps = jnp.finfo(dtype).eps
    safe = (squares >= SAFE_SQUARE[0]) & (squares <= SAFE_SQUARE[1])
    safe &= root(squares) >= (_ROOM * eps) ** 0.5 * bounds

    def careful() -> tuple[Array, Array]:
        count = -(-max(leaf.columns for leaf in tapped) // _COLUMNS)
        parts = [leaf.blocks(count, dtype) for leaf in tapped]
        rows = gathered(stacks) if stacks else []
        sizes = [leaf.largest(dtype) for leaf in tapped]
        sizes += [largest_entries(rows, None, dtype)] if rows else []
        units = power_of_two(jnp.max(jnp.stack(sizes), axis=0))

        def add(number: Array, total: Array) -> Array:
            for of in parts:
                part = of(number) / jnp.expand_dims(units, 1)
                total += _einsum("sn,tn->st", part, part)
            return total

        again = jax.lax.fori_loop(0, count, add, jnp.zeros_like(products))
        if rows:
            again += inner_products(rows, rows, (units, units))
        return again, units

    quick = lambda: (products, jnp.ones_like(squares))
    products, units = jax.lax.cond(jnp.all(safe | ~mask), quick, careful)
    products = jnp.where(jnp.outer(mask, mask), products, 0)
    return in_scales(products, units)


class OwnBatches(Tapped):
    """Task gradients of tasks that have batches of their own: each backward pass is of one task."""

    own_inputs = True

    def __init__(
        self,
        losses: Float[Array, " T"],
        leaves: Sequence[Any],
        sites: Mapping[int, list[t.Site]],
        met: Mapping[int, Array],
        rows: Rows,
        heads: frozenset[int],
    ) -> None:
        """Takes rows whose heads are the gradients of all slices, each by its own task."""
        super().__init__(losses, leaves, sites, met, lambda row: rows, heads)
        self._gathered = rows

    def combine(
        self, weights: Float[Array, " T"], slots: Sequence[int], mask: Bool[Array, " T"] | None
    ) -> list[Array]:
        if not self._heads & set(slots):
            return super().combine(weights, slots, mask)
        slices = [self._rows().direct[slot] for slot in slots]
        return [*weigh_rows(weights, slices if mask is None else zero_absent(mask, slices))]
