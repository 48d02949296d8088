"""Sum and mean against NumPy."""

import jax.numpy as jnp
import numpy as np

import mtl_optax as mtl
from tests.common import first_update, flat, inputs, make, weights_of


def test_sum_and_mean_equal_numpy():
    given = inputs(4)
    matrix = flat(given.gradients, tasks=True)
    np.testing.assert_allclose(
        flat(first_update(make("sum_tasks", 4), given)[0]), matrix.sum(0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        flat(first_update(make("mean_tasks", 4), given)[0]), matrix.mean(0), rtol=1e-5, atol=1e-6
    )


def test_the_mean_is_over_the_present_tasks():
    mask = jnp.array([True, False, True, False])
    _, state = first_update(mtl.mean_tasks(4), inputs(4), task_mask=mask)
    np.testing.assert_array_equal(weights_of(state), [0.5, 0, 0.5, 0])
