"""The spectrum of a Gram matrix: of its cosines, and of itself where rows lie far apart."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mtl_optax._precision import root
from mtl_optax._solvers.simplex import unit_rows
from mtl_optax._tracing import varying_like

# Sweeps over all pairs of rows. Few matrices need more than eight.
_MOST_SWEEPS = 20


class Spectrum(NamedTuple):
    """What `spectrum` returns; the rows are `D H`, with the scales `D` and `A = HH'`.

    Attributes:
        sizes: `σ`, `(T,)`, the roots of the eigenvalues of `M = DAD`, in no order; one for those
            that count as zero.
        kept: `(T,)` bool, those that do not.
        basis: `(T, T)`, an eigenvector in each row, `M = basis' diag(σ²) basis`.
    """

    sizes: Float[Array, " T"]
    kept: Bool[Array, " T"]
    basis: Float[Array, "T T"]


class _Sweeps(NamedTuple):
    rows: Float[Array, "T R"]
    cosine: Float[Array, ""]
    number: Int[Array, ""]


def eigen(
    cosines: Float[Array, "T T"],
) -> tuple[Float[Array, " T"], Float[Array, "T T"], Bool[Array, " T"]]:
    """Returns eigenvalues and -vectors, a column each, and which of them are rounding alone."""
    values, vectors = jnp.linalg.eigh(cosines)
    return values, vectors, values <= 64 * float(jnp.finfo(cosines.dtype).eps) * values[-1]


@jax.jit
def spectrum(
    gram: Float[Array, "T T"], scale: Float[Array, " T"], mask: Bool[Array, " T"]
) -> Spectrum:
    """Computes the eigenvalues of `M = DAD`, each to rounding of its own, and its eigenvectors.

    That of a task whose gradient is 1e10 times shorter than another's would be lost in `M` itself.
    So the rank is that of the cosines, and the rows `F` of a root of their matrix are rotated in
    pairs, `D F` held as two factors, until all are at right angles: the one-sided Jacobi method
    (Hestenes 1958), whose relative accuracy does not depend on `D` (Demmel and Veselić 1992).
    All pairs that have no row in common are rotated at once.

    Args:
        gram: `A`, symmetric positive semi-definite `(T, T)`, float32 or float64.
        scale: `D`, `(T,)`, positive, at most two.
        mask: `(T,)` bool, the tasks that take part.

    Returns:
        The spectrum. Non-finite input gives sizes that are not finite.
    """
    cosines, lengths, active = unit_rows(gram, mask)
    dtype, num_tasks = cosines.dtype, len(cosines)
    values, vectors, null = eigen(cosines)
    rows = vectors * jnp.expand_dims(root(jnp.where(null, 0, values)), 0)
    scale = jnp.maximum(jnp.where(active, scale * lengths, 1), jnp.finfo(dtype).tiny)
    eps = float(jnp.finfo(dtype).eps)
    # A row that depends on others ends as rounding, of square eps², others at 64 eps and above.
    least = eps**1.5
    partners = jnp.asarray(_pairings(num_tasks))
    order = jnp.arange(num_tasks)

    def rotate(at: Int[Array, ""], state: _Sweeps) -> _Sweeps:
        partner = partners[at]
        other = state.rows[partner]
        squares = jnp.sum(state.rows[:, :num_tasks] ** 2, axis=1)
        products = jnp.sum(state.rows[:, :num_tasks] * other[:, :num_tasks], axis=1)
        alive = (squares > least) & (squares[partner] > least) & (partner != order)
        products = jnp.where(alive, products, 0)
        size = jnp.where(alive, squares * squares[partner], 1)
        cosine = jnp.max(jnp.abs(products) / jnp.sqrt(size))
        longer = jnp.maximum(scale, scale[partner])
        own, others = scale / longer, scale[partner] / longer
        half = (own**2 * squares - others**2 * squares[partner]) / 2
        product = own * others * products
        length = jnp.abs(half) + root(half**2 + product**2)
        tangent = jnp.where(half < 0, -product, product) / jnp.where(product == 0, 1, length)
        # One number for both, lest rounding let both call themselves the longer.
        tangent = jnp.where(order < partner, tangent, -tangent[partner])
        shortened = 1 / jnp.sqrt(1 + tangent**2)
        reach = jnp.minimum(scale[partner] / scale, jnp.finfo(dtype).max)
        moved = jnp.expand_dims(shortened, 1) * (
            state.rows + jnp.expand_dims(tangent * reach, 1) * other
        )
        return _Sweeps(moved, jnp.maximum(state.cosine, cosine), state.number)

    def sweep(state: _Sweeps) -> _Sweeps:
        begun = state._replace(cosine=jnp.zeros_like(state.cosine), number=state.number + 1)
        return jax.lax.fori_loop(0, len(partners), rotate, begun)

    start = _Sweeps(
        jnp.concatenate([rows, jnp.eye(num_tasks, dtype=dtype)], axis=1),
        jnp.array(jnp.inf, dtype),
        jnp.array(0, jnp.int32),
    )
    tolerance = 4 * eps * num_tasks**0.5
    final = jax.lax.while_loop(
        # A comparison with NaN is false.
        lambda state: (state.cosine > tolerance) & (state.number < _MOST_SWEEPS),
        sweep,
        varying_like(start, cosines, scale),
    )
    squares = jnp.sum(final.rows[:, :num_tasks] ** 2, axis=1)
    kept = active & ~(squares <= least)
    shares = jnp.minimum(
        jnp.expand_dims(scale, 1) / jnp.expand_dims(scale, 0), jnp.finfo(dtype).max
    )
    return Spectrum(
        jnp.where(kept, scale * jnp.sqrt(jnp.where(kept, squares, 1)), 1),
        kept,
        final.rows[:, num_tasks:] * shares,
    )


def _pairings(num_tasks: int) -> Any:
    """Returns each row's partner in each round, `(rounds, T)`, all pairs once; some sit out."""
    players = num_tasks + num_tasks % 2
    table = np.tile(np.arange(num_tasks), (max(players - 1, 0), 1))
    circle = np.arange(players)
    for partners in table:
        for one, other in zip(circle[: players // 2], circle[::-1], strict=False):
            if max(one, other) < num_tasks:
                partners[one], partners[other] = other, one
        circle[1:] = np.roll(circle[1:], 1)
    return table
