"""FAMO against a loop in NumPy: softmax, logarithms, and Adam written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl

T = 4
ROWS, PARAMS = jnp.eye(T), jnp.zeros(T)


class Oracle:
    """The logits, one Adam for each of them, and what the last step saw."""

    def __init__(self, lagged, rate=0.025, decay=1e-3, least=0.0):
        self.lagged, self.rate, self.decay, self.least = lagged, rate, decay, least
        self.xi, self.m, self.v, self.count = np.zeros((4, T))
        self.log, self.known = np.zeros(T), np.zeros(T, bool)

    def __call__(self, losses, following, mask):
        after = losses if self.lagged else following
        both = mask & self.known
        z = np.where(both, np.exp(self.xi), 0)
        z = z / max(z.sum(), 1e-300)
        delta = np.where(both, self.log - np.log(np.where(both, after - self.least, 1)), 0)
        slope = z * (delta - z @ delta) + self.decay * self.xi
        self.count = self.count + both
        self.m = np.where(both, 0.9 * self.m + 0.1 * slope, self.m)
        self.v = np.where(both, 0.999 * self.v + 0.001 * slope**2, self.v)
        count = np.maximum(self.count, 1)
        step = (self.m / (1 - 0.9**count)) / (np.sqrt(self.v / (1 - 0.999**count)) + 1e-8)
        self.xi = np.where(both, self.xi - self.rate * step, self.xi)
        here = np.where(mask, losses - self.least, 1)
        self.log = np.where(mask, np.log(here), self.log)
        self.known = self.known | mask if self.lagged else mask
        weights = np.where(mask, np.exp(self.xi) / here, 0)
        return weights / weights.sum()


@pytest.mark.nans
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lagged", [False, True])
def test_twenty_steps_are_those_of_the_loop(lagged, masked):
    rng = np.random.default_rng(0)
    least = np.array([0.0, -1.0, 0.1, 0.2])
    tx = mtl.famo(T, lagged=lagged, min_losses=least, learning_rate=0.1)
    oracle, state, step = Oracle(lagged, rate=0.1, least=least), tx.init(PARAMS), jax.jit(tx.update)
    for _ in range(20):
        losses, following = (0.3 + rng.uniform(0, 3, T) for _ in range(2))
        mask = rng.uniform(size=T) < 0.7 if masked else np.ones(T, bool)
        mask[0] |= ~mask.any()
        spoilt = np.where(mask, losses, np.nan)
        _, state = step(
            ROWS,
            state,
            PARAMS,
            task_losses=jnp.asarray(spoilt, jnp.float32),
            next_losses=jnp.asarray(following, jnp.float32),
            task_mask=jnp.asarray(mask),
        )
        wanted = oracle(losses, following, mask)
        np.testing.assert_allclose(state.weights, wanted, rtol=2e-4, atol=1e-6)


def test_the_example_of_the_papers_code():
    """Of LibMTL and TorchJD 0.18: (.5714, .2857, .1429), then xi = -.025, .025, .025."""
    tx = mtl.famo(3)
    state = tx.init(PARAMS[:3])
    for losses in ([1.0, 2.0, 4.0], [0.5, 1.9, 4.0]):
        _, state = tx.update(jnp.eye(3), state, PARAMS[:3], task_losses=jnp.array(losses))
        if losses[0] == 1.0:
            np.testing.assert_allclose(state.weights, [4 / 7, 2 / 7, 1 / 7], rtol=1e-6)
    np.testing.assert_allclose(state.inner.logits.values, [-0.025, 0.025, 0.025], rtol=1e-4)


@pytest.mark.nans
def test_next_losses_have_to_be_given_and_do_nothing_in_the_first_call():
    tx = mtl.famo(T, lagged=False)
    losses = jnp.array([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match="famo: next_losses is missing, .*batch of the step befor"):
        tx.update(ROWS, tx.init(PARAMS), PARAMS, task_losses=losses)
    first = [
        tx.update(ROWS, tx.init(PARAMS), PARAMS, task_losses=losses, next_losses=next_losses)[1]
        for next_losses in (losses, losses + jnp.nan)
    ]
    jax.tree.map(np.testing.assert_array_equal, *first)
    # Lagged, they are nobody's.
    lagged = mtl.famo(T)
    _, state = lagged.update(ROWS, lagged.init(PARAMS), PARAMS, task_losses=losses)
    _, with_next = lagged.update(
        ROWS, state, PARAMS, task_losses=losses[::-1], next_losses=losses + jnp.nan
    )
    _, without = lagged.update(ROWS, state, PARAMS, task_losses=losses[::-1])
    jax.tree.map(np.testing.assert_array_equal, with_next, without)


@pytest.mark.nans
def test_a_next_loss_that_is_not_finite_is_seen():
    tx, losses = mtl.famo(T, lagged=False), jnp.ones(T)
    _, state = tx.update(ROWS, tx.init(PARAMS), PARAMS, task_losses=losses, next_losses=losses)
    bad = losses.at[1].set(jnp.nan)
    update, _ = tx.update(ROWS, state, PARAMS, task_losses=losses, next_losses=bad)
    assert np.all(np.isnan(update))
    # Of a task that was absent they are not asked.
    there = jnp.arange(T) != 1
    extra = {"task_losses": losses, "next_losses": losses, "task_mask": there}
    _, state = tx.update(ROWS, tx.init(PARAMS), PARAMS, **extra)
    update, _ = tx.update(ROWS, state, PARAMS, task_losses=losses, next_losses=bad)
    np.testing.assert_allclose(update, 1 / T, rtol=1e-5)


def test_micro_batches_average_next_losses_too():
    tx = mtl.famo(T, lagged=False)
    several = mtl.accumulate_task_gradients(T, 2, then=tx)
    rng = np.random.default_rng(1)
    draws = jnp.asarray(rng.uniform(1, 2, (4, 2, T)), jnp.float32)
    state, other = several.init(PARAMS), tx.init(PARAMS)
    for number, (losses, following) in enumerate(draws):
        update, state = several.update(
            ROWS, state, PARAMS, task_losses=losses, next_losses=following
        )
        if number % 2:
            means = draws[number - 1 : number + 1].mean(0)
            wanted, other = tx.update(
                ROWS, other, PARAMS, task_losses=means[0], next_losses=means[1]
            )
            np.testing.assert_allclose(update, wanted, rtol=1e-5)
        else:
            np.testing.assert_array_equal(update, 0)


@pytest.mark.parametrize("losses", [[0.0, 1.0], [-3.0, 1.0], [1e-38, 1e38]])
def test_a_loss_at_its_least_value_takes_all_the_weight(losses):
    tx = mtl.famo(2)
    update, _ = tx.update(
        jnp.eye(2), tx.init(jnp.zeros(2)), jnp.zeros(2), task_losses=jnp.array(losses)
    )
    np.testing.assert_allclose(update, [1, 0], atol=1e-6)
