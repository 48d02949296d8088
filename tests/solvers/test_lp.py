"""The linear program against SciPy's HiGHS: degenerate, infeasible and unbounded ones too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from mtl_optax._solvers import lp

VARIABLES, ROWS = 5, 6


def feasible(rng):
    """An equation on the sum, and a point within or on the other rows."""
    matrix, point = rng.normal(size=(ROWS, VARIABLES)), rng.dirichlet(np.ones(VARIABLES))
    matrix[0] = 1
    slack = rng.uniform(size=ROWS) * rng.integers(0, 2, ROWS)
    slack[0] = 0
    return rng.normal(size=VARIABLES), matrix, matrix @ point + slack, np.arange(ROWS) == 0


def degenerate(rng):
    """Small integers: ties, parallel rows, costs parallel to them, and some infeasible."""
    matrix = rng.integers(-1, 2, (ROWS, VARIABLES)).astype(float)
    matrix[0] = 1
    bounds = rng.integers(-1, 3, ROWS) / 2
    bounds[0] = 1
    return rng.integers(-2, 3, VARIABLES) * 1.0, matrix, bounds, np.arange(ROWS) == 0


def redundant(rng):
    """Half of the rows say what the others do, and equations are among both."""
    costs, matrix, bounds, equal = feasible(rng)
    half = ROWS // 2
    matrix[half:], bounds[half:] = matrix[:half], bounds[:half]
    return costs, matrix, bounds, equal | (np.arange(ROWS) == half)


def infeasible(rng):
    costs, matrix, bounds, equal = feasible(rng)
    return costs, matrix, np.where(equal, bounds, bounds - rng.uniform(0, 3, ROWS)), equal


def unbounded(rng):
    costs, matrix, bounds, _ = feasible(rng)
    matrix[0] = rng.normal(size=VARIABLES)
    return costs, matrix, np.abs(bounds), np.zeros(ROWS, bool)


def split(rng):
    """A free variable is the difference of the last two."""
    costs, matrix, bounds, equal = feasible(rng)
    matrix[0, -2:] = 0
    matrix[:, -1], costs[-1] = -matrix[:, -2], -costs[-2]
    return costs, matrix, bounds, equal


KINDS = (feasible, degenerate, redundant, infeasible, unbounded, split)


@functools.cache
def draws(number=80):
    """Numbers that float32 holds, so that both solvers see one problem."""
    rng = np.random.default_rng(0)
    drawn = [kind(rng) for kind in KINDS for _ in range(number)]
    costs, matrix, bounds, equal = (np.stack(part) for part in zip(*drawn, strict=True))
    coarse = lambda x: np.round(x * 2**10) / 2**10
    matrix = coarse(matrix)
    # A point on a row as drawn may lie beyond it once rounded: bounds leave room.
    bounds = np.where(equal, coarse(bounds), coarse(bounds) + 2**-8)
    return coarse(costs), matrix, bounds, equal


@functools.cache
def highs():
    """For each problem the status, 0 solved, 2 infeasible, 3 unbounded; and the value."""
    found = []
    for costs, matrix, bounds, equal in zip(*draws(), strict=True):
        rows = {"A_ub": matrix[~equal], "b_ub": bounds[~equal]}
        if np.any(equal):
            rows |= {"A_eq": matrix[equal], "b_eq": bounds[equal]}
        # Its presolve takes some that are unbounded for infeasible.
        rows |= {"method": "highs", "options": {"presolve": False}}
        found.append(scipy.optimize.linprog(-costs, **rows))
    return np.array([r.status for r in found]), np.array([-(r.fun or 0) for r in found])


@jax.jit
def solve(costs, matrix, bounds, equal):
    return jax.vmap(lambda c, *rest: lp(c[None], *rest))(costs, matrix, bounds, equal)


@pytest.mark.parametrize(("dtype", "close"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_equals_highs_on_hundreds_of_programs(dtype, close):
    costs, matrix, bounds, equal = draws()
    status, optimum = highs()
    with jax.enable_x64(dtype == np.float64):
        given = (jnp.asarray(x, dtype) for x in (costs, matrix, bounds))
        found = jax.tree.map(np.asarray, solve(*given, jnp.asarray(equal)))
    assert {*status} == {0, 2, 3}
    np.testing.assert_array_equal(found.feasible, status != 2)
    np.testing.assert_array_equal(found.bounded[status != 2], status[status != 2] != 3)
    assert np.max(found.iterations) <= 2 * (ROWS + VARIABLES)

    solved = status == 0
    point, size = found.point.astype(np.float64), np.maximum(np.abs(optimum), 1)
    values = np.einsum("bn,bn->b", costs, point)
    assert np.max((np.abs(values - optimum) / size)[solved]) < close
    assert np.all(point[solved] >= 0)
    excess = np.einsum("bmn,bn->bm", matrix, point) - bounds
    excess = np.max(np.where(equal, np.abs(excess), excess), axis=1)
    assert np.max((excess / np.maximum(np.sum(point, axis=1), 1))[solved]) < close
    # The certificate bounds what is missing, and is small itself.
    assert np.all(found.gap[solved] >= (optimum - values)[solved] - close * size[solved])
    far = np.maximum(np.sum(point, axis=1), 1) * size
    assert np.max((found.gap / far)[solved]) < 20 * close


def test_goals_come_in_their_order():
    """First the largest `x + y`, of those the least `x`; a violation `z` before both."""
    matrix = jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 0.0, -1.0]])
    bounds = jnp.array([3.0, 2.0, -5.0])
    costs = jnp.array([[0.0, 0.0, -1.0], [1.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    np.testing.assert_allclose(lp(costs, matrix, bounds).point, [2, 1, 3], rtol=1e-6)
    np.testing.assert_allclose(lp(costs[1:], matrix[:2], bounds[:2]).point, [0, 3, 0], atol=1e-6)


def test_scaling_rows_and_columns_changes_no_choice():
    costs, matrix, bounds, equal = (x[:80] for x in draws())
    rows, columns = 10.0 ** np.arange(-3, 3), 10.0 ** np.arange(-4, 6, 2)
    with jax.enable_x64(True):
        plain = solve(costs, matrix, bounds, equal).point
        stretched = rows[:, None] * matrix * columns, rows * bounds
        scaled = np.asarray(solve(costs * columns, *stretched, equal).point)
    np.testing.assert_allclose(scaled * columns, plain, rtol=1e-9, atol=1e-9)


def test_derivatives_are_those_of_the_vertex():
    costs, matrix, bounds, equal = (x[0] for x in draws())
    with jax.enable_x64(True):
        value = jax.jit(lambda a, b: lp(costs[None], a, b, jnp.asarray(equal)).point @ costs)
        moves = np.random.default_rng(1).normal(size=matrix.shape), bounds**2
        slopes = jax.grad(value, argnums=(0, 1))(matrix, bounds)
        found = sum(np.vdot(s, m) for s, m in zip(slopes, moves, strict=True))
        ahead, behind = (
            float(value(*(x + h * m for x, m in zip((matrix, bounds), moves, strict=True))))
            for h in (1e-6, -1e-6)
        )
    np.testing.assert_allclose(found, (ahead - behind) / 2e-6, rtol=1e-6)


@pytest.mark.nans
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("where", range(3))
def test_what_is_not_finite_ends_it(bad, where):
    costs, matrix, bounds, equal = (x[0] for x in draws())
    given = [jnp.asarray(x, jnp.float32) for x in (costs[None], matrix, bounds)]
    given[where] = given[where].at[(0,) * given[where].ndim].set(bad)
    found = lp(*given, jnp.asarray(equal))
    assert np.all(np.isnan(found.point))
    assert not found.feasible


def test_where_it_is_cut_short_the_gap_says_so():
    """At the first vertex, zero, with all of the optimum missing."""
    cut = lp(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones(1), max_iterations=0)
    np.testing.assert_array_equal(cut.point, [0])
    assert cut.gap >= 1
