"""How a CPU computes a Gram matrix: what XLA would do slowly or less exactly, in parts."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mtl_optax._contractions import Units, as_matrix, leaf_product
from mtl_optax._precision import at_least_float32
from mtl_optax._tracing import varying_like

# Leaves are contracted together up to as many columns: every product has its price. Beyond, copying
# them costs more.
_JOINED = 4096
# The CPU contracts leaves of as many columns in parts, shorter ones whole and several at once.
LONG = 32768
# Up to here products of long leaves are sums over pairs of tasks, all in one pass over the rows: at
# least about `_SUMS` at a time, for fewer wait for each other, in chains of at most `CHAIN` terms,
# for longer ones lose digits.
PAIRED_TASKS = 8
_SUMS = 12
CHAIN = 1024
# Products of more tasks go by blocks of as many entries, which XLA copies, as many at a time: it
# spreads more than eight over the cores.
BLOCK = 65536
BLOCKS_AT_ONCE = 32


def joined(leaves: Sequence[Array]) -> list[Float[Array, "T _"]]:
    """Makes matrices of the leaves, one of neighbours that have few columns together."""
    groups: list[list[Float[Array, "T _"]]] = []
    room = 0
    for matrix in map(as_matrix, leaves):
        if not groups or matrix.shape[1] > room:
            groups.append([])
            room = _JOINED
        room -= matrix.shape[1]
        groups[-1].append(matrix)
    return [side_by_side(group) for group in groups]


def side_by_side(matrices: Sequence[Float[Array, "T _"]]) -> Float[Array, "T _"]:
    if len(matrices) == 1:
        return matrices[0]
    if len({matrix.dtype for matrix in matrices}) > 1:
        dtype = at_least_float32(*matrices)
        matrices = [matrix.astype(dtype) for matrix in matrices]
    return jnp.concatenate(matrices, axis=1)


def by_length(
    matrices: Sequence[Float[Array, "T _"]],
) -> tuple[list[Float[Array, "T _"]], list[Float[Array, "T _"]]]:
    """Returns the matrices that the CPU contracts whole, and the long ones."""
    short = [matrix for matrix in matrices if matrix.shape[1] < LONG]
    return short, [matrix for matrix in matrices if matrix.shape[1] >= LONG]


def products_in_blocks(
    matrices: Sequence[tuple[Float[Array, "T _"], Float[Array, "T _"]]], dtype: Any, units: Units
) -> Float[Array, "T T"]:
    """Computes the products in a loop, many blocks in each round.

    XLA's own product of long rows runs on one core of a CPU, but it runs several at once.
    """
    entries = sum(left.size for left, _ in matrices)
    at_once = BLOCKS_AT_ONCE if units is None else 1  # Memory counts, speed does not: it is rare.
    rounds = -(-entries // (at_once * BLOCK))
    # Blocks of each matrix in a round.
    cuts = [max(1, -(-left.size // (rounds * BLOCK))) for left, _ in matrices]

    def product(index: int, start: Any, width: int) -> Float[Array, "T T"]:
        columns = lambda x: jax.lax.dynamic_slice_in_dim(x, start, width, axis=1)
        left, right = matrices[index]
        return leaf_product(columns(left), columns(right), dtype, units)

    total: Any = jnp.zeros((), dtype)
    blocks = []
    for index, ((left, _), cut) in enumerate(zip(matrices, cuts, strict=True)):
        width, rest = divmod(left.shape[1], rounds * cut)
        total += product(index, left.shape[1] - rest, rest)
        blocks += [(index, k, cut, width) for k in range(cut) if width]

    def add_round(i: Array, total: Array) -> Array:
        return total + sum(product(j, (i * cut + k) * width, width) for j, k, cut, width in blocks)

    return jax.lax.fori_loop(0, rounds, add_round, varying_like(total, matrices))


def sums_over_pairs(
    matrices: Sequence[tuple[Float[Array, "T _"], Float[Array, "T _"]]],
    dtype: Any,
) -> Float[Array, "T T"]:
    """Computes the products of a few tasks row by row, on all cores and without copies."""
    num_tasks = len(matrices[0][0])
    symmetric = matrices[0][0] is matrices[0][1]
    tasks = range(num_tasks)
    pairs = [(s, t) for s in tasks for t in tasks if t <= s or not symmetric]
    table = np.zeros((num_tasks, num_tasks), int)
    for number, (s, t) in enumerate(pairs):
        table[s, t] = number
        if symmetric:
            table[t, s] = number
    strands = max(1, _SUMS // len(pairs))  # Sums of one pair.

    def add(totals: Sequence[Array], terms: Sequence[Array]) -> list[Array]:
        return [total + term for total, term in zip(totals, terms, strict=True)]

    def rows(matrix: Array, chain: int) -> list[list[Float[Array, "chains terms"]]]:
        used = matrix.shape[1] // (strands * chain) * chain
        return [
            [
                jax.lax.slice(matrix, (task, k * used), (task + 1, (k + 1) * used))
                .astype(dtype)
                .reshape(-1, chain)
                for k in range(strands)
            ]
            for task in range(num_tasks)
        ]

    rests = jnp.zeros((), dtype)
    sums = []
    for left, right in matrices:
        size = left.shape[1]
        lengths = range(CHAIN, CHAIN // 4, -1)
        chain = next((n for n in lengths if size % (strands * n) == 0), CHAIN)
        if rest := size % (strands * chain):
            rests += leaf_product(left[:, -rest:], right[:, -rest:], dtype, None)
        of_left = rows(left, chain)
        of_right = of_left if symmetric else rows(right, chain)
        products = [a * b for s, t in pairs for a, b in zip(of_left[s], of_right[t], strict=True)]
        found = jax.lax.reduce(products, [jnp.zeros((), dtype)] * len(products), add, (1,))
        sums.append(jnp.stack(found).reshape(len(pairs), -1))
    return rests + jnp.sum(jnp.concatenate(sums, axis=1), axis=1)[table]
