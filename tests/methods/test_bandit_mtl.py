"""BanditMTL against NumPy over consecutive steps, its ball and its invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import mtl_optax as mtl


def run(losses, **hyperparameters):
    """The weights of consecutive steps, `(steps, T)`, and the last state."""
    losses = jnp.asarray(losses, jnp.float32)
    tx = mtl.bandit_mtl(losses.shape[1], **hyperparameters)

    def body(state, now):
        _, state = tx.update(jnp.eye(losses.shape[1]), state, task_losses=now)
        return state, state.weights

    state, weights = jax.jit(lambda s: jax.lax.scan(body, s, losses))(tx.init(0))
    return np.asarray(weights, np.float64), state


def reference(losses, step_size, radius, reward="loss"):
    """`p ∝ exp[(log p + η R) / (1 + λ)]` with the least λ >= 0 within the radius."""
    num_tasks = losses.shape[1]
    p, played = np.full(num_tasks, 1 / num_tasks), []
    for now in losses:
        played.append(p)
        logits = np.log(p) + step_size * (p * now if reward == "weighted" else now)

        def tilted(multiplier, logits=logits):
            p = np.exp((logits - logits.max()) / (1 + multiplier))
            return p / p.sum()

        excess = lambda m, tilted=tilted: np.sum(tilted(m) * np.log(num_tasks * tilted(m))) - radius
        p = tilted(0 if excess(0) <= 0 else scipy.optimize.brentq(excess, 0, 1e6, xtol=1e-14))
    return np.array(played)


LOSSES = np.random.default_rng(0).uniform(0, 4, (12, 4))


@pytest.mark.parametrize(
    ("radius", "rho", "wanted"),
    [("rho", 0.3, 0.3), ("sqrt", 0.3, 0.3**0.5), ("variance", 0.3, 0.045), ("rho", 1.2, 1.2)],
)
def test_it_equals_numpy_step_by_step(radius, rho, wanted):
    got, _ = run(LOSSES, rho=rho, step_size=0.5, radius=radius)
    np.testing.assert_allclose(got, reference(LOSSES, 0.5, wanted), rtol=1e-5, atol=1e-7)
    divergences = np.sum(got * np.log(4 * got), axis=1)
    assert np.all(divergences <= wanted + 1e-5)


def test_the_reward_is_the_loss_and_the_weights_sum_to_one():
    """A third-party code rewards with p_t L_t and descends the mean of p_t L_t."""
    got, _ = run(LOSSES, rho=0.3)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-6)
    other = reference(LOSSES, 0.5, 0.3, reward="weighted")
    assert np.max(np.abs(got - other)) > 0.1


def test_the_first_step_is_uniform_and_larger_losses_then_weigh_more():
    losses = np.array([[3.0, 2.0, 1.0, 2.0]] * 2)
    weights, _ = run(losses, rho=0.2)
    np.testing.assert_allclose(weights[0], 0.25)
    assert weights[1, 0] > weights[1, 1] == weights[1, 3] > weights[1, 2]


def test_a_constant_added_to_all_losses_changes_nothing():
    """Negative losses are as good as any."""
    plain, _ = run(LOSSES, rho=0.3)
    np.testing.assert_allclose(run(LOSSES - 7, rho=0.3)[0], plain, rtol=1e-4, atol=1e-6)


def test_variance_makes_rho_the_coefficient_of_the_standard_deviation():
    """Lemma: max over the ball of <p, L> is mean + sqrt(2 r Var), for a small radius r."""
    rho, losses = 0.05, np.array([1.0, 1.4, 2.0, 0.7])
    weights, _ = run(np.repeat(losses[None], 400, 0), rho=rho, step_size=1.0, radius="variance")
    np.testing.assert_allclose(
        weights[-1] @ losses, losses.mean() + rho * losses.std(), rtol=2e-3 * rho
    )


def test_beyond_log_t_the_ball_is_inactive_and_the_weights_collapse():
    losses = np.array([[1.0, 0.8]] * 200)
    assert run(losses)[0][-1, 1] < 1e-8
    assert run(losses, rho=0.3)[0][-1, 1] > 0.1


def test_without_radius_it_is_the_mean():
    np.testing.assert_allclose(run(LOSSES, rho=0.0)[0], 0.25, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_losses_of_any_scale_stay_finite_and_in_the_ball(scale):
    weights, state = run(scale * LOSSES, rho=0.3)
    assert np.all(np.isfinite(weights))
    assert np.all(np.sum(weights * np.log(4 * np.maximum(weights, 1e-30)), axis=1) <= 0.3 + 1e-5)
    assert state.inner.residual < 1e-5


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"rho": -1}, r"bandit_mtl: rho must lie in \[0, inf\), got -1"),
        ({"step_size": -0.1}, r"bandit_mtl: step_size must lie in \[0, inf\), got -0.1"),
        ({"radius": "squared"}, "bandit_mtl: radius must be one of 'rho', 'sqrt', 'variance'"),
    ],
)
def test_bad_hyperparameters_are_named(hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        mtl.bandit_mtl(2, **hyperparameters)
