"""GradNorm against NumPy over consecutive steps, the leaves it measures and what it holds fixed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import flat, inputs, one_step, relative_error, step, weights_of

RATE = 0.025


def reference(norms, losses, alpha=1.5, through_target=False):
    """The weights in use at each step, with Adam written out. `norms`, `losses`: `(steps, T)`."""
    num_tasks = norms.shape[1]
    w, m, v, used = np.ones(num_tasks), np.zeros(num_tasks), np.zeros(num_tasks), []
    for k, (n, now) in enumerate(zip(norms, losses, strict=True), 1):
        used.append(w)
        rates = now / losses[0]
        powers = (rates / rates.mean()) ** alpha
        signs = np.sign(w * n - np.mean(w * n) * powers)
        gradient = signs * n
        if through_target:
            gradient = gradient - n * np.mean(signs * powers)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w = w - RATE * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
        w = np.maximum(w, 1e-3)
        w = num_tasks * w / w.sum()
    return np.array(used)


def run(tx, steps, norm_of=lambda g: flat(g, tasks=True)):
    """The weights of consecutive steps, and the norms and losses that they saw."""
    state, weights, norms, losses = tx.init(inputs(3).params), [], [], []
    jitted = jax.jit(lambda s, g: step(tx, s, g))
    for seed in range(steps):
        given = inputs(3, seed)
        updates, state = jitted(state, given)
        weights.append(weights_of(state))
        wanted = weights[-1] @ flat(given.gradients, tasks=True)
        assert relative_error(flat(updates), wanted) < 1e-5
        norms.append(np.linalg.norm(norm_of(given.gradients), axis=1))
        losses.append(np.asarray(given.losses, np.float64))
    return np.array(weights), np.array(norms), np.array(losses)


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_it_equals_numpy_over_thirty_steps_of_adam(alpha):
    """Each step uses the weights from before their update; the first are ones."""
    weights, norms, losses = run(mtl.gradnorm(3, alpha=alpha), 30)
    np.testing.assert_allclose(weights, reference(norms, losses, alpha), rtol=1e-5)
    np.testing.assert_allclose(weights.sum(1), 3, rtol=1e-6)


def test_the_target_is_constant_under_differentiation():
    """metaworld-algorithms differentiates through it; the paper (Section 3.2) does not."""
    weights, norms, losses = run(mtl.gradnorm(3), 10)
    through = reference(norms, losses, through_target=True)
    assert np.max(np.abs(weights - through)) > 10 * np.max(
        np.abs(weights - reference(norms, losses))
    )
    assert np.max(np.abs(weights - through)) > 0.01


def test_the_gradient_is_that_of_the_objective():
    """Plain SGD shows it: up to the rescaling, w moves by finite differences of Σ|w n - target|."""
    given, rate = inputs(3), 0.01
    tx = mtl.gradnorm(3, optimizer=optax.sgd(rate))
    state = tx.init(given.params)
    for factors in (jnp.ones(3), jnp.array([0.5, 0.9, 0.7])):
        _, state = step(tx, state, given._replace(losses=factors * given.losses))
        if factors[0] == 1:
            before = np.asarray(state.inner.learned.values, np.float64)
    norms = np.linalg.norm(flat(given.gradients, tasks=True), axis=1)
    rates = np.array([0.5, 0.9, 0.7]) / 0.7
    target = np.mean(before * norms) * rates**1.5
    objective = lambda w: np.sum(np.abs(w * norms - target))
    h, eye = 1e-7, np.eye(3)
    gradient = [(objective(before + h * e) - objective(before - h * e)) / (2 * h) for e in eye]
    moved = before - rate * np.array(gradient)
    np.testing.assert_allclose(state.inner.learned.values, 3 * moved / moved.sum(), rtol=1e-5)


masks = {
    "tree": {"dense": {"kernel": True, "bias": False}, "scale": False},
    "predicate": lambda path: "kernel" in jax.tree_util.keystr(path),
}


@pytest.mark.parametrize("kind", masks)
def test_norms_are_taken_over_the_chosen_leaves(kind):
    kernel = lambda g: np.asarray(g["dense"]["kernel"], np.float64).reshape(3, -1)
    weights, norms, losses = run(mtl.gradnorm(3, norm_mask=masks[kind]), 8, kernel)
    np.testing.assert_allclose(weights, reference(norms, losses), rtol=1e-5)
    everything, _, _ = run(mtl.gradnorm(3), 8)
    assert np.max(np.abs(weights - everything)) > 0.01


@pytest.mark.nans
def test_a_gradient_beyond_the_chosen_leaves_is_not_evidence():
    """Only what is measured can spoil the weights: elsewhere a NaN stays in its leaf."""
    given = inputs(3)
    gradients = {**given.gradients, "scale": given.gradients["scale"].at[1].set(jnp.nan)}
    tx = mtl.gradnorm(3, norm_mask=masks["tree"])
    updates, _ = step(tx, tx.init(given.params), given._replace(gradients=gradients))
    assert np.isnan(updates["scale"])
    assert np.all(np.isfinite(updates["dense"]["kernel"]))


def test_a_mask_that_selects_nothing_is_named():
    tx, given = mtl.gradnorm(3, norm_mask=lambda path: False), inputs(3)
    with pytest.raises(ValueError, match="gradnorm: norm_mask selects no leaf of params"):
        step(tx, tx.init(given.params), given)


def test_features_take_no_mask():
    losses_of = lambda p: mtl.mark_features(jnp.stack([jnp.sum(x) for x in jax.tree.leaves(p)]))
    step, init = one_step(losses_of, mtl.gradnorm(3, norm_mask=masks["tree"]), "features")
    params = inputs(3).params
    with pytest.raises(ValueError, match="norms are taken at the features .*norm_mask.* picks par"):
        step(params, init(params))


def test_a_mask_goes_through_inject_hyperparams_as_a_static_argument():
    injected = optax.inject_hyperparams(mtl.gradnorm, static_args=("num_tasks", "norm_mask"))
    tx = injected(num_tasks=3, alpha=0.5, norm_mask=masks["predicate"])
    wanted = mtl.gradnorm(3, alpha=0.5, norm_mask=masks["predicate"])
    np.testing.assert_allclose(run(tx, 4)[0], run(wanted, 4)[0], rtol=1e-6)


def test_equal_norms_and_rates_leave_the_weights_alone():
    """The sign of a rounding error must not start Adam: norms agree but for their last bits."""
    rng, num_tasks = np.random.default_rng(0), 7
    tx, row = mtl.gradnorm(num_tasks), rng.normal(size=101)
    gradients = jnp.asarray([rng.permutation(row) for _ in range(num_tasks)], jnp.float32)
    assert len(set(np.asarray(mtl.gram(gradients)).diagonal())) > 1
    state = tx.init(jnp.zeros(101))
    for factor in (1.0, 0.7, 0.3):
        losses = factor * jnp.linspace(0.5, 2.0, num_tasks)
        _, state = tx.update(gradients, state, task_losses=losses)
    np.testing.assert_allclose(state.inner.learned.values, 1, rtol=1e-6)


def test_weights_stay_positive():
    tx = mtl.gradnorm(2, optimizer=optax.sgd(1.0))
    ones = jnp.ones(2)
    _, state = tx.update(jnp.diag(jnp.array([100.0, 1.0])), tx.init(ones), task_losses=ones)
    np.testing.assert_allclose(state.inner.learned.values, [1e-3, 2.0 - 1e-3], rtol=2e-3)


@pytest.mark.nans
def test_initial_losses_are_those_of_each_tasks_first_presence():
    """And the weights of all tasks go on summing to T, whoever is present."""
    tx = mtl.gradnorm(3)
    state = tx.init(jnp.zeros(3))
    for k, mask in enumerate([[1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]]):
        losses = jnp.where(jnp.array(mask, bool), 1.0 + k, jnp.nan)
        _, state = tx.update(jnp.eye(3), state, task_losses=losses, task_mask=jnp.array(mask, bool))
        np.testing.assert_allclose(jnp.sum(state.inner.learned.values), 3, rtol=1e-6)
    np.testing.assert_array_equal(state.inner.initial_losses, [1, 2, 3])


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e12])
@pytest.mark.parametrize("losses", [[0.0, 0.0], [0.0, 1e12], [-1.0, 2.0], [1e-12, 1e12]])
def test_losses_and_gradients_of_any_size_stay_finite(scale, losses):
    tx = mtl.gradnorm(2)
    state = tx.init(jnp.zeros(2))
    for factor in (1.0, 1e12, 1e-12, 0.0):
        _, state = tx.update(scale * jnp.eye(2), state, task_losses=factor * jnp.array(losses))
        assert np.all(np.isfinite(state.weights))
        assert np.all(np.isfinite(state.inner.learned.values))
    np.testing.assert_allclose(state.weights.sum(), 2, rtol=1e-6)
