"""Methods with a memory of the losses against loops in NumPy: Group DRO, IGB, GO4Align, LDC."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl

T = 4
ROWS, PARAMS = jnp.eye(T), jnp.zeros(T)


def softmax(x, mask):
    e = np.where(mask, np.exp(x - np.max(x[mask])), 0)
    return e / e.sum()


class GroupDRO:
    def __init__(self):
        self.log = np.zeros(T)

    def __call__(self, losses, mask):
        self.log = np.where(mask, self.log + 0.3 * losses, self.log)
        return mask.sum() * softmax(self.log, mask)


class IGB:
    def __init__(self):
        self.sums, self.counts = np.zeros(T), np.zeros(T)

    def __call__(self, losses, mask):
        ready = np.all(self.counts[mask] >= 3)
        base = self.sums / np.maximum(self.counts, 1)
        shares = np.ones(T)
        if ready:
            shares = mask.sum() * softmax(losses / np.where(mask, base, 1), mask)
        adding = mask & (self.counts < 3)
        self.sums, self.counts = (
            self.sums + adding * np.where(mask, losses, 0),
            self.counts + adding,
        )
        return np.where(mask, shares / losses, 0)


def best_groups(values, number):
    """The means of the contiguous grouping with the least squares, among all of them."""
    order = np.argsort(values)
    best, means = np.inf, None
    for number_of in range(1, number + 1):
        for cuts in itertools.combinations(range(1, len(values)), number_of - 1):
            parts = np.split(order, cuts)
            cost = sum(((values[p] - values[p].mean()) ** 2).sum() for p in parts)
            if cost < best - 1e-12:
                best, means = cost, np.zeros(len(values))
                for p in parts:
                    means[p] = values[p].mean()
    return means


class GO4Align:
    def __init__(self, groups=2):
        self.log, self.groups = np.zeros(T), groups

    def __call__(self, losses, mask):
        self.log = np.where(mask, self.log - 0.2 * losses, self.log)
        p = softmax(self.log, mask)
        s = (losses[mask].sum() / losses * p)[mask]
        weights = np.zeros(T)
        weights[mask] = best_groups(s, min(self.groups, len(s)))
        return weights


class LDC:
    def __init__(self):
        self.first = {}
        self.logits, self.m, self.v, self.k = np.zeros((4, T))

    def objective(self, logits, losses, tasks):
        w = np.clip(np.exp(logits) / np.exp(logits).sum(), 0.15, 0.6)
        weighted = w * losses
        return weighted.sum() / w.sum() + 0.7 * np.abs(np.diff(weighted)).sum()

    def __call__(self, losses, mask):
        tasks = np.nonzero(mask)[0]
        for t in tasks:
            self.first.setdefault(t, losses[t])
        r = np.array([self.first[t] for t in tasks])
        r = r / r.min()
        scaled, logits, h = losses[tasks] / r, self.logits[tasks], 1e-6
        step = lambda f, x: np.array(
            [(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(len(tasks))]
        )
        weights = np.zeros(T)
        weights[tasks] = step(lambda x: self.objective(logits, x, tasks), scaled) / r
        slopes = step(lambda x: self.objective(x, scaled, tasks), logits)
        for t, slope in zip(tasks, slopes, strict=True):
            self.k[t] += 1
            self.m[t] = 0.9 * self.m[t] + 0.1 * slope
            self.v[t] = 0.999 * self.v[t] + 0.001 * slope**2
            m, v = self.m[t] / (1 - 0.9 ** self.k[t]), self.v[t] / (1 - 0.999 ** self.k[t])
            self.logits[t] -= 0.001 * m / (np.sqrt(v) + 1e-8)
        return weights


METHODS = {
    "group_dro": (lambda: mtl.group_dro(T, step_size=0.3), GroupDRO),
    "igb": (lambda: mtl.igb(T, warmup=3), IGB),
    "go4align": (lambda: mtl.go4align(T, num_groups=2, step_size=0.2), GO4Align),
    "go4align 3": (
        lambda: mtl.go4align(T, num_groups=3, step_size=0.2),
        lambda: GO4Align(3),
    ),
    "ldc": (lambda: mtl.ldc(T, penalty=0.7, lower=0.15, upper=0.6), LDC),
}


@pytest.mark.nans
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_are_those_of_the_loop(name, masked):
    rng = np.random.default_rng(4)
    make, loop = METHODS[name]
    tx, oracle = make(), loop()
    state, step = tx.init(PARAMS), jax.jit(tx.update)
    for number in range(20):
        losses = np.array([2.0, 1.0, 5.0, 0.7]) * rng.uniform(0.5, 2, T)
        mask = rng.uniform(size=T) < 0.7 if masked else np.ones(T, bool)
        mask[number % T] = True
        given = jnp.asarray(np.where(mask, losses, np.nan), jnp.float32)
        _, state = step(ROWS, state, PARAMS, task_losses=given, task_mask=jnp.asarray(mask))
        np.testing.assert_allclose(state.weights, oracle(losses, mask), rtol=1e-3, atol=1e-4)


def weights_of(tx, losses):
    return tx.update(ROWS, tx.init(PARAMS), PARAMS, task_losses=jnp.asarray(losses))[1].weights


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4, 9])
def test_groups_are_the_best_of_all(num_groups):
    rng = np.random.default_rng(num_groups)
    tx = mtl.go4align(T, num_groups=num_groups, step_size=0.0)
    losses = np.exp(rng.normal(size=(100, T))).astype(np.float32)
    find = lambda row: tx.update(ROWS, tx.init(PARAMS), PARAMS, task_losses=row)[1].weights
    for row, got in zip(losses, jax.jit(jax.vmap(find))(losses), strict=True):
        s = row.sum(dtype=np.float64) / row.astype(np.float64) / T
        np.testing.assert_allclose(got, best_groups(s, min(num_groups, T)), rtol=1e-5)


def test_the_examples_of_the_authors_codes():
    """GO4Align's scores and IGB's weights, for losses of 1, 2 and 4."""
    losses, params = jnp.array([1.0, 2.0, 4.0]), jnp.zeros(3)
    for tx, wanted, digits in (
        (mtl.go4align(3, num_groups=3), [2.334, 1.167, 0.583], 6e-4),
        (mtl.igb(3, base_losses=[2.0] * 3), [0.4207, 0.3468, 0.4714], 6e-5),
    ):
        _, state = tx.update(jnp.eye(3), tx.init(params), params, task_losses=losses)
        np.testing.assert_allclose(state.weights, wanted, atol=digits)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("losses", [[0.0] * T, [1e38] * T, [1e-38, 1.0, 1e38, 0.0], [-1.0] * T])
def test_losses_of_any_size_give_finite_weights(name, losses):
    tx = METHODS[name][0]()
    state = tx.init(PARAMS)
    for _ in range(5):
        _, state = tx.update(ROWS, state, PARAMS, task_losses=jnp.array(losses, jnp.float32))
        assert np.all(np.isfinite(state.weights))


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="go4align: num_groups must be at least 1, got 0"):
        mtl.go4align(T, num_groups=0)
    with pytest.raises(ValueError, match="igb: base_losses must be positive"):
        mtl.igb(T, base_losses=[0.0] * T)
