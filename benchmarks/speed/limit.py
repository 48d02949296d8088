"""The limit of a method that needs the Gram matrix: what the machine can do in this very run.

The stack of task gradients, `(T, N)` in float32, must be read twice, once for the Gram matrix and
once for the weighted sum, and the update, `(N,)`, written once: `4 (2 T + 1) N` bytes. The Gram
matrix takes `T² N` multiply-adds. The two can overlap, so that the larger time is the limit. The
bandwidth is the best of two plain programs on the same buffers, the rate that of a large product.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from benchmarks.speed.timing import Times, Work

READ, SUM, PRODUCT = "one read", "sum of the rows", "large product"
_SIDE = 1024  # Of the matrices whose product gives the rate.


def works(leaves: dict[str, Array]) -> dict[str, Work]:
    """Returns what the limit is computed from.

    One program reads the stack, one reads it and writes an update, and one multiplies large
    matrices at the precision of the Gram matrix.
    """
    rows_of = lambda g: g.reshape(-1, g.shape[-1])
    read = jax.jit(lambda tree: [jnp.max(_chunks(rows_of(g)), axis=1) for g in tree.values()])
    add = jax.jit(lambda tree: [sum(g[t] for t in range(len(g))) for g in tree.values()])
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    square = jnp.ones((_SIDE, _SIDE))
    return {READ: on(read, leaves), SUM: on(add, leaves), PRODUCT: on(product, square)}


def _chunks(rows: Float[Array, "t n"]) -> Float[Array, "c m"]:
    """At least 64 pieces, as far as the shape allows, so that every core has some to read."""
    t, n = rows.shape
    pieces = next((c for c in (64, 32, 16, 8, 4, 2) if n % c == 0), 1)
    return rows.reshape(t * pieces, n // pieces)


def seconds(times: Times, num_tasks: int, size: int) -> float:
    """Returns the limit for a stack `(num_tasks, size)`, from a contest of `works`."""
    stack, update = 4 * num_tasks * size, 4 * size
    bandwidth = max(stack / times.median(READ), (stack + update) / times.median(SUM))
    rate = _SIDE**3 / times.median(PRODUCT)
    return max((2 * stack + update) / bandwidth, num_tasks**2 * size / rate)


def on(function: Callable[..., object], *args: object) -> Work:
    """Returns the work of calling a jitted function, up to its last result."""
    return lambda: jax.block_until_ready(function(*args))


def in_turn(step: Callable[..., tuple[Any, object]], carry: Any, *args: object) -> Work:
    """Returns the work of a step that is given, to keep, the carry it returned the time before."""
    compiled = jax.jit(step, donate_argnums=0)
    held = jax.tree.map(jnp.copy, carry)

    def work() -> None:
        nonlocal held
        held, _ = jax.block_until_ready(compiled(held, *args))

    return work
