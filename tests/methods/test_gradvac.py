"""GradVac against a transcription of its Algorithm 1 in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from mtl_optax._methods.gradvac import correct
from tests.common import first_update, flat, from_matrix

PARAMS = jnp.zeros(5)


def algorithm_1(matrix, targets, orders, decay):
    """The corrected rows, and the targets after the step."""
    rows, targets = matrix.copy(), targets.copy()
    length = np.linalg.norm
    for i, order in enumerate(orders):
        for j in order:
            if i == j:
                continue
            phi = rows[i] @ matrix[j] / length(rows[i]) / length(matrix[j])
            goal = targets[i, j]
            if phi < goal:
                share = goal * np.sqrt(1 - phi**2) - phi * np.sqrt(1 - goal**2)
                share *= length(rows[i]) / (length(matrix[j]) * np.sqrt(1 - goal**2))
                rows[i] = rows[i] + share * matrix[j]
            targets[i, j] = decay * goal + (1 - decay) * phi
    return rows, targets


def cosines_of(matrix):
    units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return units, units @ units.T


def test_corrections_are_those_of_algorithm_1():
    rng = np.random.default_rng(0)
    count, tasks = 200, 4
    matrices = rng.normal(size=(count, tasks, 6)) * np.exp(rng.normal(size=(count, tasks, 1)))
    targets = rng.uniform(-0.5, 0.9, (count, tasks, tasks))
    orders = np.stack([[rng.permutation(tasks) for _ in range(tasks)] for _ in range(count)])
    units, cosines = map(np.stack, zip(*map(cosines_of, matrices), strict=True))
    with jax.enable_x64(True):
        find = jax.jit(jax.vmap(correct))
        given = (jnp.asarray(cosines), jnp.ones((count, tasks), bool), jnp.asarray(targets))
        rows, seen = map(np.asarray, find(*given, jnp.asarray(orders)))
    for n in range(count):
        wanted, after = algorithm_1(units[n], targets[n], orders[n], 0.25)
        np.testing.assert_allclose(rows[n] @ units[n], wanted, rtol=1e-9, atol=1e-9)
        off = ~np.eye(tasks, dtype=bool)
        moved = 0.25 * targets[n] + 0.75 * seen[n]
        np.testing.assert_allclose(moved[off], after[off], rtol=1e-9, atol=1e-9)


def two(**options):
    tx = mtl.gradvac(2, **options)
    return tx, tx.init(jnp.zeros(2))


@pytest.mark.nans
@pytest.mark.parametrize("update", ["always", "conflict"])
@pytest.mark.parametrize("masked", [False, True])
def test_twenty_steps_of_two_tasks(update, masked):
    rng = np.random.default_rng(1)
    tx, state = two(decay=0.7, update=update)
    targets = np.zeros((2, 2))
    step = jax.jit(tx.update)
    for _ in range(20):
        matrix = rng.normal(size=(2, 2))
        mask = np.array([True, not masked or rng.uniform() < 0.7])
        if mask.all():
            rows, after = algorithm_1(matrix, targets, [[1], [0]], 0.7)
            met = (after - 0.7 * targets) / 0.3
            off = ~np.eye(2, dtype=bool) & ((met < targets) | (update == "always"))
            targets = np.where(off, after, targets)
        else:
            rows = matrix[:1]
        given = jnp.asarray(matrix, jnp.float32).at[~mask].set(jnp.nan)
        updates, state = step(given, state, jnp.zeros(2), task_mask=jnp.asarray(mask))
        np.testing.assert_allclose(updates, rows.sum(0), rtol=2e-4, atol=1e-4)
        np.testing.assert_allclose(state.inner.targets, targets, atol=1e-5)


def test_each_step_of_three_tasks_is_algorithm_1_for_some_orders():
    matrix = np.zeros((3, 17))
    matrix[:, :3] = [[1.0, 0.2, 0], [-0.7, 1.0, 0.3], [-0.5, -0.8, 1.0]]
    targets = np.full((3, 3), 0.4)
    pairs = [[[1, 2], [2, 1]], [[0, 2], [2, 0]], [[0, 1], [1, 0]]]
    possible = [
        algorithm_1(matrix, targets, (a, b, c), 0.5)[0].sum(0)
        for a in pairs[0]
        for b in pairs[1]
        for c in pairs[2]
    ]
    seen = set()
    make = jax.jit(
        lambda key: first_update(mtl.gradvac(3, init=0.4, key=key), from_matrix(matrix))[0]
    )
    for seed in range(60):
        got = flat(make(jax.random.key(seed)))
        errors = [np.linalg.norm(got - wanted) for wanted in possible]
        assert min(errors) < 1e-5
        seen.add(int(np.argmin(errors)))
    assert seen == set(range(8))


def test_the_first_call_is_pcgrad_and_the_second_that_of_the_peers():
    """(.8, 1.4) and (.6624, 1.2165), of TorchJD 0.18 and LibMTL main 4336804."""
    rows = jnp.array([[1.0, 0.0], [-0.5, 1.0]])
    tx, state = two()
    for wanted in ([0.8, 1.4], [0.6624, 1.2165]):
        updates, state = tx.update(rows, state, jnp.zeros(2))
        np.testing.assert_allclose(updates, wanted, atol=6e-5)


def test_both_rows_end_at_the_target():
    rows = jnp.array([[1.0, 0.0], [-0.5, 1.0]])
    tx = mtl.gradvac(2, init=0.3, combine=False)
    corrected, _ = tx.update(rows, tx.init(jnp.zeros(2)), jnp.zeros(2))
    for one, other in ((corrected[0], rows[1]), (corrected[1], rows[0])):
        cosine = one @ other / jnp.linalg.norm(one) / jnp.linalg.norm(other)
        np.testing.assert_allclose(cosine, 0.3, rtol=1e-5)


def test_tasks_that_agreed_for_long_do_not_blow_up():
    """LibMTL's update is 4e7 long here, and TorchJD 0.18's 2e3."""
    tx, state = two()
    same = jnp.array([[1.0, 2.0], [1.0, 2.0]])
    for _ in range(30):
        _, state = tx.update(same, state, jnp.zeros(2))
    updates, _ = tx.update(jnp.array([[1.0, 2.0], [1.0, 2.5]]), state, jnp.zeros(2))
    assert np.linalg.norm(updates) < 1.01 * np.linalg.norm([2.0, 4.5])


@pytest.mark.parametrize("scale", [1e-25, 1e18])
def test_short_gradients_are_corrected_as_long_ones(scale):
    """The peers add 1e-8 to products of norms, which is more than gradients of 1e-5 have."""
    rows = jnp.array([[1.0, 0.0], [-0.5, 1.0]])
    tx, state = two(init=0.3)
    wanted, _ = tx.update(rows, state, jnp.zeros(2))
    found, _ = tx.update(rows * scale, state, jnp.zeros(2))
    np.testing.assert_allclose(found / scale, wanted, rtol=1e-5)
    apart, _ = tx.update(rows * jnp.array([[1.0], [scale]]), state, jnp.zeros(2))
    assert np.all(np.isfinite(apart))


def test_a_row_that_cancels_leaves_no_target():
    """What is left of it is rounding, of no direction."""
    rng = np.random.default_rng(0)
    tx = mtl.gradvac(3)
    advance = jax.jit(lambda rows: tx.update(rows, tx.init(PARAMS), PARAMS)[1])
    for _ in range(20):
        g, h = rng.normal(size=(2, 5))
        targets = np.asarray(advance(jnp.asarray([g, -1.7 * g, h], jnp.float32)).inner.targets)
        cosine = g @ h / np.linalg.norm(g) / np.linalg.norm(h)
        for task, sign in ((0, 1), (1, -1)):  # Met before the other, or not at all.
            near = np.array([0.0, 0.5 * sign * cosine])
            assert np.abs(targets[task, 2] - near).min() < 1e-5


def test_zero_gradients_are_neither_corrected_nor_met():
    tx = mtl.gradvac(3, init=0.5)
    rows = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    updates, state = tx.update(rows, tx.init(jnp.zeros(2)), jnp.zeros(2))
    pair, _ = mtl.gradvac(2, init=0.5).update(
        rows[::2], mtl.gradvac(2, init=0.5).init(jnp.zeros(2)), jnp.zeros(2)
    )
    np.testing.assert_allclose(updates, pair, rtol=1e-6)
    np.testing.assert_array_equal(state.inner.targets[1], 0.5)
    np.testing.assert_array_equal(state.inner.targets[:, 1], 0.5)
