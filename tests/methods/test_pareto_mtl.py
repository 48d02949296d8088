"""Pareto MTL against a NumPy transcription over both stages, with SciPy's min-norm points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import mtl_optax as mtl

QUARTER = [[np.cos(a), np.sin(a)] for a in np.linspace(0, np.pi / 2, 5)]


def shortest(vectors):
    """The weights of the point of least norm in the convex hull, as a least-squares problem."""
    heavy = 1e4 * np.max(np.linalg.norm(vectors, axis=1))
    system = np.concatenate([vectors.T, np.full((1, len(vectors)), heavy)])
    weights = scipy.optimize.nnls(system, np.append(np.zeros(vectors.shape[1]), heavy))[0]
    return weights / weights.sum()


def transcription(rows, losses, preferences, k, feasible):
    units = np.array(preferences, float)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    ahead = units - units[k]
    ahead = ahead[ahead @ (losses / np.linalg.norm(losses)) > 0]
    if not feasible and len(ahead):
        return ahead.T @ shortest(ahead @ rows), False
    hull = np.concatenate([np.eye(len(rows)), ahead])
    weights = hull.T @ shortest(hull @ rows)
    return weights * len(rows) / np.abs(weights).sum(), True


@jax.jit
def update(rows, state, losses, preferences, index, slack, mask):
    """One compilation for each number of tasks and of preferences."""
    tx = mtl.pareto_mtl(rows.shape[0], preferences, index, slack=slack)
    return tx.update(rows, state, rows[0], task_losses=losses, task_mask=mask)


def run(rows, losses, preferences, index, state=None, mask=None, slack=0.0):
    rows, losses, preferences = (jnp.asarray(x, jnp.float32) for x in (rows, losses, preferences))
    state = mtl.pareto_mtl(len(rows), preferences, index).init(rows[0]) if state is None else state
    mask = jnp.asarray(np.ones(len(rows), bool) if mask is None else mask)
    return update(rows, state, losses, preferences, index, jnp.float32(slack), mask)


def draw(num_tasks, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_tasks, 9)), rng.uniform(0.2, 2.0, num_tasks)


@pytest.mark.parametrize(("num_tasks", "k"), [(2, 0), (4, 1)])
def test_both_stages_over_steps(num_tasks, k):
    rng = np.random.default_rng(5)
    preferences = QUARTER if num_tasks == 2 else rng.uniform(size=(6, num_tasks))
    target = np.array(preferences[k]) / np.linalg.norm(preferences[k])
    state, feasible, stages = None, False, []
    for step in range(8):
        rows, losses = draw(num_tasks, step)
        if step in (3, 5):
            losses = 3.0 * target
        wanted, feasible = transcription(rows, losses, preferences, k, feasible)
        updates, state = run(rows, losses, preferences, k, state)
        stages.append(feasible)
        assert bool(state.inner.feasible) == feasible
        np.testing.assert_allclose(state.weights, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(updates, wanted @ rows, rtol=1e-4, atol=1e-4)
    assert stages[2:4] == [False, True]
    assert stages[-1]


def test_the_second_stage_descends_all_losses_and_active_constraints():
    rows, losses = draw(3, 1)
    preferences = np.concatenate([np.ones((1, 3)), np.eye(3)])
    _, state = run(rows, np.ones(3), preferences, 0)
    losses = np.array([5.0, 0.2, 0.1])
    updates, state = run(rows, losses, preferences, 0, state)
    ahead = np.array([1.0, 0.0, 0.0]) - np.ones(3) / np.sqrt(3)
    gains = np.concatenate([rows, [ahead @ rows]]) @ np.asarray(updates, float)
    assert np.all(gains > 0)
    np.testing.assert_allclose(np.abs(state.weights).sum(), 3, rtol=1e-6)


@pytest.mark.parametrize("num_preferences", [1, 3])
def test_one_preference_is_mgda(num_preferences):
    """Also if it is given several times over, at other lengths."""
    preferences = np.outer([1.0, 3.0, 0.7][:num_preferences], [0.3, 1.0, 0.2])
    rows, losses = draw(3, 2)
    updates, _ = run(rows, losses, preferences, 0)
    np.testing.assert_allclose(updates, 3 * shortest(rows) @ rows, rtol=1e-4, atol=1e-5)


def test_slack_makes_near_constraints_active():
    rows, _ = draw(2, 3)
    losses = np.array([1.0, 0.99])
    preferences = [[1.0, 1.0], [1.0, 0.9]]
    without, _ = run(rows, losses, preferences, 0)
    within, _ = run(rows, losses, preferences, 0, slack=0.1)
    unit = np.array([1.0, 0.9]) / np.hypot(1.0, 0.9) - np.ones(2) / np.sqrt(2)
    np.testing.assert_allclose(without, 2 * shortest(rows) @ rows, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(within, unit @ rows, rtol=1e-4, atol=1e-5)


def test_absent_tasks_leave_with_their_preferences():
    rows, losses = draw(4, 4)
    preferences = np.concatenate([[[0.1, 1.0, 0.5, 0.2]], np.eye(4)])
    present = [0, 1, 3]
    state = small = None
    for step in range(3):
        rows, losses = draw(4, step)
        mask = [True, True, False, True]
        got, state = run(rows, losses, preferences, 0, state, mask)
        kept = preferences[:, present][[0, 1, 2, 4]]
        wanted, small = run(rows[present], losses[present], kept, 0, small)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    # Without its own preference a run has no constraints left.
    got, _ = run(rows, losses, preferences, 3, mask=[True, True, False, True])
    rest = rows[present]
    np.testing.assert_allclose(got, 3 * shortest(rest) @ rest, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_the_scale_of_the_losses_is_free(scale):
    rows, losses = draw(3, 6)
    preferences = np.eye(3)
    _, base = run(rows, losses, preferences, 0)
    _, scaled = run(rows, losses * scale, preferences, 0)
    np.testing.assert_allclose(scaled.weights, base.weights, rtol=1e-5)
    updates, _ = run(rows, np.zeros(3), preferences, 0)
    np.testing.assert_allclose(updates, 3 * shortest(rows) @ rows, rtol=1e-4, atol=1e-5)


def test_all_preferences_at_once_cover_the_papers_front():
    """The two losses of the paper's synthetic example, one run per preference under vmap."""
    corner = np.ones(8) / np.sqrt(8)

    def losses_of(x):
        away = jnp.stack([jnp.sum((x - corner) ** 2), jnp.sum((x + corner) ** 2)])
        return 1 - jnp.exp(-away)

    start = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, 8), jnp.float32)

    @jax.jit
    @jax.vmap
    def train(index):
        tx = mtl.pareto_mtl(2, QUARTER, index)

        def step(carry, _):
            x, state = carry
            losses, gradients = mtl.value_and_task_grads(losses_of)(x)
            updates, state = tx.update(gradients, state, x, task_losses=losses)
            return (x - 0.03 * updates, state), None

        (x, state), _ = jax.lax.scan(step, (start, tx.init(start)), None, length=300)
        return losses_of(x), state.inner.feasible

    losses, feasible = train(jnp.arange(5))
    assert np.all(feasible)
    nearest = np.argmax(np.asarray(losses) @ np.array(QUARTER).T, axis=1)
    np.testing.assert_array_equal(nearest, np.arange(5))


@pytest.mark.parametrize(
    ("preferences", "index", "error", "message"),
    [
        ([[1.0, 0.0, 0.0]], 0, ValueError, r"preferences has shape \(1, 3\), wanted \(K, 2\)"),
        ([1.0, 0.0], 0, ValueError, r"preferences has shape \(2,\), wanted \(K, 2\)"),
        ([[1.0, 0.0], [0.5, -0.1]], 0, ValueError, r"preferences\[1\] must be finite, non-neg"),
        ([[0.0, 0.0]], 0, ValueError, r"preferences\[0\] must be finite, non-negative and not all"),
        ([[np.nan, 1.0]], 0, ValueError, r"preferences\[0\] must be finite"),
        (QUARTER, 5, ValueError, "index must name one of the 5 rows of preferences, 0 to 4, got 5"),
        (QUARTER, -1, ValueError, "index must name one of the 5 rows"),
        (QUARTER, 0.5, TypeError, "index must be an integer, got 0.5"),
    ],
)
def test_preferences_and_index_are_checked(preferences, index, error, message):
    with pytest.raises(error, match=f"pareto_mtl: {message}"):
        mtl.pareto_mtl(2, preferences, index)
