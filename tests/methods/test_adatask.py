"""AdaTask against NumPy over several steps, for three optimisers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import flat, from_matrix, inputs, make, relative_error, step

RATE = 0.01
# In float32, Adam's own 1 - 0.999^k is off by a relative 1e-5.
TOLERANCE = 2e-5


def adam(history):
    m = v = np.zeros_like(history[0])
    for gradient in history:
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    k = len(history)
    return -RATE * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)


def rmsprop(history):
    v = np.zeros_like(history[0])
    for gradient in history:
        v = 0.9 * v + 0.1 * gradient**2
    return -RATE * history[-1] / np.sqrt(v + 1e-8)


def adagrad(history):
    v = np.full_like(history[0], 0.1) + sum(gradient**2 for gradient in history)
    return -RATE * history[-1] / np.sqrt(v + 1e-7)


OPTIMIZERS = {
    "adam": (optax.adam(RATE), adam),
    "rmsprop": (optax.rmsprop(RATE), rmsprop),
    "adagrad": (optax.adagrad(RATE), adagrad),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equals_numpy_over_five_steps(optimizer, reduction):
    transformation, transcription = OPTIMIZERS[optimizer]
    tx = mtl.adatask(3, transformation, reduction=reduction)
    rows = mtl.adatask(3, transformation, reduction=reduction, combine=False)
    state, rows_state, history = tx.init(inputs(3).params), rows.init(inputs(3).params), []
    for seed in range(5):
        given = inputs(3, seed)
        history.append(flat(given.gradients, tasks=True))
        updates, state = jax.jit(lambda s, g: step(tx, s, g))(state, given)
        kept, rows_state = step(rows, rows_state, given)
        wanted = transcription(history) / (3 if reduction == "mean" else 1)
        assert relative_error(flat(kept, tasks=True), wanted) < TOLERANCE
        assert relative_error(flat(updates), wanted.sum(0)) < TOLERANCE


def test_one_task_is_the_plain_optimizer():
    tx, plain = mtl.adatask(1, optax.adam(RATE)), optax.adam(RATE)
    state, plain_state = tx.init(inputs(1).params), plain.init(inputs(1).params)
    for seed in range(3):
        given = inputs(1, seed)
        updates, state = step(tx, state, given)
        gradient = jax.tree.map(lambda g: g[0], given.gradients)
        wanted, plain_state = plain.update(gradient, plain_state)
        np.testing.assert_allclose(flat(updates), flat(wanted), rtol=1e-6)


def test_the_scale_of_a_task_does_not_matter():
    matrix = np.random.default_rng(0).normal(size=(2, 17))
    scaled = matrix * np.array([[1.0], [1e4]])
    optimizer = optax.adam(RATE, eps=0.0)
    for rows in (matrix, scaled):
        updates, _ = step(
            tx := mtl.adatask(2, optimizer),
            tx.init(from_matrix(rows).params),
            from_matrix(rows),
        )
        np.testing.assert_allclose(flat(updates), -RATE * np.sign(matrix).sum(0), atol=1e-6)


def test_identical_tasks_step_as_many_times_as_far():
    """The paper's sum: T tasks that agree make T steps of one, where Adam on the sum makes one."""
    row = np.random.default_rng(0).normal(size=(1, 17))
    given, single = from_matrix(np.repeat(row, 4, axis=0)), from_matrix(row)
    run = lambda tx, g: flat(step(tx, tx.init(g.params), g)[0])
    one = run(mtl.adatask(1, optax.adam(RATE)), single)
    np.testing.assert_allclose(run(mtl.adatask(4, optax.adam(RATE)), given), 4 * one, rtol=1e-5)
    mean = mtl.adatask(4, optax.adam(RATE), reduction="mean")
    np.testing.assert_allclose(run(mean, given), one, rtol=1e-5)


def test_the_mean_is_over_the_present_tasks():
    given, mask = inputs(3), jnp.array([True, False, True])
    for combine in (True, False):
        tx = mtl.adatask(3, optax.sgd(RATE), reduction="mean", combine=combine)
        updates, _ = step(tx, tx.init(given.params), given, task_mask=mask)
        rows = -RATE / 2 * flat(given.gradients, tasks=True) * np.asarray(mask)[:, None]
        wanted = rows.sum(0) if combine else rows
        np.testing.assert_allclose(flat(updates, tasks=not combine), wanted, rtol=1e-6)


@pytest.mark.parametrize("factory", ["pcgrad", "cagrad"])
def test_adatask_on_rows_of_another_method(factory):
    """`chain(method(combine=False), per_task(adam), sum_tasks)`: the rows, fed to AdaTask."""
    rows = make(factory, 3, combine=False)
    tx = optax.chain(rows, mtl.per_task(3, optax.scale_by_adam()), mtl.sum_tasks(3))
    state, rows_state = tx.init(inputs(3).params), rows.init(inputs(3).params)
    history = []
    for seed in range(4):
        given = inputs(3, seed)
        updates, state = step(tx, state, given)
        modified, rows_state = step(rows, rows_state, given)
        history.append(flat(modified, tasks=True))
        assert relative_error(flat(updates), adam(history).sum(0) / -RATE) < TOLERANCE


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="adatask: optimizer must be an optax.GradientTransf"):
        mtl.adatask(2, 0.1)
    with pytest.raises(ValueError, match="adatask: reduction must be one of 'sum', 'mean'"):
        mtl.adatask(2, optax.sgd(0.1), reduction="max")


def test_the_state_is_one_optimizer_state_for_each_task():
    params = inputs(3).params
    state = mtl.adatask(3, optax.adam(RATE)).init(params)
    single = optax.adam(RATE).init(params)
    assert jax.tree.map(jnp.shape, state.per_task.inner) == jax.tree.map(
        lambda x: (3, *jnp.shape(x)), single
    )


def test_decay_inside_is_each_tasks_and_after_it_once():
    """What the docstring warns of, and what it advises instead."""
    params, rate, decay = jnp.array([2.0, -1.0]), 0.1, 0.5
    inside = mtl.adatask(3, optax.adamw(rate, weight_decay=decay))
    after = optax.chain(
        mtl.adatask(3, optax.scale_by_adam()),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(rate),
    )
    for tx, times in ((inside, 3), (after, 1)):
        updates, _ = tx.update(jnp.zeros((3, 2)), tx.init(params), params)
        np.testing.assert_allclose(updates, -rate * times * decay * params, rtol=1e-6)
