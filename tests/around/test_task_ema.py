"""Averages of the task gradients against a loop in NumPy, absent tasks included."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import flat, inputs, step

T, STEPS = 3, 20
DECAYS = {
    "number": (0.9, lambda count: 0.9),
    "close to one": (0.9999, lambda count: 0.9999),
    "zero": (0.0, lambda count: 0.0),
    "schedule": (lambda count: 0.9 / (count + 1.0), lambda count: 0.9 / (count + 1.0)),
    "schedule of optax": (
        optax.linear_schedule(0.2, 0.8, 5),
        lambda count: 0.2 + 0.6 * min(count, 5) / 5,
    ),
}


def steps_of_inputs(seed=0):
    """Gradients of all steps, stacked, and masks in which each task is absent now and then."""
    many = [inputs(T, seed) for seed in range(STEPS)]
    masks = np.random.default_rng(seed).random((STEPS, T)) < 0.7
    return jax.tree.map(lambda *x: jnp.stack(x), *many), jnp.asarray(masks)


def run(tx, given, masks):
    """All steps of a transformation in one program: what it returned, and its last state."""

    @jax.jit
    def scan(given, masks):
        def body(state, now):
            rows, state = step(tx, state, now[0], task_mask=now[1])
            return state, rows

        first = tx.init(jax.tree.map(lambda p: p[0], given.params))
        return jax.lax.scan(body, first, (given, masks))

    state, rows = scan(given, masks)
    return flat_steps(rows), state


def flat_steps(rows):
    """The rows of all steps, `(steps, T, 17)`."""
    joined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
    return flat(joined, tasks=True).reshape(STEPS, T, 17)


def loop(gradients, masks, decay, start):
    """The averages of each step; absent tasks' rows are zero."""
    averages = [None] * T
    weights = np.zeros(T)  # What the gradients have of the average, the zero having the rest.
    counts, rows = np.zeros(T, int), np.zeros_like(gradients)
    for k, (now, present) in enumerate(zip(gradients, masks, strict=True)):
        for t in np.flatnonzero(present):
            kept = decay(counts[t])
            if averages[t] is None:
                averages[t] = now[t] if start == "first" else (1 - kept) * now[t]
                weights[t] = 1 - kept
            else:
                averages[t] = kept * averages[t] + (1 - kept) * now[t]
                weights[t] = kept * weights[t] + 1 - kept
            counts[t] += 1
            rows[k, t] = averages[t] / (weights[t] if start == "debiased" else 1)
    return rows, counts


@pytest.mark.parametrize("start", ["zero", "first", "debiased"])
@pytest.mark.parametrize("decay", DECAYS)
def test_it_equals_a_loop_in_numpy(decay, start):
    given, masks = steps_of_inputs()
    ours, theirs = DECAYS[decay]
    rows, state = run(mtl.task_ema(T, ours, start=start), given, masks)
    wanted, counts = loop(flat_steps(given.gradients), np.asarray(masks), theirs, start)
    np.testing.assert_allclose(rows, wanted, rtol=2e-5, atol=2e-6 * np.max(np.abs(wanted)))
    np.testing.assert_array_equal(state.counts, counts)


def test_in_float64_it_equals_the_loop_to_the_last_digits():
    with jax.enable_x64(True):
        given, masks = steps_of_inputs()
        given = jax.tree.map(lambda x: x.astype(jnp.float64), given)
        rows, _ = run(mtl.task_ema(T, 0.999), given, masks)
        wanted, _ = loop(
            flat_steps(given.gradients), np.asarray(masks), lambda count: 0.999, "debiased"
        )
        np.testing.assert_allclose(rows, wanted, rtol=1e-11, atol=1e-12)


def test_one_constant_gradient_is_its_own_debiased_average_at_any_decay():
    """In float32, where `1 - decay` has lost its digits if it is computed there."""
    tx, row = mtl.task_ema(1, 0.99999), jnp.array([[1.0, -3.0]])
    state = tx.init(row[0])
    for _ in range(3):
        rows, state = tx.update(row, state, row[0])
        np.testing.assert_allclose(rows, row, rtol=1e-6)
    np.testing.assert_allclose(state.totals, 1 - 0.99999**3, rtol=1e-6)


@pytest.mark.nans
def test_an_absent_tasks_average_stands_still_whatever_its_gradient_holds():
    tx = mtl.task_ema(2, 0.5, start="first")
    params = jnp.zeros(2)
    _, state = tx.update(jnp.ones((2, 2)), tx.init(params), params)
    spoilt = jnp.array([[3.0, 3.0], [jnp.nan, jnp.inf]])
    mask = jnp.array([True, False])
    rows, after = tx.update(spoilt, state, params, task_mask=mask)
    np.testing.assert_array_equal(rows, [[2.0, 2.0], [0.0, 0.0]])
    np.testing.assert_array_equal(after.averages, [[2.0, 2.0], [1.0, 1.0]])
    np.testing.assert_array_equal(after.counts, [2, 1])


def test_low_precision_and_complex_gradients_are_added_up_in_float32():
    tx = mtl.task_ema(1, 0.75, start="zero")
    params = {"half": jnp.zeros(1, jnp.bfloat16), "complex": jnp.zeros(1, jnp.complex64)}
    state = tx.init(params)
    dtypes = jax.tree.map(lambda x: x.dtype, state.averages)
    assert dtypes == {"half": jnp.float32, "complex": jnp.complex64}
    for _ in range(2):
        rows = {
            "half": jnp.ones((1, 1), jnp.bfloat16),
            "complex": jnp.full((1, 1), 1 - 2j, jnp.complex64),
        }
        rows, state = tx.update(rows, state, params)
    # 1 - 0.75², which bfloat16 holds.
    assert rows["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(state.averages["half"], [[0.4375]])
    np.testing.assert_allclose(rows["complex"], [[0.4375 * (1 - 2j)]], rtol=1e-6)
    # A hundredth of one is lost in bfloat16 beside one.
    tx = mtl.task_ema(1, 0.99, start="first")
    half = {"half": params["half"]}
    state = tx.init(half)
    for size in (1.0, 1.5, 1.5):
        _, state = tx.update({"half": jnp.full((1, 1), size, jnp.bfloat16)}, state, half)
    np.testing.assert_allclose(state.averages["half"], 1.5 - 0.5 * 0.99**2, rtol=1e-6)


def test_an_object_of_task_gradients_gives_its_stack():
    tx = optax.chain(mtl.task_ema(2, 0.5, start="zero"), mtl.sum_tasks(2))
    losses_of = lambda p: jnp.stack([jnp.sum(p**2), jnp.sum(3 * p)])
    params = jnp.array([1.0, 2.0])

    @jax.jit
    def first(params):
        _, gradients = mtl.value_and_task_grads(losses_of, stacked=False)(params)
        return tx.update(gradients, tx.init(params), params)[0]

    np.testing.assert_allclose(first(params), [2.5, 3.5], rtol=1e-6)


@pytest.mark.nans
def test_what_is_not_finite_stays_in_its_own_task():
    tx, params = mtl.task_ema(2, 0.5), jnp.zeros(1)
    _, state = tx.update(jnp.array([[1.0], [jnp.inf]]), tx.init(params), params)
    rows, _ = tx.update(jnp.array([[1.0], [1.0]]), state, params)
    assert np.isfinite(rows[0, 0])
    assert not np.isfinite(rows[1, 0])


@pytest.mark.nans
def test_a_guard_keeps_it_out():
    tx = mtl.skip_nonfinite(optax.chain(mtl.task_ema(2, 0.5), mtl.mean_tasks(2)))
    params = jnp.zeros(1)
    updates, state = tx.update(jnp.array([[1.0], [jnp.nan]]), tx.init(params), params)
    np.testing.assert_array_equal(updates, [1.0])
    updates, _ = tx.update(jnp.array([[1.0], [3.0]]), state, params)
    np.testing.assert_array_equal(updates, [2.0])
