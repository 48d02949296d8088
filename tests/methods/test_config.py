"""ConFIG against NumPy's least squares, and at the edges where conflictfree gives NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl

T, N = 4, 6
MEANS = {
    "min": np.min,
    "max": np.max,
    "harmonic": lambda n: len(n) / np.sum(1 / n),
    "arithmetic": np.mean,
    "geometric": lambda n: np.exp(np.mean(np.log(n))),
}
LENGTHS = ("projection", *MEANS)


@functools.cache
def program(num_tasks, preference):
    """The update of each length, in one program."""
    methods = [mtl.config(num_tasks, preference=preference, length=name) for name in LENGTHS]

    def updates(matrix, mask):
        start = lambda tx: tx.init(matrix[0])
        return [tx.update(matrix, start(tx), matrix[0], task_mask=mask)[0] for tx in methods]

    return jax.jit(jax.vmap(updates))


def run(matrices, mask=None, dtype=np.float32, length="projection", preference=None):
    matrices = np.asarray(matrices, dtype)
    batch, num_tasks, _ = matrices.shape
    mask = np.ones((batch, num_tasks), bool) if mask is None else mask
    with jax.enable_x64(dtype == np.float64):
        updates = program(num_tasks, preference)(matrices, mask)
    return np.asarray(updates[LENGTHS.index(length)])


def one(rows, **options):
    return run(np.asarray(rows)[None], **options)[0]


def oracle(matrix, length="projection", preference=None):
    """The direction is that of the least-squares solution of `Ûx = p`."""
    matrix = matrix.astype(np.float64)
    norms = np.linalg.norm(matrix, axis=1)
    units = matrix / norms[:, None]
    wanted = np.ones(len(matrix)) if preference is None else np.array(preference)
    direction = np.linalg.lstsq(units, wanted, rcond=1e-6)[0]
    if np.linalg.norm(direction) < 1e-9:
        return np.zeros(matrix.shape[1])
    direction /= np.linalg.norm(direction)
    along = norms if length == "projection" else MEANS[length](norms)
    return np.sum(units @ direction * along) * direction


def draws(number=200):
    """Matrices of every rank, with rows of other lengths."""
    rng = np.random.default_rng(0)
    ranks = rng.integers(1, T + 1, number)
    parts = [(rng.normal(size=(T, r)), rng.normal(size=(r, N))) for r in ranks]
    return np.stack([a @ b for a, b in parts]) * np.exp(rng.normal(size=(number, T, 1)))


def condition(matrix):
    """How far the direction may turn where the unit gradients do."""
    units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    values = np.linalg.svd(units, compute_uv=False)
    values = values[values > 1e-6]
    direction = np.linalg.lstsq(units, np.ones(len(units)), rcond=1e-6)[0]
    reached = np.linalg.norm(units @ direction) / np.sqrt(len(units))
    return (values[0] / values[-1]) ** 2 / max(reached, 1e-15)


@pytest.mark.parametrize("length", LENGTHS)
def test_equals_numpys_least_squares_at_every_rank(length):
    matrices = draws()
    for got, matrix in zip(run(matrices, dtype=np.float64, length=length), matrices, strict=True):
        size = 1e-9 * np.max(np.linalg.norm(matrix, axis=1))
        np.testing.assert_allclose(got, oracle(matrix, length), atol=size * condition(matrix))
    # In float32 a matrix whose rank is in doubt may be of either.
    clear = [m for m in np.float32(matrices) if condition(m) < 1e4]
    assert len(clear) > 170
    for got, matrix in zip(run(clear, length=length), clear, strict=True):
        size = 1e-5 * np.max(np.linalg.norm(matrix, axis=1))
        np.testing.assert_allclose(got, oracle(matrix, length), atol=size * condition(matrix))


def test_the_cosines_are_those_of_the_preference_and_the_length_has_a_closed_form():
    """`‖d‖ = Σ_t ‖g_t‖ / sqrt(1'C⁻¹1)`, of independent gradients."""
    rng = np.random.default_rng(1)
    matrices = rng.normal(size=(30, 3, 5)) * np.exp(rng.normal(size=(30, 3, 1)))
    norms = np.linalg.norm(matrices, axis=2)
    units = matrices / norms[..., None]
    wanted = (1.0, 3.0, 0.5)
    updates = run(matrices, dtype=np.float64, preference=wanted)
    cosines = np.einsum("btn,bn->bt", units, updates) / np.array(wanted)
    np.testing.assert_allclose(cosines, np.tile(cosines[:, :1], (1, 3)), rtol=1e-9)
    assert np.all(cosines > 0)
    equal = np.linalg.norm(run(matrices, dtype=np.float64), axis=1)
    inverse = np.linalg.inv(units @ np.swapaxes(units, 1, 2)).sum(axis=(1, 2))
    np.testing.assert_allclose(equal, norms.sum(axis=1) / np.sqrt(inverse), rtol=1e-9)


def test_it_descends_along_the_line_of_imtl_g_where_the_paper_of_imtl_ascends():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(3, 3)) * np.array([[1.0], [20.0], [1.0]])
        if np.sum(np.linalg.solve(rows @ rows.T, np.linalg.norm(rows, axis=1))) < -0.05:
            break
    update = one(rows)
    assert np.all(rows @ update > 0)
    paper = mtl.imtl_g(3, safe=False)
    other = np.asarray(paper.update(jnp.asarray(rows, jnp.float32), paper.init(rows[0]))[0])
    cosine = update @ other / np.linalg.norm(update) / np.linalg.norm(other)
    np.testing.assert_allclose(cosine, -1, rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([[1, 0], [-0.5, 1]], [0.585410, 0.947214]),
        ([[1, 2], [-1, -2]], [0, 0]),
        ([[0.1, 0.7], [-0.3, -2.1]], [0, 0]),
        ([[1, 2], [2, 4]], [3, 6]),
        ([[1, 2]] * 3, [3, 6]),
        ([[0, 0], [3, 4]], [3, 4]),
        ([[1, 0, 0], [0, 2, 0], [0, 0, 0]], [1.5, 1.5, 0]),
        (np.zeros((3, 2)), [0, 0]),
        ([[3, 4]], [3, 4]),
    ],
)
@pytest.mark.parametrize("length", ["projection", "harmonic"])
def test_parallel_opposite_and_zero_gradients(rows, wanted, length):
    lengths = np.linalg.norm(np.asarray(rows, float), axis=1)
    if length == "harmonic" and np.any(lengths > 0):
        lengths = lengths[lengths > 0]
        wanted = np.array(wanted) * MEANS[length](lengths) / np.mean(lengths)
    np.testing.assert_allclose(one(rows, length=length), wanted, rtol=1e-5, atol=1e-6)


def test_what_rounding_leaves_of_opposite_gradients_has_no_direction():
    one_side = np.random.default_rng(4).normal(size=(100, 1, 9))
    updates = run(one_side * np.array([[1.0], [-3.7]]))
    assert np.max(np.abs(updates)) < 1e-4


@pytest.mark.parametrize("length", LENGTHS)
def test_tasks_far_apart_keep_their_angles(length):
    rng = np.random.default_rng(2)
    rows = np.float32(rng.normal(size=(3, 5)) * np.array([[1.0], [1e-14], [1e-28]]))
    update = one(rows, length=length).astype(np.float64)
    wanted = oracle(rows, length)
    np.testing.assert_allclose(update, wanted, atol=1e-5 * np.linalg.norm(wanted))


def test_an_absent_task_is_not_there():
    matrices, mask = draws(20), np.tile([True, False, True, True], (20, 1))
    updates = run(matrices, mask, np.float64, preference=(1.0, 5.0, 0.1, 2.0), length="geometric")
    for got, matrix in zip(updates, matrices, strict=True):
        wanted = oracle(matrix[[0, 2, 3]], "geometric", (1.0, 0.1, 2.0))
        size = 1e-9 * np.max(np.abs(matrix)) * condition(matrix[[0, 2, 3]])
        np.testing.assert_allclose(got, wanted, atol=size)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="config: length must be one of 'projection', 'min'"):
        mtl.config(2, length="mean")
    with pytest.raises(ValueError, match="config: preference must be positive"):
        mtl.config(2, preference=(1.0, -1.0))
