"""Conflict and dominance against NumPy, and the passive transforms where they sit in a chain."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl

PARAMS = {"a": {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}, "b": jnp.zeros(4)}


def draw(num_tasks, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: jnp.asarray(scale * rng.normal(size=(num_tasks, *p.shape)), jnp.float32), PARAMS
    )


def rows_of(tree):
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    return np.concatenate([x.reshape(x.shape[0], -1) for x in leaves], axis=1)


def flat(tree):
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def measured(rows):
    norms = np.linalg.norm(rows, axis=1)
    cosines = rows @ rows.T / np.outer(norms, norms)
    pairs = np.triu_indices(len(rows), 1)
    return cosines, np.mean(cosines[pairs] < 0), norms, norms / norms.max()


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_tracked_conflict_is_that_of_the_gradients(scale):
    tx = mtl.track_conflict(4)
    gradients = draw(4, scale=scale)
    passed, state = jax.jit(tx.update)(gradients, tx.init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, passed, gradients)
    assert 0 < state.conflicting < 1
    for got, wanted in zip(state, measured(rows_of(gradients)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_conflict_of_a_gram_matrix_agrees():
    gradients = draw(3, 1)
    for got, wanted in zip(
        mtl.conflict(mtl.gram(gradients)), measured(rows_of(gradients)), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.nans
def test_absent_tasks_and_zero_gradients_are_in_no_pair_that_conflicts():
    rows = jnp.array([[1.0, 0.0], [-1.0, 1.0], [0.0, 0.0], [-1.0, -1.0]])
    tx = mtl.track_conflict(4)
    _, whole = tx.update(rows, tx.init(rows[0]))
    np.testing.assert_allclose(whole.conflicting, 2 / 6)
    np.testing.assert_array_equal(whole.cosines[2], 0)
    mask = jnp.array([True, False, True, True])
    _, some = tx.update(rows.at[1].set(jnp.nan), whole, task_mask=mask)
    np.testing.assert_allclose(some.conflicting, 1 / 3)
    np.testing.assert_allclose(some.norm_ratios, [0.5**0.5, 0, 0, 1])
    _, one = tx.update(rows, whole, task_mask=jnp.arange(4) == 1)
    assert one.conflicting == 0
    _, bad = tx.update(rows.at[1].set(jnp.nan), whole)
    assert np.isnan(bad.conflicting)


def test_what_pcgrad_leaves_of_the_conflict():
    tx = optax.chain(
        mtl.track_conflict(2),
        mtl.pcgrad(2, combine=False),
        mtl.track_conflict(2),
        mtl.sum_tasks(2),
    )
    rows = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    _, state = tx.update(rows, tx.init(rows[0]))
    assert state[0].conflicting == 1
    assert state[2].conflicting == 0
    assert state[0].cosines[0, 1] < -0.7


def joint_adam(rate, steps, seeds):
    """Each task's part of Adam on the sum, m̂^t / (sqrt(v̂) + eps), in NumPy."""
    m = v = 0.0
    for k, seed in zip(range(1, steps + 1), seeds, strict=True):
        rows = rows_of(draw(3, seed))
        m = 0.9 * m + 0.1 * rows
        v = 0.999 * v + 0.001 * rows.sum(0) ** 2
        yield -rate * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)


def test_dominance_under_a_joint_adam():
    """Parts with the joint denominator; the training is that of Adam on the sum."""
    tx = optax.chain(
        mtl.split_step(3, optax.adam(0.1), momentum=0.9),
        mtl.track_dominance(3, decay=0.8),
        mtl.sum_tasks(3),
    )
    alone = optax.chain(mtl.sum_tasks(3), optax.adam(0.1))
    state, alone_state, average = tx.init(PARAMS), alone.init(PARAMS), 0.0
    update, alone_update = jax.jit(tx.update), jax.jit(alone.update)
    for seed, parts in enumerate(joint_adam(0.1, 6, range(6))):
        gradients = draw(3, seed)
        updates, state = update(gradients, state, PARAMS)
        wanted, alone_state = alone_update(gradients, alone_state, PARAMS)
        np.testing.assert_allclose(flat(updates), flat(wanted), rtol=1e-4, atol=1e-6)
        average = 0.8 * average + 0.2 * parts**2
    squares = optax.tree_utils.tree_get(state, "squares")
    np.testing.assert_allclose(rows_of(squares), average, rtol=1e-3)
    ratio = average / average.sum(0)
    np.testing.assert_allclose(rows_of(mtl.dominance_ratio(squares)), ratio, rtol=1e-3)


def test_dominance_under_adatask_has_each_tasks_own_denominator():
    gradients = jax.tree.map(lambda g: g.at[0].multiply(100.0), draw(2))
    adatask = optax.chain(
        mtl.adatask(2, optax.adam(0.1), combine=False), mtl.track_dominance(2), mtl.sum_tasks(2)
    )
    joint = optax.chain(
        mtl.split_step(2, optax.adam(0.1), momentum=0.9),
        mtl.track_dominance(2),
        mtl.sum_tasks(2),
    )
    histograms = {}
    for name, tx in {"adatask": adatask, "joint": joint}.items():
        updates, state = jax.jit(tx.update)(gradients, tx.init(PARAMS), PARAMS)
        squares = optax.tree_utils.tree_get(state, "squares")
        histograms[name] = np.asarray(mtl.dominance_histogram(squares))
    # Adam's first step is ±lr for each task alone, so that every ratio is one half.
    np.testing.assert_array_equal(histograms["adatask"], [[0, 0, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(histograms["joint"], [[0, 0, 0, 0, 1], [1, 0, 0, 0, 0]])
    plain = mtl.adatask(2, optax.adam(0.1))
    wanted, _ = jax.jit(plain.update)(gradients, plain.init(PARAMS), PARAMS)
    updates, _ = jax.jit(adatask.update)(gradients, adatask.init(PARAMS), PARAMS)
    np.testing.assert_allclose(flat(updates), flat(wanted), rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rmsprop"])
def test_split_step_without_momentum(optimizer):
    """The parts are g^t times one factor per coordinate, and sum to the step."""
    inner = getattr(optax, optimizer)(0.1)
    tx = mtl.split_step(3, inner)
    state, inner_state = tx.init(PARAMS), inner.init(PARAMS)
    update, inner_update = jax.jit(tx.update), jax.jit(inner.update)
    for seed in range(3):
        gradients = draw(3, seed)
        parts, state = update(gradients, state, PARAMS)
        summed = jax.tree.map(lambda g: g.sum(0), gradients)
        step, inner_state = inner_update(summed, inner_state, PARAMS)
        factor = flat(step) / flat(summed)
        np.testing.assert_allclose(rows_of(parts), factor * rows_of(gradients), rtol=1e-4)
    assert state.moments == ()


def test_split_step_where_the_tasks_cancel_or_are_zero():
    tx = mtl.split_step(2, optax.chain(optax.rmsprop(0.1), optax.add_decayed_weights(0.5)))
    params = jnp.array([1.0, 1.0])
    rows = jnp.array([[2.0, 0.0], [-2.0, 0.0]])
    parts, _ = tx.update(rows, tx.init(params), params)
    np.testing.assert_allclose(parts, np.full((2, 2), 0.25))


def test_split_step_with_absent_tasks_still_sums_to_the_step():
    tx = optax.chain(mtl.split_step(3, optax.adam(0.1), momentum=0.9), mtl.sum_tasks(3))
    alone = optax.chain(mtl.sum_tasks(3), optax.adam(0.1))
    state, alone_state = tx.init(PARAMS), alone.init(PARAMS)
    update, alone_update = jax.jit(tx.update), jax.jit(alone.update)
    masks = [[True, True, True], [True, False, True], [False, False, True], [True, True, False]]
    for seed, mask in enumerate(masks):
        gradients, mask = draw(3, seed), jnp.array(mask)
        updates, state = update(gradients, state, PARAMS, task_mask=mask)
        wanted, alone_state = alone_update(gradients, alone_state, PARAMS, task_mask=mask)
        np.testing.assert_allclose(flat(updates), flat(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.nans
def test_dominance_of_an_absent_task_stands_still():
    tx = mtl.track_dominance(3)
    steps = draw(3)
    _, state = tx.update(steps, tx.init(PARAMS), PARAMS)
    spoiled = jax.tree.map(lambda g: g.at[1].set(jnp.nan), steps)
    _, after = tx.update(spoiled, state, PARAMS, task_mask=jnp.array([True, False, True]))
    before, now = rows_of(state.squares), rows_of(after.squares)
    np.testing.assert_array_equal(now[1], before[1])
    assert np.all(now[::2] > before[::2])


def test_ratio_and_histogram_by_hand():
    squares = {
        "a": {"bias": jnp.array([[0.0], [0.0]]), "kernel": jnp.array([[1.0, 9.0], [3.0, 1.0]])},
        "b": jnp.array([[1e38, 1e-37], [1e38, 0.0]]),
    }
    ratio = rows_of(mtl.dominance_ratio(squares))
    np.testing.assert_allclose(ratio[0], [0.5, 0.25, 0.9, 0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(ratio.sum(0), 1, rtol=1e-6)
    histogram = mtl.dominance_histogram(squares)
    np.testing.assert_allclose(histogram[0], [0, 0.2, 0.4, 0, 0.4])
    np.testing.assert_allclose(histogram.sum(1), 1)
    np.testing.assert_allclose(mtl.dominance_histogram(squares, buckets=2)[0], [0.2, 0.8])
    layers = mtl.dominance_by_layer(squares)
    assert list(layers) == ["['a']", ""]
    np.testing.assert_allclose(layers["['a']"][0], [0, 1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-6)
    whole = mtl.dominance_by_layer(squares, group=lambda path: "all")
    np.testing.assert_array_equal(whole["all"], histogram)


@pytest.mark.nans
def test_a_share_of_nan_is_nan():
    ratio = mtl.dominance_ratio(jnp.array([[jnp.nan, 1.0], [1.0, 3.0]]))
    np.testing.assert_array_equal(ratio, [[np.nan, 0.25], [np.nan, 0.75]])


def test_equal_dominance_sits_in_its_own_bucket_for_any_number_of_tasks():
    for num_tasks in (1, 2, 3, 5):
        histogram = mtl.dominance_histogram(jnp.ones((num_tasks, 3)))
        bucket = min(int(5 / num_tasks + 1e-9), 4)
        np.testing.assert_array_equal(histogram[:, bucket], 1)


def test_they_run_in_a_scan_under_strict_promotion():
    tx = optax.chain(
        mtl.track_conflict(3),
        mtl.split_step(3, optax.sgd(0.1), momentum=0.0),
        mtl.track_dominance(3),
        mtl.sum_tasks(3),
    )
    gradients = jax.tree.map(lambda *g: jnp.stack(g), *[draw(3, s) for s in range(4)])
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        state, _ = jax.lax.scan(
            lambda s, g: tx.update(g, s, PARAMS, task_mask=jnp.ones(3, bool))[::-1],
            tx.init(PARAMS),
            gradients,
        )
        histogram = mtl.dominance_histogram(optax.tree_utils.tree_get(state, "squares"))
    np.testing.assert_allclose(histogram.sum(1), 1, rtol=1e-6)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="track_dominance: decay must lie in"):
        mtl.track_dominance(2, decay=1.0)
    with pytest.raises(TypeError, match="split_step: optimizer must be an optax"):
        mtl.split_step(2, 0.1)
    with pytest.raises(ValueError, match="split_step: momentum must lie in"):
        mtl.split_step(2, optax.sgd(0.1), momentum=1.0)
    with pytest.raises(ValueError, match="buckets must be an int of at least 1, got 0"):
        mtl.dominance_histogram(jnp.ones((2, 3)), buckets=0)
    with pytest.raises(
        ValueError, match=r"track_conflict: .* wanted a leading axis of num_tasks=2"
    ):
        mtl.track_conflict(2).update(jnp.ones((3, 2)), mtl.track_conflict(2).init(None))
