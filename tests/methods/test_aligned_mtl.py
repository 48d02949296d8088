"""Aligned-MTL against NumPy's singular values, and closed forms where tasks lie far apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from mtl_optax._solvers.spectrum import spectrum

MODES = ("min", "median", "mean")
T, N = 4, 6


@functools.cache
def program(num_tasks, **hyperparameters):
    """The first updates of `(B, T, N)` matrices; also their rows, `(B, T, N)`."""
    combine = mtl.aligned_mtl(num_tasks, **hyperparameters)
    rows = mtl.aligned_mtl(num_tasks, combine=False, **hyperparameters)

    def first(matrix, mask):
        return [
            tx.update(matrix, tx.init(matrix[0]), matrix[0], task_mask=mask)[0]
            for tx in (combine, rows)
        ]

    return jax.jit(jax.vmap(first))


def run(matrices, mask=None, dtype=np.float32, **hyperparameters):
    matrices = np.asarray(matrices, dtype)
    batch, num_tasks, _ = matrices.shape
    mask = np.ones((batch, num_tasks), bool) if mask is None else mask
    with jax.enable_x64(dtype == np.float64):
        return [np.asarray(x) for x in program(num_tasks, **hyperparameters)(matrices, mask)]


def one(rows, **options):
    return run(np.asarray(rows)[None], **options)[0][0]


def oracle(matrix, mode, preference=None):
    """`√s Σ_k <p_k, u> q_k` of the singular vectors `p_k`, `q_k` to singular values not zero."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    rank = np.sum(values > 1e-6 * values[0])
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    length = {
        "min": values[-1],
        "median": values[::-1][(rank - 1) // 2],
        "mean": np.sqrt(np.mean(values**2)),
    }[mode]
    u = np.full(len(matrix), 1 / len(matrix)) if preference is None else np.array(preference)
    return length * (left.T @ u) @ right


def draws(number=200, spread=1.0):
    """Matrices of every rank, with rows of other lengths."""
    rng = np.random.default_rng(0)
    ranks = rng.integers(1, T + 1, number)
    parts = [(rng.normal(size=(T, r)), rng.normal(size=(r, N))) for r in ranks]
    lengths = np.exp(spread * rng.normal(size=(number, T, 1)))
    return np.stack([left @ right for left, right in parts]) * lengths


def condition(matrix):
    units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    values = np.linalg.svd(units, compute_uv=False)
    values = values[values > 1e-6]
    return values[0] / values[-1]


@pytest.mark.parametrize("mode", MODES)
def test_equals_numpys_singular_vectors_at_every_rank(mode):
    matrices = draws()
    found, _ = run(matrices, dtype=np.float64, scale=mode)
    for got, matrix in zip(found, matrices, strict=True):
        size = 1e-9 * np.max(np.linalg.norm(matrix, axis=1))
        np.testing.assert_allclose(got, oracle(matrix, mode), atol=size * condition(matrix))
    # In float32 a matrix whose rank is in doubt may be of either.
    clear = [m for m in np.float32(matrices) if condition(m) < 100]
    assert len(clear) > 180
    for got, matrix in zip(run(clear, scale=mode)[0], clear, strict=True):
        size = 1e-5 * np.max(np.linalg.norm(matrix, axis=1))
        np.testing.assert_allclose(got, oracle(matrix, mode), atol=size * condition(matrix))


def test_aligned_rows_are_orthogonal_and_of_one_length_even_1e10_apart():
    """`B M B = s I`, in float32, for `u` the unit vectors."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(50, 3, 5))
    clear = base[[condition(m) < 20 for m in base]]
    far = np.float32(clear * 10 ** rng.uniform(-5, 5, (len(clear), 3, 1)))

    def update(matrix, preference):
        tx = mtl.aligned_mtl(3, preference=preference)
        return tx.update(matrix, tx.init(matrix[0]), matrix[0])[0]

    each = jax.vmap(jax.vmap(update, (None, 0)), (0, None))
    aligned = np.asarray(jax.jit(each)(far, jnp.eye(3)), np.float64)
    lengths = np.linalg.norm(aligned, axis=2, keepdims=True)
    np.testing.assert_allclose(lengths / lengths[:, :1], 1, rtol=1e-4)
    cosines = aligned / lengths @ np.swapaxes(aligned / lengths, 1, 2)
    np.testing.assert_allclose(cosines, np.tile(np.eye(3), (len(far), 1, 1)), atol=1e-4)


@pytest.mark.parametrize("exponent", [0, -3, -10, -25])
@pytest.mark.parametrize("cosine", [-0.95, -0.3, 0.0, 0.8])
def test_two_tasks_in_closed_form(exponent, cosine):
    """`M^(-1/2) = τ (M + δI)⁻¹` with `δ² = det M`, `τ² = tr M + 2δ`; `σ` from product and sum."""
    near = 10.0**exponent
    rows = np.array([[1.0, 0], [cosine * near, near * np.sqrt(1 - cosine**2)]])
    rows = np.float64(np.float32(rows))
    delta = abs(rows[0, 0] * rows[1, 1])
    tau = np.sqrt(np.sum(rows**2) + 2 * delta)
    largest = (tau + np.sqrt(max(tau**2 - 4 * delta, 0))) / 2
    shifted = rows @ rows.T + delta * np.eye(2)
    other = np.array([[shifted[1, 1], -shifted[0, 1]], [-shifted[0, 1], shifted[0, 0]]])
    # det(M + δI) = δ (tr M + 2δ) = δ τ².
    wanted = delta / largest / (delta * tau) * (other @ np.full(2, 0.5)) @ rows
    found = one(rows)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.linalg.norm(wanted))


@pytest.mark.parametrize(
    ("rows", "mode", "wanted"),
    [
        ([[1, 0], [-0.5, 1]], "min", [0.284049, 0.473415]),
        ([[1, 0], [-0.5, 1]], "median", [0.284049, 0.473415]),
        ([[1, 0], [-0.5, 1]], "mean", [0.385872, 0.643120]),
        (np.sqrt(np.diag([1.0, 2, 3, 10])), "median", np.full(4, np.sqrt(2) / 4)),
        ([[1, 0], [2, 0]], "min", [1.5, 0]),
        ([[1, 2], [-1, -2]], "min", [0, 0]),
        ([[1, 2]] * 3, "mean", [1, 2]),
        ([[1, 0, 0], [0, 2, 0], [0, 0, 0]], "min", [1 / 3, 1 / 3, 0]),
        (np.zeros((3, 2)), "mean", [0, 0]),
    ],
)
def test_golden_examples_and_dependent_gradients(rows, mode, wanted):
    np.testing.assert_allclose(one(rows, scale=mode), wanted, atol=2e-6)


def test_a_preference_is_used_as_given_and_an_absent_task_changes_the_default():
    matrices, mask = draws(20), np.tile([True, False, True, True], (20, 1))
    given = (1.0, 5.0, 0.1, 2.0)
    for got, matrix in zip(run(matrices, mask, preference=given)[0], matrices, strict=True):
        wanted = oracle(matrix[[0, 2, 3]], "min", (1.0, 0.1, 2.0))
        np.testing.assert_allclose(got, wanted, atol=1e-4 * np.max(np.abs(matrix)))
    updates, rows = run(matrices, mask)
    for got, matrix in zip(updates, matrices, strict=True):
        wanted = oracle(matrix[[0, 2, 3]], "min")
        np.testing.assert_allclose(got, wanted, atol=1e-4 * np.max(np.abs(matrix)))
    np.testing.assert_allclose(rows.sum(axis=1), updates, atol=1e-5)


@pytest.mark.parametrize("num_tasks", [1, 2, 7])
def test_the_spectrum_is_that_of_the_matrix(num_tasks):
    """`basis M basis' = diag(σ²)`, each entry to rounding in the lengths that it is made of."""
    rng = np.random.default_rng(num_tasks)
    matrix = rng.normal(size=(num_tasks, 9))
    scale = 10.0 ** rng.integers(-6, 1, num_tasks)
    mask = jnp.ones(num_tasks, bool)
    with jax.enable_x64(True):
        found = jax.jit(spectrum)(jnp.asarray(matrix @ matrix.T), jnp.asarray(scale), mask)
    sizes, basis = np.asarray(found.sizes), np.asarray(found.basis)
    rows = basis @ (matrix * scale[:, None])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), sizes, rtol=1e-9)
    unit = rows / sizes[:, None]
    np.testing.assert_allclose(unit @ unit.T, np.eye(num_tasks), atol=1e-9)
    np.testing.assert_allclose(basis @ basis.T, np.eye(num_tasks), atol=1e-12)
    assert np.all(found.kept)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="aligned_mtl: scale must be one of 'min', 'median'"):
        mtl.aligned_mtl(2, scale="rmse")
    with pytest.raises(ValueError, match="aligned_mtl: preference must be positive"):
        mtl.aligned_mtl(2, preference=(1.0, 0.0))
