"""RLW's distributions, against their moments and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import mtl_optax as mtl

DRAWS = 20_000
distributions = pytest.mark.parametrize("distribution", ["normal", "dirichlet"])


def draw(num_tasks, mask=None, draws=DRAWS, **hyperparameters):
    """Consecutive weights of one run, `(draws, T)`."""
    tx = mtl.rlw(num_tasks, **hyperparameters)

    def body(state, _):
        _, state = tx.update(jnp.eye(num_tasks), state, task_mask=mask)
        return state, state.weights

    return np.asarray(
        jax.jit(lambda s: jax.lax.scan(body, s, length=draws))(tx.init(jnp.zeros(num_tasks)))[1]
    )


def test_normal_is_the_softmax_of_standard_normals():
    """The log ratio of two weights is the difference of two normals: N(0, 2)."""
    weights = draw(3, key=1).astype(np.float64)
    for pair in ((0, 1), (1, 2)):
        ratios = np.log(weights[:, pair[0]] / weights[:, pair[1]])
        assert scipy.stats.kstest(ratios, scipy.stats.norm(scale=np.sqrt(2)).cdf).pvalue > 1e-3
    np.testing.assert_allclose(weights.std(0), 0.222, atol=5e-3)


def test_dirichlet_is_uniform_on_the_simplex():
    """Each weight of a uniform point of the simplex of three has density 2 (1 - w)."""
    weights = draw(3, distribution="dirichlet")
    for task in range(3):
        assert scipy.stats.kstest(weights[:, task], scipy.stats.beta(1, 2).cdf).pvalue > 1e-3
    np.testing.assert_allclose(weights.std(0), 0.236, atol=5e-3)


@distributions
def test_weights_lie_on_the_simplex_and_steps_are_independent(distribution):
    weights = draw(4, distribution=distribution)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(weights.mean(0), 0.25, atol=5e-3)
    assert abs(np.corrcoef(weights[1:, 0], weights[:-1, 0])[0, 1]) < 0.03


@distributions
def test_absent_tasks_leave_the_distribution_of_the_present_ones(distribution):
    """Two present tasks out of four: the weights of a method built for two, in distribution."""
    mask = jnp.array([True, False, False, True])
    weights = draw(4, mask, distribution=distribution)
    assert np.all(weights[:, 1:3] == 0)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    small = draw(2, distribution=distribution, key=5)
    assert scipy.stats.ks_2samp(weights[:, 0], small[:, 0]).pvalue > 1e-3


def test_the_seed_sets_the_run():
    first = draw(3, draws=5, key=1)
    np.testing.assert_array_equal(first, draw(3, draws=5, key=jax.random.key(1)))
    assert not np.allclose(first, draw(3, draws=5, key=2))


def test_an_unknown_distribution_is_named():
    with pytest.raises(ValueError, match="rlw: distribution must be one of 'normal', 'dirichlet'"):
        mtl.rlw(2, distribution="gaussian")
