"""Linear algebra over stacked task gradients: the only file that contracts gradient trees."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax._checks import check_real_array, check_stack
from mtl_optax._complex import as_real, by_parts
from mtl_optax._contractions import Units, as_matrix, leaf_product, may_be_sharded, on_mesh_of
from mtl_optax._gram_on_cpu import (
    LONG,
    PAIRED_TASKS,
    by_length,
    joined,
    products_in_blocks,
    side_by_side,
    sums_over_pairs,
)
from mtl_optax._precision import HIGHEST, at_least_float32, power_of_two, root
from mtl_optax._tracing import cond, is_traced
from mtl_optax._trees import along_tasks, zero_absent
from mtl_optax._unstacked import TaskGradients

# Up to here sums over tasks are written out: XLA then fuses them with what uses them.
FEW_TASKS = 16

# Where a task's squared norm lies in this range, the squares of its entries are normal numbers in
# float32, for up to 1e13 of one size, and no sum has overflowed.
SAFE_SQUARE = (1e-24, 1e32)


class ScaledGram(NamedTuple):
    """A Gram matrix held as `scale_s scale_t matrix_st`, so that no square over- or underflows.

    Attributes:
        matrix: Gram of the task gradients, each divided by its scale, `(T, T)`. The diagonal lies
            in [1, 4), but for rows of zeros: those of zero gradients and of absent tasks.
        scale: powers of two `(T,)`, so that the division is exact; one for rows of zeros.
    """

    matrix: Float[Array, "T T"]
    scale: Float[Array, " T"]


def gram(task_gradients: Any) -> Float[Array, "T T"]:
    """Computes the Gram matrix `M[s, t] = <g_s, g_t>` of stacked task gradients.

    Args:
        task_gradients: pytree with leaves `(T, *p.shape)` of any floating or complex dtype.

    Returns:
        `(T, T)`, summed over all leaves in float32 at the highest matrix-product precision
        (float64 if a leaf is float64). Squares of gradients beyond about 1e19 overflow.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> mtl.gram({"w": jnp.array([[3.0, 4.0], [1.0, 0.0]])})
        Array([[25.,  3.],
               [ 3.,  1.]], dtype=float32)
    """
    if isinstance(task_gradients, TaskGradients):
        return task_gradients.gram()
    check_stack("gram", "task_gradients", task_gradients)
    return own_products(task_gradients)


@jax.jit
def own_products(task_gradients: Any) -> Float[Array, "T T"]:
    rows = as_real(task_gradients)
    return products(rows, rows)


def products(left: Any, right: Any, units: Units = None) -> Float[Array, "T T"]:
    """Computes `<l_s, r_t>` of two stacks of task gradients, each task's divided by its unit."""
    stacks = [jax.tree.leaves(left)]
    if left is not right:
        stacks.append(jax.tree.leaves(right))
    dtype = at_least_float32(*(leaf for stack in stacks for leaf in stack))

    def whole(stacks: Any, units: Units) -> Float[Array, "T T"]:
        return _sum([leaf_product(*pair, dtype, units) for pair in _pairs(stacks)])

    def on_cpu(stacks: Any, units: Units) -> Float[Array, "T T"]:
        if units is not None:  # XLA copies what it divides.
            return products_in_blocks(_pairs(stacks), dtype, units)
        short, long = zip(*map(by_length, stacks), strict=True)
        parts = [whole(short, None)] if short[0] else []
        if len(long[0][0]) <= PAIRED_TASKS:
            parts.append(sums_over_pairs(_pairs(long), dtype))
        else:
            parts.append(products_in_blocks(_pairs(long), dtype, None))
        return _sum(parts)

    if may_be_sharded():
        return whole(stacks, units)
    stacks = [joined(stack) for stack in stacks]
    if all(leaf.shape[1] < LONG for leaf in stacks[0]):
        return whole(stacks, units)
    return jax.lax.platform_dependent(stacks, units, cpu=on_cpu, default=whole)


def _sum(products: Sequence[Float[Array, "T T"]]) -> Float[Array, "T T"]:
    """Adds up; XLA would fuse a chain of additions with the products, and compile for seconds."""
    if len(products) == 1:
        return products[0]
    num_tasks = len(products[0])
    return jnp.sum(jnp.concatenate(products, axis=1).reshape(num_tasks, -1, num_tasks), axis=1)


def _pairs(stacks: Sequence[Sequence[Array]]) -> list[tuple[Array, Array]]:
    """Pairs the leaves of two stacks, or those of one with themselves."""
    return list(zip(stacks[0], stacks[-1], strict=True))


def scaled_gram(task_gradients: Any, mask: Bool[Array, " T"]) -> ScaledGram:
    """Computes the Gram matrix of the present tasks, safe at any scale of each gradient."""
    if isinstance(task_gradients, TaskGradients):
        return task_gradients.scaled_gram(mask)
    return _scaled_gram(task_gradients, mask)


@jax.jit
def _scaled_gram(task_gradients: Any, mask: Bool[Array, " T"]) -> ScaledGram:
    rows = as_real(task_gradients)
    found, units = _at_any_scale(rows, rows, mask, jnp.diagonal)
    return in_scales(found, units[0])


def in_scales(products: Float[Array, "T T"], units: Float[Array, " T"]) -> ScaledGram:
    """Holds products of gradients that were each divided by its unit."""
    scale = power_of_two(root(jnp.diagonal(products)))
    matrix = products / jnp.expand_dims(scale, 1) / jnp.expand_dims(scale, 0)
    return ScaledGram(matrix, units * scale)


def _at_any_scale(
    left: Any,
    right: Any,
    mask: Bool[Array, " T"],
    sizes: Callable[[Float[Array, "T T"]], Float[Array, " T"]],
) -> tuple[Float[Array, "T T"], tuple[Float[Array, " T"], Float[Array, " T"]]]:
    """Computes the products of the present tasks, again from divided stacks where not safe.

    Args:
        left: a stack of task gradients.
        right: the same or another one.
        mask: `(T,)` bool.
        sizes: says of products how large those of each task are.

    Returns:
        The products, and the powers of two that the rows of both stacks were divided by.
    """

    def compute(left: Any, right: Any, units: Units) -> Float[Array, "T T"]:
        return jnp.where(jnp.outer(mask, mask), products(left, right, units), 0.0)

    as_computed = compute(left, right, None)
    size = sizes(as_computed)
    safe = (size >= SAFE_SQUARE[0]) & (size <= SAFE_SQUARE[1])

    def plain() -> tuple[Float[Array, "T T"], Any]:
        return as_computed, (jnp.ones_like(size), jnp.ones_like(size))

    def checked() -> tuple[Float[Array, "T T"], Any]:
        one = gathered(left)
        other = one if right is left else gathered(right)
        largest = [largest_entries(leaves, mask, size.dtype) for leaves in (one, other)]
        units = power_of_two(largest[0]), power_of_two(largest[1])
        # Rows of zeros are right as they are. A comparison with NaN is false.
        wrong = jnp.any(~(safe | (largest[0] == 0))) & ~(jnp.max(largest[1]) == 0)
        return cond(wrong, lambda: (compute(one, other, units), units), plain)

    return cond(jnp.all(safe | ~mask), plain, checked)


def gathered(task_gradients: Any) -> list[Array]:
    """Joins all leaves but the long ones, where what is computed is rare and is to compile fast."""
    leaves = jax.tree.leaves(task_gradients)
    if may_be_sharded():
        return leaves
    short, long = by_length([as_matrix(leaf) for leaf in leaves])
    return [side_by_side(short), *long] if short else long


def gram_from_rows(
    rows: Float[Array, "T T"], lengths: Float[Array, " T"], mask: Bool[Array, " T"]
) -> ScaledGram:
    """Puts a Gram matrix together from rows that were computed one at a time.

    Args:
        rows: row `s` holds `<g_s, g_t> / power_of_two(‖g_s‖)` for all `t`.
        lengths: `‖g_t‖`, `(T,)`.
        mask: `(T,)` bool.
    """
    scale = power_of_two(jnp.where(mask, lengths, 0))
    matrix = jnp.where(jnp.outer(mask, mask), rows / jnp.expand_dims(scale, 0), 0)
    return ScaledGram((matrix + matrix.T) / 2, scale)


def relative(held: ScaledGram) -> tuple[Float[Array, " T"], Float[Array, ""]]:
    """Returns the scales as shares of the largest, and the largest.

    The share of a row of zeros is one: whatever it is, nothing comes of it.
    """
    present = jnp.diagonal(held.matrix) > 0
    unit = jnp.max(jnp.where(present, held.scale, 0))
    unit = jnp.where(unit > 0, unit, 1)
    return jnp.where(present, held.scale / unit, 1), unit


class ScaledCrossGram(NamedTuple):
    """The inner products of two stacks of task gradients, held as `unit scale_s matrix_st`.

    Attributes:
        matrix: `(T, T)`. The largest entry of each row lies in [1, 2) by magnitude, or all are
            zero. Rows and columns of absent tasks are zero.
        scale: powers of two `(T,)`, the largest of them one; one for rows of zeros.
        unit: a power of two `()`; zero or infinity where products leave the dtype's range.
    """

    matrix: Float[Array, "T T"]
    scale: Float[Array, " T"]
    unit: Float[Array, ""]


@jax.jit
def cross_gram(left: Any, right: Any, mask: Bool[Array, " T"]) -> ScaledCrossGram:
    """Computes `<l_s, r_t>` for the present tasks `s` and `t`, safe at any scale of either stack.

    Args:
        left: pytree with leaves `(T, *p.shape)`; its tasks are the rows of the result.
        right: another of the same structure and shapes.
        mask: `(T,)` bool.
    """
    found, (rows, columns) = _at_any_scale(
        as_real(left), as_real(right), mask, lambda products: jnp.max(jnp.abs(products), axis=1)
    )
    top, longest = jnp.max(rows), jnp.max(columns)
    found *= jnp.expand_dims(columns / longest, 0)
    largest = jnp.max(jnp.abs(found), axis=1)
    size = power_of_two(largest)
    sizes = jnp.where(largest > 0, size * (rows / top), 0)
    most = power_of_two(jnp.max(sizes))
    scale = jnp.where(largest > 0, sizes / most, 1)
    return ScaledCrossGram(found / jnp.expand_dims(size, 1), scale, most * top * longest)


def largest_entries(
    leaves: Sequence[Array], mask: Bool[Array, " T"] | None, dtype: Any
) -> Float[Array, " T"]:
    """Returns each task's largest entry by magnitude; zero for absent tasks."""
    each = [jnp.max(jnp.abs(g), axis=tuple(range(1, g.ndim)), initial=0) for g in leaves]
    largest = jnp.max(jnp.stack([entry.astype(dtype) for entry in each]), axis=0)
    return largest if mask is None else jnp.where(mask, largest, 0)


def combine(weights: Float[Array, "*sums T"], task_gradients: Any) -> Any:
    """Computes the weighted sum `Σ_t w_t g_t`, accumulated in float32 or better, leaf by leaf.

    Args:
        weights: `(T,)`; axes in front of it make as many sums, `(*sums, T)`.
        task_gradients: pytree with leaves `(T, *p.shape)`.

    Returns:
        pytree with leaves `(*sums, *p.shape)` in the dtype of the gradients.
    """
    check_real_array("combine", "weights", weights)
    if isinstance(task_gradients, TaskGradients):
        several = weights.ndim == 2
        return task_gradients.mix(weights) if several else task_gradients.combine(weights)
    num_tasks = check_stack("combine", "task_gradients", task_gradients)
    if weights.shape[-1:] != (num_tasks,):
        raise ValueError(
            f"combine: weights has shape {weights.shape}, wanted ({num_tasks},): one for each row "
            "of task_gradients."
        )
    contract = lambda part: _contract_tasks(weights, part)
    return jax.tree.map(lambda g: by_parts(contract, g), task_gradients)


def mix(coefficients: Float[Array, "S T"], task_gradients: Any) -> Any:
    """Computes `S` combinations of the task gradients, `r_s = Σ_t K[s, t] g_t`.

    Args:
        coefficients: `K`, `(S, T)`.
        task_gradients: pytree with leaves `(T, *p.shape)`.

    Returns:
        pytree with leaves `(S, *p.shape)` in the dtype of the gradients.
    """
    return combine(coefficients, task_gradients)


def fold_tasks(add: Callable[[Any, Array], Any], first: Callable[[Array], Any], leaf: Array) -> Any:
    """Folds a leaf `(T, ...)` over its tasks: `add(add(first(g_0), g_1), g_2)` and so on.

    On the CPU JAX 0.10.2 takes up to a hundred times as long for a reduction over a leading axis
    (`findings/jax_cpu_sums_over_tasks.sh`).
    """
    if len(leaf) <= FEW_TASKS or not is_traced(leaf):
        return functools.reduce(add, (leaf[t] for t in range(1, len(leaf))), first(leaf[0]))
    rest = lambda t, total: add(total, leaf[t])
    return jax.lax.fori_loop(1, len(leaf), rest, first(leaf[0]))


def sum_rows(leaf: Array) -> Array:
    """Sums a leaf `(T, ...)` over its tasks."""
    return fold_tasks(jnp.add, jnp.asarray, leaf)


def _contract_tasks(coefficients: Array, leaf: Array) -> Array:
    dtype = at_least_float32(coefficients, leaf)
    if coefficients.ndim == 1 and len(leaf) <= FEW_TASKS and not may_be_sharded():
        terms = (coefficients[t].astype(dtype) * leaf[t].astype(dtype) for t in range(len(leaf)))
        return functools.reduce(jnp.add, terms).astype(leaf.dtype)
    kept = (None,) * (coefficients.ndim - 1)
    contracted = jax.lax.dot_general(
        coefficients.astype(dtype),
        leaf.astype(dtype),
        (((coefficients.ndim - 1,), (0,)), ((), ())),
        precision=HIGHEST,
        out_sharding=on_mesh_of(leaf, *kept, *jax.typeof(leaf).sharding.spec[1:]),
    )
    return contracted.astype(leaf.dtype)


def weigh_rows(weights: Float[Array, " T"], task_gradients: Any) -> Any:
    """Multiplies each task's gradient by its weight: leaves stay `(T, *p.shape)`."""
    if isinstance(task_gradients, TaskGradients):
        task_gradients = task_gradients.stack()

    def weigh(g: Array) -> Array:
        dtype = at_least_float32(weights, g)
        return (along_tasks(weights, g).astype(dtype) * g.astype(dtype)).astype(g.dtype)

    return jax.tree.map(lambda g: by_parts(weigh, g), task_gradients)


def only_present(mask: Bool[Array, " T"], task_gradients: Any) -> Any:
    """Makes the gradients of absent tasks zero, whatever they hold."""
    if isinstance(task_gradients, TaskGradients):
        return task_gradients.masked(mask)
    return zero_absent(mask, task_gradients)


def norms(task_gradients: Any) -> Float[Array, " T"]:
    """Computes the Euclidean norm `‖g_t‖` of each task's gradient over all leaves, `(T,)`."""
    leaves = jax.tree.leaves(as_real(task_gradients))
    dtype = at_least_float32(*leaves)
    units = power_of_two(largest_entries(leaves, None, dtype))
    squares = sum(
        jnp.sum((g.astype(dtype) / along_tasks(units, g)) ** 2, axis=tuple(range(1, g.ndim)))
        for g in leaves
    )
    return units * root(jnp.asarray(squares))
