"""DB-MTL against a loop in NumPy, absent tasks included, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import weights_of

T, N, STEPS = 4, 6, 20


def draws(seed=0):
    """Gradients some of which lie far apart, losses, and masks of all steps."""
    rng = np.random.default_rng(seed)
    sizes = 10 ** rng.uniform(-2, 2, (1, T, 1))
    gradients, losses = rng.normal(size=(STEPS, T, N)) * sizes, rng.uniform(0.1, 3, (STEPS, T))
    masks = rng.random((STEPS, T)) < 0.7
    gradients[:6, 2] = 0  # A task that has no gradient at first.
    masks[3] = False
    return gradients, losses, masks


def run(tx, gradients, losses, masks):
    @jax.jit
    def scan(gradients, losses, masks):
        def body(state, now):
            update, state = tx.update(now[0], state, task_losses=now[1], task_mask=now[2])
            return state, (update, state.weights)

        return jax.lax.scan(body, tx.init(gradients[0, 0]), (gradients, losses, masks))[1]

    updates, weights = scan(*map(jnp.asarray, (gradients, losses, masks)))
    return np.asarray(updates, np.float64), np.asarray(weights)


def loop(gradients, losses, masks, beta, sigma):
    averages, counts = np.zeros((T, N)), np.zeros(T)
    for now, of_losses, present in zip(gradients, losses, masks, strict=True):
        counts += present
        update, weights = np.zeros(N), np.zeros(T)
        for t in np.flatnonzero(present):
            logs = now[t] / (of_losses[t] + 1e-8)
            averages[t] = logs + beta / counts[t] ** sigma * (averages[t] - logs)
        lengths = np.linalg.norm(averages, axis=1)
        for t in np.flatnonzero(present):
            weights[t] = max(lengths[present]) / lengths[t] if lengths[t] else 0
            update += weights[t] * averages[t]
        yield update, weights


@pytest.mark.parametrize(("beta", "sigma"), [(0.9, 0.0), (0.9, 0.5), (0.0, 0.0)])
def test_it_equals_numpy_over_twenty_steps(beta, sigma):
    given = draws()
    wanted, weights = map(np.stack, zip(*loop(*given, beta, sigma), strict=True))
    options = {"decay": beta, "decay_power": sigma}
    with jax.enable_x64(True):
        updates, got = run(mtl.db_mtl(T, **options), *given)
        np.testing.assert_allclose(updates, wanted, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(got, weights, rtol=1e-6)
    single = [np.float32(given[0]), np.float32(given[1]), given[2]]
    updates, _ = run(mtl.db_mtl(T, **options), *single)
    np.testing.assert_allclose(updates, wanted, rtol=0, atol=1e-5 * np.max(np.abs(wanted)))


def test_the_first_step_is_a_share_of_the_log_losses_gradients_of_one_length():
    """As LibMTL's, which starts its buffer at zero."""
    gradients, losses = jnp.array([[3.0, 4.0], [0.0, 2.0]]), jnp.array([0.5, 4.0])
    rows, state = first(gradients, losses, combine=False)
    np.testing.assert_allclose(state.ema.averages, 0.1 * gradients / losses[:, None], rtol=1e-6)
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(weights_of(state), [1.0, 20.0], rtol=1e-6)


def first(gradients, losses, **options):
    tx = mtl.db_mtl(len(gradients), **options)
    update = jax.jit(lambda g, losses: tx.update(g, tx.init(g[0]), g[0], task_losses=losses))
    return update(gradients, losses)


def test_equal_tasks_tend_to_their_sum():
    gradients, losses = jnp.tile(jnp.array([1.0, -2.0]), (3, 1)), 2 * jnp.ones(3)
    tx, params = mtl.db_mtl(3, decay=0.5), jnp.zeros(2)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(30):
        updates, state = update(gradients, state, params, task_losses=losses)
    np.testing.assert_allclose(updates, 1.5 * gradients[0], rtol=1e-6)


def test_a_zero_gradient_has_no_weight_and_takes_none_from_others():
    gradients = jnp.array([[3.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    update, state = first(gradients, jnp.ones(3), decay=0.0)
    np.testing.assert_allclose(update, [3.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(weights_of(state), [1.0, 0.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1e20])
def test_short_gradients_are_brought_to_length_as_long_ones(scale):
    """LibMTL's 1e-8 beside the length leaves those below it as short as they are."""
    gradients = jnp.array([[2.0, 0.0], [0.0, 1e-3]]) * scale
    update, _ = first(gradients, jnp.ones(2), decay=0.0)
    np.testing.assert_allclose(update, [2.0 * scale, 2.0 * scale], rtol=1e-6)


def test_weights_end_where_float32_does_and_the_update_is_finite():
    gradients = jnp.array([[1e10, 0.0], [0.0, 1e-35]])
    update, state = first(gradients, jnp.ones(2), decay=0.0)
    assert np.all(np.isfinite(update))
    np.testing.assert_allclose(weights_of(state), [1.0, np.finfo(np.float32).max], rtol=1e-6)


def test_averages_of_half_precision_gradients_are_in_float32():
    gradients = jnp.array([[1.0, 3.0], [2.0, 1.0]], jnp.bfloat16)
    update, state = first(gradients, jnp.array([3.0, 7.0]))
    assert update.dtype == jnp.bfloat16
    wanted = np.array([[1.0, 3.0], [2.0, 1.0]]) / [[3.0], [7.0]] * 0.1
    np.testing.assert_allclose(state.ema.averages, wanted, rtol=1e-6)


def test_losses_at_or_below_zero_count_as_zero():
    for loss in (0.0, -3.0):
        _, state = first(jnp.eye(2), jnp.array([loss, 1.0]), decay=0.0)
        np.testing.assert_allclose(state.ema.averages[0], [1e8, 0.0], rtol=1e-6)


@pytest.mark.nans
def test_a_loss_without_a_bound_is_no_gradient_of_zero():
    update, state = first(jnp.eye(2), jnp.array([jnp.inf, 1.0]))
    assert np.all(np.isnan(update))
    assert np.all(np.isfinite(state.ema.averages[1]))


def test_heads_pass_and_losses_come_with_an_object():
    shared = {"trunk": True, "heads": False}
    params = {"trunk": jnp.array([1.0, 2.0]), "heads": jnp.ones(2)}
    losses_of = lambda p: p["heads"] * jnp.stack([jnp.sum(p["trunk"] ** 2), p["trunk"][0]])
    tx = mtl.on_shared(mtl.db_mtl(2, decay=0.0), shared)

    @jax.jit
    def take(params):
        _, gradients = mtl.value_and_task_grads(losses_of, shared=shared, stacked=False)(params)
        return tx.update(gradients, tx.init(params), params)[0]

    updates = take(params)
    np.testing.assert_allclose(updates["heads"], [5.0, 1.0], rtol=1e-6)
    logs = np.array([[2.0, 4.0], [1.0, 0.0]]) / [[5.0], [1.0]]
    wanted = logs[0] / np.linalg.norm(logs[0]) + logs[1]  # The second is the longer one.
    np.testing.assert_allclose(updates["trunk"], wanted, rtol=1e-5)


def test_adam_may_follow_and_the_loss_falls():
    centres = jnp.array([[1.0, 0.0], [-0.5, 1.0]])
    sizes = jnp.array([1.0, 100.0])
    losses_of = lambda p: jnp.sum((p[None] - centres) ** 2, axis=1) * sizes + 0.1
    tx = optax.chain(mtl.db_mtl(2), optax.adam(0.05))

    @jax.jit
    def train(params):
        def body(carry, _):
            params, state = carry
            losses, gradients = mtl.value_and_task_grads(losses_of)(params)
            updates, state = tx.update(gradients, state, params, task_losses=losses)
            return (optax.apply_updates(params, updates), state), losses

        return jax.lax.scan(body, (params, tx.init(params)), length=60)[1]

    losses = train(jnp.array([3.0, 3.0]))
    assert np.all(losses[-1] < 0.3 * losses[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
        ({"decay_power": -1}, r"decay_power must lie in \[0, inf\), got -1"),
        ({"eps": 0.0}, r"eps must lie in \(0, inf\), got 0.0"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=f"^db_mtl: {message}"):
        mtl.db_mtl(2, **options)
