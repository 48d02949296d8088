"""The inner solvers against enumeration, cvxpy and SciPy, and their own certificates."""

import itertools

import cvxpy as cp
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import strategies as st

from mtl_optax._solvers import bargaining, conic, frank_wolfe, min_norm, projected_gradient
from mtl_optax._solvers.min_norm import SOLVERS
from tests.common import optimised
from tests.matrices import KINDS, hard

NUM_TASKS = 4


def rows(kind, num_tasks, seed):
    """Gradients of one kind, `(num_tasks, N)`, largest norm one."""
    matrix = hard(num_tasks, num_tasks + 3, seed)[kind]
    largest = np.max(np.linalg.norm(matrix, axis=1))
    return matrix / (largest or 1)


def enumerate_min_norm(gram):
    """The least `w'Mw` on the simplex by trying the minimiser of every support, in float64."""
    best = np.inf
    num_tasks = len(gram)
    for size in range(1, num_tasks + 1):
        for support in itertools.combinations(range(num_tasks), size):
            index = list(support)
            system = np.zeros((size + 1, size + 1))
            system[:size, :size] = gram[np.ix_(index, index)]
            system[:size, size] = system[size, :size] = 1
            part = np.linalg.lstsq(system, np.eye(size + 1)[size], rcond=None)[0][:size]
            if np.all(part >= -1e-12) and abs(part.sum() - 1) < 1e-9:
                best = min(best, part @ gram[np.ix_(index, index)] @ part)
    return best


def conic_value(linear, quadratic, kappa, weights):
    return linear @ weights + kappa * np.sqrt(max(weights @ quadratic @ weights, 0))


def conic_problem(matrix, radius):
    """CAGrad's problem for the rows of `matrix`: b = Mu, Q = M, κ = c‖g_0‖."""
    gram = matrix @ matrix.T
    mean = np.full(len(gram), 1 / len(gram))
    return gram @ mean, gram, radius * np.sqrt(max(mean @ gram @ mean, 0))


def solve_conic_with_cvxpy(linear, matrix, kappa):
    weights = cp.Variable(len(linear), nonneg=True)
    objective = linear @ weights + kappa * cp.norm(matrix.T @ weights)
    problem = cp.Problem(cp.Minimize(objective), [cp.sum(weights) == 1])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9)
    return problem.value


jitted_min_norm = {name: optimised(solver) for name, solver in SOLVERS.items()}
jitted_conic = optimised(conic)

seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(KINDS)


@hypothesis.settings(max_examples=300)
@hypothesis.given(kinds, seeds)
def test_fully_corrective_equals_enumeration(kind, seed):
    matrix = rows(kind, NUM_TASKS, seed)
    gram = matrix @ matrix.T
    solution = jitted_min_norm["fully_corrective"](jnp.asarray(gram, jnp.float32))
    weights = np.asarray(solution.weights, np.float64)
    assert np.all(weights >= 0)
    assert abs(weights.sum() - 1) < 1e-6
    assert weights @ gram @ weights <= enumerate_min_norm(gram) + 5e-7
    assert solution.gap <= 1e-6
    assert solution.iterations <= 2 * NUM_TASKS


@hypothesis.settings(max_examples=100)
@hypothesis.given(kinds, st.sampled_from([1, 3, 6, 14]), seeds)
def test_fully_corrective_meets_the_optimality_conditions(kind, num_tasks, seed):
    """`<g_t, d> >= ‖d‖²`, to rounding in the unit of each task, and equality on the support."""
    matrix = rows(kind, num_tasks, seed)
    solution = jitted_min_norm["fully_corrective"](jnp.asarray(matrix @ matrix.T, jnp.float32))
    weights = np.asarray(solution.weights, np.float64)
    direction = weights @ matrix
    lengths = np.linalg.norm(matrix, axis=1)
    size = lengths * (weights @ lengths) + 1e-12
    slack = matrix @ direction - direction @ direction
    assert np.all(slack >= -5e-6 * size)
    assert np.all(np.abs(slack) * (weights > 0) <= 5e-6 * size)


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.01])
def test_fully_corrective_reaches_float32_rounding_for_fourteen_tasks(spread):
    """Cosines between `d` and what it falls short by stay at a few units in the last place."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=50) + spread * rng.normal(size=(14, 50))
    matrix /= np.max(np.linalg.norm(matrix, axis=1))
    weights = jitted_min_norm["fully_corrective"](jnp.asarray(matrix @ matrix.T, jnp.float32))[0]
    direction = np.asarray(weights, np.float64) @ matrix
    shortfall = direction @ direction - matrix @ direction
    assert np.max(shortfall / np.linalg.norm(matrix, axis=1)) < 5e-7 * np.linalg.norm(direction)


@hypothesis.settings(max_examples=100)
@hypothesis.given(kinds, st.sampled_from(["frank_wolfe", "projected_gradient"]), seeds)
def test_first_order_solvers_certify_their_gap(kind, solver, seed):
    matrix = rows(kind, NUM_TASKS, seed)
    gram = matrix @ matrix.T
    solution = jitted_min_norm[solver](jnp.asarray(gram, jnp.float32))
    weights = np.asarray(solution.weights, np.float64)
    assert np.all(weights >= 0)
    assert abs(weights.sum() - 1) < 1e-5
    best = enumerate_min_norm(gram)
    # The gap bounds half the excess of w'Mw, and says what a capped run did not reach.
    assert (weights @ gram @ weights - best) / 2 <= float(solution.gap) + 1e-6
    assert solution.gap <= 5e-3
    if solver == "projected_gradient" and kind != "scales":
        assert weights @ gram @ weights <= best + 1e-4


@pytest.mark.parametrize("solver", SOLVERS)
def test_min_norm_of_two_tasks_has_a_closed_form(solver):
    rng = np.random.default_rng(0)
    for _ in range(20):
        matrix = rng.normal(size=(2, 3))
        gram = matrix @ matrix.T
        spread = gram[0, 0] + gram[1, 1] - 2 * gram[0, 1]
        wanted = np.clip((gram[1, 1] - gram[0, 1]) / spread, 0, 1)
        weights = jitted_min_norm[solver](jnp.asarray(gram, jnp.float32)).weights
        tolerance = 1e-5 if solver == "fully_corrective" else 2e-3
        np.testing.assert_allclose(weights, [wanted, 1 - wanted], atol=tolerance)


@pytest.mark.parametrize("solver", SOLVERS)
def test_min_norm_keeps_float32_where_jax_has_64_bits_and_promotes_nothing(solver):
    gram = np.asarray(rows("gaussian", 4, 0) @ rows("gaussian", 4, 0).T, np.float32)
    wanted = jitted_min_norm[solver](gram).weights
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        weights = optimised(SOLVERS[solver])(jnp.asarray(gram)).weights
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, wanted, atol=1e-6)


def test_min_norm_equals_scipy_in_float64():
    with jax.enable_x64(True):
        for seed in range(20):
            matrix = rows("gaussian", 8, seed)
            # Non-negative least squares on [G'; 1] solves it up to a factor.
            stacked = np.vstack([matrix.T, np.ones(8)])
            wanted = scipy.optimize.nnls(stacked, np.eye(matrix.shape[1] + 1)[-1])[0]
            weights = min_norm(jnp.asarray(matrix @ matrix.T)).weights
            np.testing.assert_allclose(weights, wanted / wanted.sum(), atol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_min_norm_degenerate_inputs(solver):
    solve = jitted_min_norm[solver]
    np.testing.assert_allclose(solve(jnp.ones((1, 1))).weights, [1])
    np.testing.assert_allclose(solve(jnp.zeros((3, 3))).weights, np.full(3, 1 / 3), rtol=1e-6)
    opposite = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    np.testing.assert_allclose(solve(opposite).weights, [0.5, 0.5], rtol=1e-6)
    identical = solve(jnp.ones((3, 3)))
    np.testing.assert_allclose(identical.weights, np.full(3, 1 / 3), rtol=1e-5)
    one_zero = jnp.diag(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(solve(one_zero).weights, [0, 1], atol=1e-3)


@pytest.mark.nans
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("solver", SOLVERS)
def test_non_finite_input_ends_and_propagates(solver, bad):
    gram = jnp.eye(3).at[0, 1].set(bad).at[1, 0].set(bad)
    assert np.all(np.isnan(jitted_min_norm[solver](gram).weights))
    solution = jitted_conic(jnp.ones(3), gram, 0.5)
    assert np.all(np.isnan(solution.weights))
    assert np.all(np.isnan(solution.multipliers))


@pytest.mark.parametrize("solver", SOLVERS)
def test_min_norm_with_a_mask_equals_the_smaller_problem(solver):
    matrix = rows("gaussian", 5, 0)
    gram = jnp.asarray(matrix @ matrix.T, jnp.float32)
    keep = np.array([0, 2, 4])
    mask = jnp.zeros(5, bool).at[keep].set(True)
    weights = jitted_min_norm[solver](jnp.where(jnp.outer(mask, mask), gram, 0), mask).weights
    wanted = jitted_min_norm[solver](gram[np.ix_(keep, keep)]).weights
    np.testing.assert_allclose(weights[keep], wanted, atol=2e-5)
    assert np.all(np.asarray(weights)[[1, 3]] == 0)


@hypothesis.settings(max_examples=150)
@hypothesis.given(kinds, st.sampled_from([2, 3, 6]), st.sampled_from([0.05, 0.4, 0.9, 1.5]), seeds)
def test_conic_equals_cvxpy(kind, num_tasks, radius, seed):
    matrix = rows(kind, num_tasks, seed)
    linear, quadratic, kappa = conic_problem(matrix, radius)
    solution = jitted_conic(
        jnp.asarray(linear, jnp.float32), jnp.asarray(quadratic, jnp.float32), np.float32(kappa)
    )
    weights = np.asarray(solution.weights, np.float64)
    assert np.all(weights >= 0)
    assert abs(weights.sum() - 1) < 1e-6
    value = conic_value(linear, quadratic, kappa, weights)
    # Where w'Qw vanishes, the square root turns rounding of 1e-7 into 3e-4.
    assert value <= solve_conic_with_cvxpy(linear, matrix, kappa) + 3e-4 * max(kappa, 1e-3)
    assert solution.gap <= 2e-3 * max(kappa, 1e-3)
    assert solution.iterations <= 4 * num_tasks


@hypothesis.settings(max_examples=100)
@hypothesis.given(st.sampled_from([2, 3, 6, 14]), st.sampled_from([0.05, 0.4, 0.9, 1.5]), seeds)
def test_conic_is_exact_where_well_conditioned(num_tasks, radius, seed):
    linear, quadratic, kappa = conic_problem(rows("gaussian", num_tasks, seed), radius)
    with jax.enable_x64(True):
        exact = conic(jnp.asarray(linear), jnp.asarray(quadratic), kappa)
        assert exact.gap <= 1e-13
    single = jitted_conic(
        jnp.asarray(linear, jnp.float32), jnp.asarray(quadratic, jnp.float32), np.float32(kappa)
    )
    assert single.gap <= 2e-6
    direction = lambda x: quadratic @ np.asarray(x, np.float64)
    np.testing.assert_allclose(
        direction(single.multipliers), direction(exact.multipliers), atol=2e-5
    )


def test_conic_multipliers_are_the_dual_solution():
    """`x = κ w / sqrt(w'Qw)`: on the sphere, and it levels the slopes of the support."""
    linear, quadratic, kappa = conic_problem(rows("gaussian", 5, 1), 0.5)
    with jax.enable_x64(True):
        solution = conic(jnp.asarray(linear), jnp.asarray(quadratic), kappa)
    weights, x = np.asarray(solution.weights), np.asarray(solution.multipliers)
    np.testing.assert_allclose(np.sqrt(x @ quadratic @ x), kappa, rtol=1e-12)
    np.testing.assert_allclose(x / x.sum(), weights, atol=1e-12)
    slopes = linear + quadratic @ x
    assert slopes.min() >= conic_value(linear, quadratic, kappa, weights) - 1e-12


def test_conic_of_rank_one_is_certified():
    """Parallel gradients: Q is singular on every support of two tasks or more."""
    with jax.enable_x64(True):
        for seed in range(60):
            matrix = np.random.default_rng(seed).normal(size=(3, 1))
            for radius in (0.1, 0.5, 0.9):
                linear, quadratic, kappa = conic_problem(matrix, radius)
                solution = jitted_conic(jnp.asarray(linear), jnp.asarray(quadratic), kappa)
                assert solution.gap < 1e-10, (seed, radius)


def test_conic_without_a_cone_is_a_linear_programme():
    solution = jitted_conic(jnp.array([3.0, 1.0, 2.0]), jnp.eye(3), 0.0)
    np.testing.assert_allclose(solution.weights, [0, 1, 0], atol=1e-6)
    assert np.all(np.asarray(solution.multipliers) == 0)


def test_the_min_norm_problem_solves_no_system_for_slopes_that_are_zero():
    def solves(solver, *given):
        return str(jax.make_jaxpr(solver)(*given)).count("name=_cho_solve")

    # Each is refined once.
    assert solves(min_norm, jnp.eye(3)) == 2
    assert solves(conic, jnp.ones(3), jnp.eye(3), 1.0) == 4


def test_conic_with_a_mask_equals_the_smaller_problem():
    linear, quadratic, kappa = conic_problem(rows("gaussian", 5, 3), 0.5)
    keep = np.array([1, 2, 4])
    mask = jnp.zeros(5, bool).at[keep].set(True)
    got = jitted_conic(
        jnp.asarray(linear, jnp.float32), jnp.asarray(quadratic, jnp.float32), kappa, mask
    )
    wanted = jitted_conic(
        jnp.asarray(linear[keep], jnp.float32),
        jnp.asarray(quadratic[np.ix_(keep, keep)], jnp.float32),
        kappa,
    )
    np.testing.assert_allclose(np.asarray(got.weights)[keep], wanted.weights, atol=1e-5)
    assert np.all(np.asarray(got.weights)[[0, 3]] == 0)


def test_a_cap_on_iterations_is_kept_and_reported():
    linear, quadratic, kappa = conic_problem(rows("gaussian", 14, 0), 0.1)
    solution = conic(jnp.asarray(linear), jnp.asarray(quadratic), kappa, max_iterations=3)
    assert solution.iterations == 3
    assert solution.gap > 1e-4
    weights = np.asarray(solution.weights)
    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)


def test_a_bargain_ends_where_rounding_lets_the_residual_fall_no_further():
    grams = [m @ m.T for m in (rows("gaussian", 14, seed) for seed in range(40))]
    solution = jax.vmap(bargaining)(jnp.asarray(np.stack(grams), jnp.float32))
    assert np.max(solution.iterations) <= 15
    assert np.max(solution.residual) < 1e-5


@pytest.mark.parametrize("kappa", [0.5, 0.0])
def test_a_zero_row_has_no_multiplier(kappa):
    matrix = rows("far apart", NUM_TASKS, 0)
    matrix[1] = 0
    gram = jnp.asarray(matrix @ matrix.T, jnp.float32)
    linear = gram @ jnp.full(NUM_TASKS, 1 / NUM_TASKS, jnp.float32)
    assert conic(linear, gram, kappa).multipliers[1] == 0
    assert conic(jnp.zeros_like(linear), gram, 1.0).multipliers[1] == 0


def test_the_gap_is_known_beside_a_zero_row_however_far_apart_the_others_are():
    """For κ = 0 the optimum is the least `b_t`."""
    for seed in range(6):
        matrix = rows("far apart", NUM_TASKS, seed)
        matrix[1] = 0
        gram = matrix @ matrix.T
        linear = gram @ np.full(NUM_TASKS, 1 / NUM_TASKS)
        solution = conic(jnp.asarray(linear, jnp.float32), jnp.asarray(gram, jnp.float32), 0.0)
        weights = np.asarray(solution.weights, np.float64)
        assert abs(solution.gap - (linear @ weights - linear.min())) < 1e-6


def test_a_cap_on_steps_is_kept():
    matrix = rows("gaussian", 5, 0)
    gram = jnp.asarray(matrix @ matrix.T, jnp.float32)
    for solver in (frank_wolfe, projected_gradient):
        assert solver(gram, tolerance=0.0, max_iterations=3).iterations == 3
    assert bargaining(gram, tolerance=0.0, max_iterations=2).iterations == 2


@pytest.mark.nans
def test_a_bargain_over_nan_is_nan():
    gram = jnp.eye(3).at[0, 1].set(jnp.nan).at[1, 0].set(jnp.nan)
    solution = bargaining(gram)
    assert np.all(np.isnan(solution.weights))
    assert np.isnan(solution.residual)


def test_solvers_are_batched_by_vmap():
    grams = jnp.stack(
        [jnp.asarray(m @ m.T, jnp.float32) for m in (rows("gaussian", 5, s) for s in range(4))]
    )
    batched = optimised(jax.vmap(min_norm))(grams)
    for index, gram in enumerate(grams):
        np.testing.assert_allclose(batched.weights[index], min_norm(gram).weights, atol=1e-6)
