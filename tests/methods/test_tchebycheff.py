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


def in_single_digits(x):
    mantissa, power = np.frexp(x)
    return np.ldexp(np.float32(mantissa).astype(np.longdouble), power)


def of_long_double(losses, w, z, smooth):
    """The weights by NumPy with exponents up to 4932, and the values in the digits of float32."""
    losses, w, z = (np.asarray(np.float32(x)).astype(np.longdouble) for x in (losses, w, z))
    values = in_single_digits(w * in_single_digits(losses - z))
    if smooth is None:
        worst = values == values.max()
        return w * worst / worst.sum()
    share = np.exp((values - values.max()) / np.longdouble(np.float32(smooth)))
    return w * share / share.sum()


LOSSES_OF_ANY_SIZE = [(1e36, 1.0), (1.0, 1e36), (1e38, -1e38), (3.3e38, -3.3e38), (3.3e38, 3.3e38)]
LOSSES_OF_ANY_SIZE += [(2e-38, 3e-38), (0.0, 0.0), (0.0, -1e38), (1.0, 1.25), (1e37, 2e37)]


@pytest.mark.parametrize("w", [(1.0, 1.0), (1e10, 1e10), (1e-20, 1e-20), (1e-30, 1e30)])
@pytest.mark.parametrize("z", [(0.0, 0.0), (-3.3e38, 3.3e38), (1e30, -1e-30)])
def test_losses_of_any_size_weigh_as_in_extended_precision(w, z):
    """Also where the values, or what μ makes of them, lie beyond float32."""
    for smooth in (None, 1e-30, 1e-3, 1e30):
        tx = mtl.tchebycheff(2, weights=list(w), reference=list(z), smooth=smooth)
        update = jax.jit(
            jax.vmap(lambda x, tx=tx: tx.update(jnp.eye(2), tx.init(x), task_losses=x))
        )
        _, state = update(jnp.array(LOSSES_OF_ANY_SIZE, jnp.float32))
        for got, losses in zip(state.weights, LOSSES_OF_ANY_SIZE, strict=True):
            wanted = np.float64(of_long_double(losses, w, z, smooth))
            name = f"{losses} {smooth}"
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7 * max(w), err_msg=name)


def test_a_huge_loss_beside_them_leaves_small_ones_apart():
    for losses in ([-1e30, 1e-20, 2e-20], [-3e38, 1e-10, 2e-10]):
        wanted = of_long_double(losses, [1] * 3, [0] * 3, losses[1])
        np.testing.assert_allclose(weights(losses, smooth=losses[1]), np.float64(wanted), rtol=1e-5)


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
