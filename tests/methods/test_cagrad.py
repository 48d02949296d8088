"""CAGrad against its primal problem, solved by cvxpy."""

import cvxpy as cp
import numpy as np
import pytest

import mtl_optax as mtl
from tests.common import first_update, flat, from_matrix, inputs, make, relative_error


def primal(matrix, c):
    """`max_d min_t <g_t, d>` in the ball of radius `c‖g_0‖` around `g_0`."""
    mean = matrix.mean(0)
    direction = cp.Variable(matrix.shape[1])
    problem = cp.Problem(
        cp.Maximize(cp.min(matrix @ direction)),
        [cp.norm(direction - mean) <= c * np.linalg.norm(mean)],
    )
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11)
    return direction.value


@pytest.mark.parametrize("c", [0.1, 0.5, 0.9, 2.0])
@pytest.mark.parametrize("num_tasks", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_primal_problem(c, num_tasks, seed):
    given = inputs(num_tasks, seed)
    matrix = flat(given.gradients, tasks=True)
    updates, state = first_update(make("cagrad", num_tasks, c=c), given)
    assert relative_error(flat(updates), primal(matrix, c)) < 1e-5
    assert state.inner.gap < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_those_of_the_corrected_algorithm_3_of_adatask(seed):
    """`(1/T)(1 + sqrt(φ) w_t / ‖g_w‖) g_t` with `g_w = (1/T) Σ w_t g_t` and `φ = c²‖g_0‖²`."""
    given, c = inputs(3, seed), 0.5
    matrix = flat(given.gradients, tasks=True)
    mean = matrix.mean(0)
    root = c * np.linalg.norm(mean)
    w = cp.Variable(3, nonneg=True)
    g_w = matrix.T @ w / 3
    cp.Problem(cp.Minimize(g_w @ mean + root * cp.norm(g_w)), [cp.sum(w) == 1]).solve(
        solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12
    )
    wanted = (1 + root * w.value / np.linalg.norm(g_w.value))[:, None] * matrix / 3
    rows, _ = first_update(make("cagrad", 3, c=c, combine=False), given)
    assert relative_error(flat(rows, tasks=True), wanted) < 1e-5
    printed = (1 + root / np.linalg.norm(g_w.value)) * w.value[:, None] * matrix / 3
    assert relative_error(printed.sum(0), wanted.sum(0)) > 0.01


@pytest.mark.parametrize(
    ("rescale", "factor"), [("none", 1.0), ("one_plus_c_squared", 1.16), ("one_plus_c", 1.4)]
)
def test_rescale_divides(rescale, factor):
    given = inputs(3)
    plain, _ = first_update(make("cagrad", 3, c=0.4), given)
    updates, _ = first_update(make("cagrad", 3, c=0.4, rescale=rescale), given)
    assert relative_error(flat(updates) * factor, flat(plain)) < 1e-6


def test_limits_of_c():
    given = inputs(4)
    matrix = flat(given.gradients, tasks=True)
    zero, _ = first_update(make("cagrad", 4, c=0.0), given)
    assert relative_error(flat(zero), matrix.mean(0)) < 1e-6
    large, _ = first_update(make("cagrad", 4, c=1e4), given)
    mgda, _ = first_update(make("mgda", 4), given)
    unit = lambda x: x / np.linalg.norm(x)
    assert relative_error(unit(flat(large)), unit(flat(mgda))) < 1e-3


def test_one_task_and_equal_gradients_give_one_plus_c():
    matrix = np.random.default_rng(0).normal(size=(1, 17))
    for rows in (matrix, np.repeat(matrix, 3, axis=0)):
        updates, _ = first_update(make("cagrad", len(rows), c=0.4), from_matrix(rows))
        assert relative_error(flat(updates), 1.4 * matrix[0]) < 1e-5


def test_a_zero_mean_gives_a_zero_update():
    row = np.random.default_rng(0).normal(size=17)
    updates, _ = first_update(make("cagrad", 2), from_matrix(np.stack([row, -row])))
    assert np.all(flat(updates) == 0)


def test_near_a_vanishing_combination_the_update_stays_in_the_ball():
    """Where `‖g_w‖` is tiny TorchJD returns zero; ours keeps the constraint, as LibMTL does."""
    matrix = np.zeros((2, 17))
    matrix[0, :2], matrix[1, :2] = [1.0, 1e-5], [-1.0, 1e-5]
    updates, _ = first_update(make("cagrad", 2), from_matrix(matrix))
    mean = matrix.mean(0)
    distance = np.linalg.norm(flat(updates) - mean)
    assert np.linalg.norm(flat(updates)) > 0
    assert distance <= 0.5 * np.linalg.norm(mean) * 1.001 + 1e-7


def test_a_negative_radius_is_named():
    with pytest.raises(ValueError, match=r"cagrad: c must lie in \[0, inf\), got -0.1"):
        mtl.cagrad(2, c=-0.1)
    with pytest.raises(ValueError, match="cagrad: rescale must be one of"):
        mtl.cagrad(2, rescale="half")
