"""CoBa against a loop in NumPy with lists, and fits by `numpy.polyfit`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl

T, WARMUP, HISTORY, TAU = 3, 3, 6, 5.0
ROWS, PARAMS = jnp.eye(T), jnp.zeros(T)


def softmax(x):
    e = np.exp(x - np.max(x))
    return e / e.sum()


def fitted(series):
    return np.polyfit(np.arange(len(series)), series, 1)[0] if len(series) > 1 else 0.0


class Oracle:
    def __init__(self):
        self.losses, self.slopes = [[] for _ in range(T)], [[] for _ in range(T)]
        self.worst, self.worst_slopes, self.first, self.steps = [], [], {}, 0

    def __call__(self, losses, mask):
        tasks = np.nonzero(mask)[0]
        for t in tasks:
            self.first.setdefault(t, losses[t])
            self.losses[t].append(losses[t] / self.first[t])
        self.worst.append(max(self.losses[t][-1] for t in tasks))
        self.steps += 1
        weights = np.zeros(T)
        weights[tasks] = 1 / len(tasks)
        if self.steps < WARMUP:
            return weights
        now = np.array([fitted(self.losses[t][-HISTORY:]) for t in tasks])
        for t, slope in zip(tasks, now, strict=True):
            self.slopes[t].append(slope)
        self.worst_slopes.append(fitted(self.worst[-HISTORY:]))
        number = len(tasks)
        relative = softmax(number * now / (np.abs(now).sum() or 1))
        past = [np.array(self.slopes[t][-HISTORY:]) for t in tasks]
        absolute = softmax([-len(p) * p[-1] / (np.abs(p).sum() or 1) for p in past])
        course = np.array(self.worst_slopes[-HISTORY:])
        course = len(course) * course / (np.abs(course).sum() or 1)
        factor = len(course) * softmax(-TAU * course)[-1]
        found = softmax(number * (factor * relative + (1 - factor) * absolute))
        floor = 1 / (10 * number)
        if np.any(found < floor):
            found = found * (1 - number * floor) + floor
        weights[tasks] = found
        return weights


@pytest.mark.nans
@pytest.mark.parametrize("masked", [False, True])
def test_twenty_steps_are_those_of_the_loop(masked):
    rng = np.random.default_rng(3)
    tx = mtl.coba(T, warmup=WARMUP, history=HISTORY, temperature=TAU)
    oracle, state, step = Oracle(), tx.init(PARAMS), jax.jit(tx.update)
    for number in range(20):
        losses = np.array([2.0, 1.0, 5.0]) * (0.5 + np.exp(-0.1 * number * np.arange(1, T + 1)))
        losses = losses * rng.uniform(0.95, 1.05, T)
        mask = rng.uniform(size=T) < 0.7 if masked else np.ones(T, bool)
        mask[number % T] = True
        given = jnp.asarray(np.where(mask, losses, np.nan), jnp.float32)
        _, state = step(ROWS, state, PARAMS, next_losses=given, task_mask=jnp.asarray(mask))
        np.testing.assert_allclose(state.weights, oracle(losses, mask), rtol=2e-3, atol=2e-4)


def test_losses_that_stand_still_are_weighted_equally():
    tx = mtl.coba(T, warmup=1, history=4)
    state = tx.init(PARAMS)
    for _ in range(6):
        _, state = tx.update(ROWS, state, PARAMS, next_losses=jnp.array([1.0, 0.0, 3.0]))
        np.testing.assert_allclose(state.weights, 1 / T, rtol=1e-5)


def test_held_out_losses_have_to_be_given():
    tx = mtl.coba(T)
    with pytest.raises(ValueError, match="coba: next_losses is missing"):
        tx.update(ROWS, tx.init(PARAMS), PARAMS, task_losses=jnp.ones(T))
