"""Tchebycheff scalarisation against the gradient of its objective, and its ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl


def weights(losses, mask=None, **hyperparameters):
    losses = jnp.asarray(losses, jnp.float32)
    tx = mtl.tchebycheff(len(losses), **hyperparameters)
    update = jax.jit(
        lambda x: tx.update(jnp.eye(len(x)), tx.init(x), task_losses=x, task_mask=mask)
    )
    return np.asarray(update(losses)[1].weights, np.float64)


LOSSES = np.array([1.0, 2.5, 0.5, 2.0])
SCALE, REFERENCE = np.array([1.0, 0.5, 2.0, 1.5]), np.array([0.2, -0.3, 0.1, 0.4])


def derivatives(objective, point, h=1e-6):
    eye = np.eye(len(point))
    return [(objective(point + h * e) - objective(point - h * e)) / (2 * h) for e in eye]


@pytest.mark.parametrize("smooth", [None, 0.5])
def test_it_is_the_gradient_of_the_objective(smooth):
    def objective(losses):
        values = SCALE * (losses - REFERENCE)
        return (
            np.max(values) if smooth is None else smooth * np.log(np.sum(np.exp(values / smooth)))
        )

    got = weights(LOSSES, weights=SCALE, reference=list(REFERENCE), smooth=smooth)
    np.testing.assert_allclose(got, derivatives(objective, LOSSES), rtol=1e-5, atol=1e-8)


def test_ties_are_split_equally():
    """An argmax would give [1, 0, 0], which depends on the order of the tasks."""
    np.testing.assert_allclose(weights([2.0, 1.0, 2.0]), [0.5, 0, 0.5])
    np.testing.assert_allclose(weights([1.0, 2.0, 2.0], weights=[2.0, 1.0, 0.5]), [1, 0.5, 0])


def test_smooth_goes_from_the_worst_task_to_all():
    np.testing.assert_allclose(weights(LOSSES, smooth=1e-3), weights(LOSSES), atol=1e-6)
    np.testing.assert_allclose(weights(LOSSES, smooth=1e6), 0.25, rtol=1e-5)


@pytest.mark.nans
@pytest.mark.parametrize("smooth", [None, 1.0])
def test_an_absent_task_is_never_the_worst(smooth):
    mask = jnp.array([True, False, True, True])
    got = weights([0.1, np.nan, 0.05, 0.2], mask, weights=SCALE, smooth=smooth)
    wanted = weights([0.1, 0.05, 0.2], weights=SCALE[[0, 2, 3]], smooth=smooth)
    np.testing.assert_allclose(got[[0, 2, 3]], wanted, rtol=1e-6)
    assert got[1] == 0


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_a_common_factor_changes_nothing(factor):
    got = weights(factor * LOSSES, weights=SCALE, reference=factor * REFERENCE)
    np.testing.assert_array_equal(got, weights(LOSSES, weights=SCALE, reference=REFERENCE))


@pytest.mark.parametrize(
    ("hyperparameters", "error", "message"),
    [
        ({"weights": [1.0, 2.0]}, ValueError, r"weights has shape \(2,\), wanted \(3,\)"),
        ({"weights": [1.0, 0.0, 2.0]}, ValueError, "weights must be positive, got"),
        ({"weights": "equal"}, TypeError, "weights must hold 3 real numbers, got 'equal'"),
        ({"reference": 0.0}, ValueError, r"reference has shape \(\), wanted \(3,\)"),
        ({"smooth": 0.0}, ValueError, r"smooth must lie in \(0, inf\), got 0"),
    ],
)
def test_bad_hyperparameters_are_named(hyperparameters, error, message):
    with pytest.raises(error, match=rf"tchebycheff: {message}"):
        mtl.tchebycheff(3, **hyperparameters)
