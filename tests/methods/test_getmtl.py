"""GetMTL: the published formula by cvxpy's dual, the exact variant by cvxpy's primal."""

import cvxpy as cp
import numpy as np
import pytest

import mtl_optax as mtl
from tests.common import first_update, flat, from_matrix, inputs, make, relative_error

TIGHT = {"solver": cp.CLARABEL, "tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11}


def stage_one(matrix):
    weights = cp.Variable(len(matrix), nonneg=True)
    cp.Problem(cp.Minimize(cp.sum_squares(matrix.T @ weights)), [cp.sum(weights) == 1]).solve(
        **TIGHT
    )
    return weights.value


def paper(matrix, a):
    """`(g_0 + κ g_w / ‖g_w‖) / (1 - a²)`, with `w` from cvxpy."""
    beta, mean = stage_one(matrix), matrix.mean(0)
    active = beta > 1e-6
    rows = (beta[:, None] * matrix)[active]
    kappa = a * np.linalg.norm(mean)
    w = cp.Variable(len(rows), nonneg=True)
    cp.Problem(
        cp.Minimize((rows @ mean) @ w + kappa * cp.norm(rows.T @ w)), [cp.sum(w) == 1]
    ).solve(**TIGHT)
    g_w = rows.T @ w.value
    return (mean + kappa * g_w / np.linalg.norm(g_w)) / (1 - a**2)


def exact(matrix, epsilon):
    """`max_d min_t β_t <g_t, d>` subject to `‖d - g_0‖ <= ε <g_0, d>`, as stated."""
    beta, mean = stage_one(matrix), matrix.mean(0)
    rows = (beta[:, None] * matrix)[beta > 1e-6]
    direction = cp.Variable(matrix.shape[1])
    cp.Problem(
        cp.Maximize(cp.min(rows @ direction)),
        [cp.norm(direction - mean) <= epsilon * (mean @ direction)],
    ).solve(**TIGHT)
    return direction.value


@pytest.mark.parametrize("a", [0.02, 0.3, 0.8])
@pytest.mark.parametrize("num_tasks", [2, 3, 5])
@pytest.mark.parametrize("seed", range(2))
def test_paper_variant(a, num_tasks, seed):
    given = inputs(num_tasks, seed)
    matrix = flat(given.gradients, tasks=True)
    wanted = paper(matrix, a)
    updates, state = first_update(make("getmtl", num_tasks, epsilon=a, radius="relative"), given)
    assert relative_error(flat(updates), wanted) < 2e-5
    assert state.inner.gap < 1e-6
    absolute = a / np.linalg.norm(matrix.mean(0))
    updates, _ = first_update(make("getmtl", num_tasks, epsilon=absolute), given)
    assert relative_error(flat(updates), wanted) < 2e-5


@pytest.mark.parametrize("a", [0.02, 0.3, 0.8])
@pytest.mark.parametrize("num_tasks", [2, 3, 5])
@pytest.mark.parametrize("seed", range(2))
def test_exact_variant_solves_the_stated_problem(a, num_tasks, seed):
    given = inputs(num_tasks, seed)
    matrix = flat(given.gradients, tasks=True)
    mean = matrix.mean(0)
    epsilon = a / np.linalg.norm(mean)
    updates, _ = first_update(make("getmtl", num_tasks, epsilon=epsilon, variant="exact"), given)
    direction = flat(updates)
    assert relative_error(direction, exact(matrix, epsilon)) < 3e-5
    np.testing.assert_allclose(
        np.linalg.norm(direction - mean), epsilon * (mean @ direction), rtol=1e-4
    )


def test_the_published_formula_breaks_its_own_constraint_and_exact_does_not():
    """`‖d - g_0‖² - (ε<g_0, d>)² = a⁴ ‖g_0‖² sin² / (1 - a²)²` for the paper's `d`."""
    a, given = 0.8, inputs(3, 1)
    matrix = flat(given.gradients, tasks=True)
    mean = matrix.mean(0)
    length = np.linalg.norm(mean)

    def excess(variant):
        tx = make("getmtl", 3, epsilon=a, radius="relative", variant=variant)
        direction = flat(first_update(tx, given)[0])
        inner = a / length * (mean @ direction)
        return (direction @ direction - 2 * mean @ direction + mean @ mean) - inner**2, direction

    violation, direction = excess("paper")
    g_w = direction * (1 - a**2) - mean
    cosine = g_w @ mean / (np.linalg.norm(g_w) * length)
    wanted = a**4 * length**2 * (1 - cosine**2) / (1 - a**2) ** 2
    assert wanted > 0.01
    np.testing.assert_allclose(violation, wanted, rtol=1e-3)
    assert abs(excess("exact")[0]) < 1e-4 * wanted + 1e-5


def test_with_equal_stage_one_weights_it_is_cagrad():
    matrix = np.eye(3, 17)  # MGDA weighs orthonormal gradients equally.
    a = 0.5
    getmtl, _ = first_update(make("getmtl", 3, epsilon=a, radius="relative"), from_matrix(matrix))
    cagrad, _ = first_update(make("cagrad", 3, c=a), from_matrix(matrix))
    assert relative_error(flat(getmtl) * (1 - a**2), flat(cagrad)) < 1e-5


def test_one_task_is_stretched_by_one_over_one_minus_a():
    matrix = np.random.default_rng(0).normal(size=(1, 17))
    updates, _ = first_update(
        make("getmtl", 1, epsilon=0.2, radius="relative"), from_matrix(matrix)
    )
    assert relative_error(flat(updates), matrix[0] / 0.8) < 1e-5


def test_a_task_without_stage_one_weight_sits_out_stage_two():
    """The third gradient is left out by MGDA; with its zero row, `w` would sit on it alone."""
    matrix = np.zeros((3, 17))
    matrix[:, :2] = [[1.0, 0.1], [0.1, 1.5], [4.0, 4.0]]
    assert stage_one(matrix)[2] < 1e-6
    updates, _ = first_update(
        make("getmtl", 3, epsilon=0.5, radius="relative"), from_matrix(matrix)
    )
    assert relative_error(flat(updates), paper(matrix, 0.5)) < 1e-4


@pytest.mark.parametrize("variant", ["paper", "exact"])
def test_the_radius_is_capped(variant):
    """At `a = 1` the published step is infinite, and beyond it points uphill."""
    given = inputs(3)
    mean = flat(given.gradients, tasks=True).mean(0)
    far, _ = first_update(make("getmtl", 3, epsilon=100.0, variant=variant), given)
    capped, _ = first_update(
        make("getmtl", 3, epsilon=0.9, radius="relative", variant=variant), given
    )
    assert relative_error(flat(far), flat(capped)) < 1e-5
    assert flat(far) @ mean > 0


@pytest.mark.parametrize("variant", ["paper", "exact"])
def test_a_zero_mean_gives_a_zero_update(variant):
    row = np.random.default_rng(0).normal(size=17)
    updates, _ = first_update(
        make("getmtl", 2, variant=variant), from_matrix(np.stack([row, -row]))
    )
    assert np.all(flat(updates) == 0)


def test_bad_hyperparameters_are_named():
    with pytest.raises(ValueError, match=r"getmtl: epsilon must lie in \[0, inf\), got -1"):
        mtl.getmtl(2, epsilon=-1)
    with pytest.raises(ValueError, match=r"getmtl: max_radius must lie in \(0, 1\), got 1"):
        mtl.getmtl(2, max_radius=1)
    with pytest.raises(ValueError, match="getmtl: variant .*Did you mean 'exact'"):
        mtl.getmtl(2, variant="exac")
    with pytest.raises(ValueError, match="getmtl: radius must be one of"):
        mtl.getmtl(2, radius="big")
