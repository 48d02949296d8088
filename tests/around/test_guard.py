"""`skip_nonfinite` against `task_mask`, over the registry, and what it counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import METHODS, flat, inputs, make, step, weights_of
from tests.every_method.test_contract import subset
from tests.task_gradients.test_stacked import SHARED, batch, close, losses_of, params
from tests.task_gradients.test_stacked import T as HEADS

pytestmark = pytest.mark.nans

T, BAD = 4, 1
WITHOUT_BAD = jnp.arange(T) != BAD


def in_a_gradient(given, bad):
    scale = given.gradients["scale"].at[BAD].set(bad)
    return given._replace(gradients={**given.gradients, "scale": scale})


def in_a_loss(given, bad):
    return given._replace(losses=given.losses.at[BAD].set(bad))


def in_a_query_gradient(given, bad):
    scale = given.query_gradients["scale"].at[BAD].set(bad)
    return given._replace(query_gradients={**given.query_gradients, "scale": scale})


def jitted(tx, **fixed):
    return jax.jit(lambda state, given: step(tx, state, given, **fixed))


def same(got, wanted):
    """Equal but for the rounding of two compiled programs."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_dropped_task_is_an_absent_task(name):
    """Updates and state equal those of the method with `task_mask`, wherever the bad number is."""
    method = make(name, T)
    guarded = mtl.skip_nonfinite(method)
    guarded_step, masked_step = jitted(guarded), jitted(method, task_mask=WITHOUT_BAD)
    _, state = guarded_step(guarded.init(inputs(T).params), inputs(T))
    given = inputs(T, seed=1)
    wanted, wanted_state = masked_step(state.inner, given)
    assert np.any(flat(wanted) != 0)
    for spoil in (in_a_gradient, in_a_loss, in_a_query_gradient):
        for bad in (jnp.nan, jnp.inf, -jnp.inf):
            got, after = guarded_step(state, spoil(given, bad))
            same(got, wanted)
            same(after.inner, wanted_state)
            assert after.dropped.tolist() == [0, 1, 0, 0]
            assert (int(after.skipped), int(after.consecutive)) == (0, 1)


def test_what_follows_sees_zeros_for_a_dropped_task():
    seen = {}

    def look(updates, state, params=None, **extra):
        seen.update(extra, gradients=updates)
        return updates, state

    spy = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), look)
    tx = mtl.skip_nonfinite(optax.chain(spy, mtl.mean_tasks(T)))
    given = in_a_query_gradient(in_a_loss(inputs(T), jnp.nan), jnp.inf)
    step(tx, tx.init(given.params), given)
    clean = inputs(T)
    for got, wanted in (
        (seen["gradients"], clean.gradients),
        (seen["query_gradients"], clean.query_gradients),
        (seen["task_losses"], clean.losses),
    ):
        jax.tree.map(lambda g, w: np.testing.assert_array_equal(g, w.at[BAD].set(0)), got, wanted)
    assert seen["task_mask"].tolist() == WITHOUT_BAD.tolist()


@pytest.mark.parametrize("policy", ["drop_task", "skip_step"])
@pytest.mark.parametrize("name", ["mgda", "dwa", "adatask", "meta_weighting"])
def test_a_finite_step_is_the_methods_own(name, policy):
    method = make(name, T)
    guarded = mtl.skip_nonfinite(method, policy=policy)
    plain_step, guarded_step = jitted(method), jitted(guarded)
    state, plain = guarded.init(inputs(T).params), method.init(inputs(T).params)
    for seed in range(2):
        wanted, plain = plain_step(plain, inputs(T, seed))
        got, state = guarded_step(state, inputs(T, seed))
        close(got, wanted)
        close(state.inner, plain)
    assert not np.any(state.dropped)
    assert (int(state.skipped), int(state.consecutive)) == (0, 0)


@pytest.mark.parametrize("name", ["dwa", "rlw", "adatask", "meta_weighting"])
def test_a_skipped_step_moves_nothing(name):
    tx = mtl.skip_nonfinite(make(name, T), policy="skip_step")
    take = jitted(tx)
    _, state = take(tx.init(inputs(T).params), inputs(T))
    for spoil in (in_a_gradient, in_a_loss, in_a_query_gradient):
        updates, after = take(state, spoil(inputs(T, 1), jnp.nan))
        assert np.all(flat(updates) == 0)
        close(after.inner, state.inner)
        assert after.dropped.tolist() == [0, 1, 0, 0]
        assert (int(after.skipped), int(after.consecutive)) == (1, 1)


def test_with_no_task_left_the_step_is_skipped():
    tx = mtl.skip_nonfinite(optax.chain(mtl.mean_tasks(T), optax.adam(0.1)))
    take = jitted(tx)
    _, state = take(tx.init(inputs(T).params), inputs(T))
    given = inputs(T, 1)
    updates, after = take(state, given._replace(losses=given.losses * jnp.nan))
    assert np.all(flat(updates) == 0)
    close(after.inner, state.inner)
    assert after.dropped.tolist() == [1, 1, 1, 1]
    assert int(after.skipped) == 1


def test_the_users_mask_comes_first():
    """What an absent task holds is not looked at, and a present one is dropped as well."""
    tx, plain = mtl.skip_nonfinite(mtl.pcgrad(T, key=3)), mtl.pcgrad(T, key=3)
    given, start = inputs(T), inputs(T).params
    spoiled = in_a_loss(given, jnp.nan)
    mask = jnp.array([True, False, True, True])
    _, state = jitted(tx, task_mask=mask)(tx.init(start), spoiled)
    assert state.dropped.tolist() == [0, 0, 0, 0]
    assert int(state.consecutive) == 0
    other = jnp.array([True, True, True, False])
    got, state = jitted(tx, task_mask=other)(tx.init(start), spoiled)
    wanted, _ = jitted(plain, task_mask=other & WITHOUT_BAD)(plain.init(start), given)
    close(got, wanted)
    assert state.dropped.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("policy", ["drop_task", "skip_step"])
def test_a_finite_step_whose_update_is_not_is_skipped(policy):
    tx = mtl.skip_nonfinite(mtl.sum_tasks(2), policy=policy)
    gradients = jnp.full((2, 3), 3e38, jnp.float32)
    updates, state = jax.jit(tx.update)(gradients, tx.init(jnp.zeros(3)))
    assert np.all(np.asarray(updates) == 0)
    np.testing.assert_array_equal(state.inner.weights, 0)
    assert state.dropped.tolist() == [0, 0]
    assert (int(state.skipped), int(state.consecutive)) == (1, 1)


@pytest.mark.parametrize("policy", ["drop_task", "skip_step"])
def test_a_failure_that_lasts_is_let_through(policy):
    """Two bad steps are kept out, a good one starts the count anew, and the third in a row goes."""
    tx = mtl.skip_nonfinite(mtl.mean_tasks(2), policy=policy, max_consecutive=2)
    good, bad = jnp.ones((2, 3)), jnp.ones((2, 3)).at[0, 1].set(jnp.nan)
    order = jnp.stack([bad, bad, good, bad, bad, bad, good])

    def body(state, gradients):
        updates, state = tx.update(gradients, state)
        return state, (jnp.all(jnp.isfinite(updates)), state.consecutive, state.dropped[0])

    state, (finite, consecutive, dropped) = jax.jit(lambda s: jax.lax.scan(body, s, order))(
        tx.init(jnp.zeros(3))
    )
    assert finite.tolist() == [True] * 5 + [False, True]
    assert consecutive.tolist() == [1, 2, 0, 1, 2, 3, 0]
    assert dropped.tolist() == [1, 2, 2, 3, 4, 4, 4]
    assert int(state.skipped) == (4 if policy == "skip_step" else 0)


def test_a_state_that_failed_stays_seen():
    """Once let through, Adam's moments are NaN, and no later step hides that behind zeros."""
    tx = mtl.skip_nonfinite(optax.chain(mtl.mean_tasks(2), optax.adam(0.1)), max_consecutive=1)
    good, bad = jnp.ones((2, 3)), jnp.full((2, 3), jnp.nan)
    state = tx.init(jnp.zeros(3))
    for gradients in (bad, bad, good, good, good):
        updates, state = jax.jit(tx.update)(gradients, state)
    assert np.all(np.isnan(updates))


def test_vmap_over_seeds_and_a_constant_state():
    tx = mtl.skip_nonfinite(mtl.uw(T, optax.adam(0.1)))
    many = [inputs(T, seed) for seed in range(3)]
    many[1] = in_a_gradient(many[1], jnp.inf)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *many)
    updates, states = jax.jit(jax.vmap(lambda g: step(tx, tx.init(g.params), g)))(stacked)
    assert states.dropped.tolist() == [[0] * T, [0, 1, 0, 0], [0] * T]
    for seed, given in enumerate(many):
        before = tx.init(given.params)
        wanted, after = step(tx, before, given)
        close(jax.tree.map(lambda u, seed=seed: u[seed], updates), wanted)
        kinds = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
        assert kinds(before) == kinds(after)


def test_inside_on_shared_and_masked_hidden_leaves_are_not_looked_at():
    p, data = params(), batch()
    losses, gradients = mtl.value_and_task_grads(losses_of, shared=SHARED)(p, data)
    _, query = mtl.value_and_task_grads(losses_of, shared=SHARED)(p, batch(2))
    query["heads"] = query["heads"].at[0].set(jnp.nan)
    mask = jnp.array([True, False, True])
    extra = {"task_losses": losses, "query_gradients": query}
    for name in ("mgda", "meta_weighting"):
        method = mtl.get(name, HEADS)
        tx = mtl.on_shared(mtl.skip_nonfinite(method), SHARED)
        plain = mtl.on_shared(method, SHARED)
        wanted, _ = plain.update(gradients, plain.init(p), p, **extra, task_mask=mask)
        spoiled = {**extra, "task_losses": losses.at[1].set(jnp.nan)}
        got, state = jax.jit(tx.update)(gradients, tx.init(p), p, **spoiled)
        close(got, wanted)
        assert optax.tree_utils.tree_get(state, "dropped").tolist() == [0, 1, 0]
        assert optax.tree_utils.tree_get(state, "weights")[1] == 0
    hidden = optax.masked(mtl.skip_nonfinite(mtl.mgda(HEADS)), SHARED)
    _, state = hidden.update(
        {**gradients, "heads": query["heads"]}, hidden.init(p), p, task_losses=losses
    )
    assert optax.tree_utils.tree_get(state, "dropped").tolist() == [0, 0, 0]


@pytest.mark.parametrize("heads", ["weighted", "unweighted"])
def test_around_on_shared_heads_are_guarded_too(heads):
    p, data = params(), batch()
    losses, gradients = mtl.value_and_task_grads(losses_of, shared=SHARED)(p, data)
    losses = losses.at[1].set(jnp.nan)
    gradients["trunk"]["b"] = gradients["trunk"]["b"].at[1].set(jnp.nan)
    gradients["heads"] = gradients["heads"].at[1].set(jnp.nan)
    plain = mtl.on_shared(mtl.mean_tasks(HEADS), SHARED, heads=heads)
    tx = mtl.skip_nonfinite(plain)
    updates, state = jax.jit(tx.update)(gradients, tx.init(p), p, task_losses=losses)
    zeroed = jax.tree.map(jnp.nan_to_num, gradients)
    mask = jnp.array([True, False, True])
    wanted, _ = plain.update(zeroed, plain.init(p), p, task_mask=mask)
    close(updates, wanted)
    assert np.all(np.asarray(updates["heads"][1]) == 0)
    assert state.dropped.tolist() == [0, 1, 0]


def test_a_head_alone_that_is_not_finite():
    """It drops no task, but is counted, and skips the step under that policy."""
    p, data = params(), batch()
    losses, gradients = mtl.value_and_task_grads(losses_of, shared=SHARED)(p, data)
    gradients["heads"] = gradients["heads"].at[1, 2].set(jnp.inf)
    method = mtl.on_shared(mtl.mean_tasks(HEADS), SHARED)
    tx = mtl.skip_nonfinite(method)
    updates, state = tx.update(gradients, tx.init(p), p, task_losses=losses)
    np.testing.assert_array_equal(updates["heads"], gradients["heads"].at[1, 2].set(0))
    assert (state.dropped.tolist(), int(state.consecutive)) == ([0, 0, 0], 1)
    tx = mtl.skip_nonfinite(method, policy="skip_step")
    updates, state = tx.update(gradients, tx.init(p), p, task_losses=losses)
    assert np.all(np.asarray(updates["trunk"]["w"]) == 0)
    assert int(state.skipped) == 1


def test_how_far_a_tasks_nan_spreads_before_the_guard():
    """One backward pass for all tasks spreads it to all; one for each keeps it where it is."""
    p, data = params(), batch()
    data["y"] = data["y"].at[:, 1].set(jnp.nan)
    losses, gradients = mtl.value_and_task_grads(losses_of)(p, data)
    assert np.isfinite(losses).tolist() == [True, False, True]
    tx = mtl.skip_nonfinite(mtl.mean_tasks(HEADS))
    _, state = tx.update(gradients, tx.init(p), p, task_losses=losses)
    assert (state.dropped.tolist(), int(state.skipped)) == ([1, 1, 1], 1)

    def loss_of(q, x, y, task):
        return losses_of(q, {"x": x, "y": jnp.repeat(y[:, None], HEADS, axis=1)})[task]

    x = jnp.stack([data["x"]] * HEADS)
    _, gradients = mtl.per_task_value_and_grad(loss_of)(p, x, data["y"].T, jnp.arange(HEADS))
    _, state = tx.update(gradients, tx.init(p), p)
    assert (state.dropped.tolist(), int(state.skipped)) == ([0, 1, 0], 0)


@pytest.mark.parametrize(
    "around",
    [
        lambda method: optax.chain(method, optax.adam(0.1)),
        lambda method: optax.chain(mtl.per_task(T, optax.clip_by_global_norm(1.0)), method),
        lambda method: optax.chain(mtl.track_conflict(T), method),
        lambda method: optax.chain(optax.clip(1.0), method),
        lambda method: optax.chain(mtl.per_task(T, optax.add_decayed_weights(0.1)), method),
        lambda method: mtl.on_shared(method, lambda path: path[0].key == "dense"),
        lambda method: mtl.skip_nonfinite(method),
    ],
)
def test_the_number_of_tasks_is_found_in_a_chain(around):
    tx = mtl.skip_nonfinite(around(mtl.mgda(T)))
    assert tx.init(inputs(T).params).dropped.shape == (T,)


def test_mistakes_are_named():
    p = inputs(T).params
    tx, given = mtl.skip_nonfinite(mtl.meta_weighting(T)), inputs(T)
    state = tx.init(p)
    with pytest.raises(ValueError, match=r"skip_nonfinite: task_losses has shape \(4, 1\)"):
        step(tx, state, given._replace(losses=given.losses[:, None]))
    with pytest.raises(TypeError, match="skip_nonfinite: task_mask must be a boolean array"):
        step(tx, state, given, task_mask=jnp.ones(T))
    with pytest.raises(ValueError, match=r"meta_weighting: task_gradients.* has shape \(4,\)"):
        step(tx, state, given._replace(gradients=p))
    with pytest.raises(ValueError, match="must have the same tree structure"):
        step(tx, state, given._replace(gradients=given.gradients["dense"]))
    for query in (p, subset(given, [0, 1]).query_gradients, given.query_gradients["dense"]):
        with pytest.raises(ValueError, match="meta_weighting: query_gradients"):
            step(tx, state, given._replace(query_gradients=query))
    with pytest.raises(ValueError, match="meta_weighting: query_gradients is missing"):
        step(tx, state, given._replace(query_gradients=None))


def test_weights_stay_readable():
    tx = mtl.skip_nonfinite(optax.chain(mtl.mean_tasks(T), optax.adam(0.1)))
    _, state = jitted(tx)(tx.init(inputs(T).params), in_a_gradient(inputs(T), jnp.nan))
    np.testing.assert_allclose(weights_of(state), [1 / 3, 0, 1 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("x64", [False, True])
def test_strict_dtype_promotion(x64):
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        given = inputs(T, dtype=jnp.float64 if x64 else jnp.float32)
        for policy in ("drop_task", "skip_step"):
            tx = mtl.skip_nonfinite(mtl.meta_weighting(T), policy=policy)
            updates, _ = jitted(tx)(tx.init(given.params), in_a_gradient(given, jnp.nan))
            assert np.any(flat(updates) != 0) == (policy == "drop_task")
