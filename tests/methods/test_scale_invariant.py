"""The scale-invariant weighting against finite differences and its invariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl


def weights(losses, **hyperparameters):
    losses = jnp.asarray(losses, jnp.float32)
    tx = mtl.scale_invariant(len(losses), **hyperparameters)
    step = jax.jit(lambda x: tx.update(jnp.eye(len(x)), tx.init(x), task_losses=x))
    return np.asarray(step(losses)[1].weights, np.float64)


def test_it_is_the_gradient_of_the_sum_of_log_losses():
    """By central differences in float64 of `Σ_t log(L_t(θ) + ε)`, for quadratic task losses."""
    rng = np.random.default_rng(0)
    centres, theta, eps = rng.normal(size=(3, 4)), rng.normal(size=4), 0.1
    task_losses = lambda x: 0.5 * np.sum((x - centres) ** 2, axis=1)
    objective = lambda x: np.sum(np.log(task_losses(x) + eps))
    h = 1e-6
    wanted = [(objective(theta + h * e) - objective(theta - h * e)) / (2 * h) for e in np.eye(4)]
    tx = mtl.scale_invariant(3, eps=eps)
    got, _ = tx.update(
        jnp.asarray(theta - centres, jnp.float32),
        tx.init(jnp.zeros(4)),
        task_losses=jnp.asarray(task_losses(theta), jnp.float32),
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.parametrize("factor", [1e-6, 1e6, 1e12])
def test_a_factor_on_a_tasks_loss_and_gradient_cancels(factor):
    tx = mtl.scale_invariant(2, eps=1e-30)
    gradients, losses = jnp.array([[1.0, 2.0], [3.0, -1.0]]), jnp.array([0.5, 2.0])
    factors = jnp.array([1.0, factor])
    plain, _ = tx.update(gradients, tx.init(losses), task_losses=losses)
    scaled, _ = tx.update(
        factors[:, None] * gradients, tx.init(losses), task_losses=factors * losses
    )
    np.testing.assert_allclose(scaled, plain, rtol=1e-6)


def test_a_loss_that_is_not_positive_counts_as_zero():
    """The public code takes log(L): infinite at zero and NaN below it. Ours is 1/ε."""
    np.testing.assert_allclose(
        weights([0.0, -3.0, 2.0], eps=1e-3), [1e3, 1e3, 1 / 2.001], rtol=1e-6
    )
    assert np.all(np.isfinite(weights([0.0, -1e12, 1e12, 1e-12])))


def test_the_direction_is_that_of_the_geometric_mean():
    losses = np.array([0.3, 4.0, 1.5])
    geometric = np.exp(np.mean(np.log(losses))) / (3 * losses)
    got = weights(losses)
    np.testing.assert_allclose(got / got.sum(), geometric / geometric.sum(), rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, -1e-8])
def test_eps_must_be_positive(eps):
    with pytest.raises(ValueError, match=r"scale_invariant: eps must lie in \(0, inf\)"):
        mtl.scale_invariant(2, eps=eps)
