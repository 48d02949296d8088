"""UW against NumPy over several steps, and at its optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import flat, inputs, make, relative_error, step, weights_of


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_equals_numpy_over_five_steps_of_adam(factor):
    rate, tx = 0.1, make("uw", 3, optimizer=optax.adam(0.1), factor=factor)
    state = tx.init(inputs(3).params)
    s, m, v = np.zeros(3), np.zeros(3), np.zeros(3)
    for k in range(1, 6):
        given = inputs(3, k)
        updates, state = jax.jit(lambda s, g: step(tx, s, g))(state, given)
        weights = factor * np.exp(-s)
        assert relative_error(weights_of(state), weights) < 1e-5
        assert relative_error(flat(updates), weights @ flat(given.gradients, tasks=True)) < 1e-5
        gradient = 0.5 - weights * np.asarray(given.losses, np.float64)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        s = s - rate * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)


def test_the_optimum_is_the_log_of_the_loss():
    """`e^s = 2fL`, so that the weights tend to `1/(2L)`, those of half the summed log losses."""
    tx, given = make("uw", 3, optimizer=optax.sgd(0.3)), inputs(3)
    body = lambda state, _: (step(tx, state, given)[1], None)
    state, _ = jax.jit(lambda s: jax.lax.scan(body, s, None, length=500))(tx.init(given.params))
    np.testing.assert_allclose(weights_of(state), 0.5 / given.losses, rtol=1e-4)


def test_log_variances_are_clipped():
    tx = make("uw", 2, optimizer=optax.sgd(1.0), clip=0.75)
    given = inputs(2)._replace(losses=jnp.array([100.0, -100.0]))
    _, state = step(tx, tx.init(given.params), given)
    np.testing.assert_array_equal(state.inner.values, [0.75, -0.75])


def test_the_optimizer_sees_the_log_variances():
    tx = make("uw", 2, optimizer=optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1)))
    given, state = inputs(2), None
    s, losses = np.zeros(2), np.asarray(given.losses)
    for _ in range(2):
        _, state = step(tx, state or tx.init(given.params), given)
        s = s - 0.1 * (0.5 - 0.5 * np.exp(-s) * losses + 0.5 * s)
    np.testing.assert_allclose(state.inner.values, s, rtol=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="uw: optimizer must be an optax.GradientTransformation"):
        mtl.uw(2, 1e-3)
    with pytest.raises(ValueError, match=r"uw: factor must lie in \(0, inf\), got 0"):
        mtl.uw(2, factor=0)
    with pytest.raises(ValueError, match=r"uw: clip must lie in \(0, inf\), got -1"):
        mtl.uw(2, clip=-1)
