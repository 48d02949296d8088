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

    state, weights = jax.jit(lambda s: jax.lax.scan(body, s, losses))(tx.init(losses[0]))
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
    assert run(losses, rho=1.2)[0][-1, 1] < 1e-8
    assert run(losses, rho=0.3)[0][-1, 1] > 0.1


def edge(num_tasks, radius):
    """The largest weight of one task, the others equal, within the radius."""
    others = lambda p: (1 - p) * np.log(num_tasks * (1 - p) / (num_tasks - 1))
    excess = lambda p: p * np.log(num_tasks * p) + others(p) - radius
    return scipy.optimize.brentq(excess, 1 / num_tasks, 1 - 1e-12)


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_by_default_the_ball_restrains_for_every_number_of_tasks(num_tasks):
    losses = np.zeros((100, num_tasks))
    losses[:, 1] = 1
    weights, _ = run(losses)
    assert weights[-1].argmax() == 1
    np.testing.assert_allclose(weights[-1, 1], edge(num_tasks, np.log(num_tasks) / 2), rtol=1e-5)


def test_by_default_the_ball_is_that_of_the_present_tasks():
    mask, losses = jnp.array([True, False, True]), jnp.array([9.0, 99.0, 0.0])
    tx = mtl.bandit_mtl(3)
    _, state = tx.update(jnp.eye(3), tx.init(losses), task_losses=losses, task_mask=mask)
    _, state = tx.update(jnp.eye(3), state, task_losses=losses, task_mask=mask)
    np.testing.assert_allclose(state.weights[0], edge(2, np.log(2) / 2), rtol=1e-5)


@pytest.mark.parametrize("rho", [1e-6, 0.3])
@pytest.mark.parametrize("step_size", [0.5, 4.0, 1e38])
@pytest.mark.parametrize("losses", [(-1e38, 1e38), (3.3e38, -3.3e38), (1e36, 1e-36), (0, -1e38)])
def test_finite_losses_of_any_size_have_the_weights_of_the_limit(losses, step_size, rho):
    """One task so far above the other ends on the edge of the ball at once."""
    weights, state = run([losses] * 2, rho=rho, step_size=step_size)
    np.testing.assert_allclose(weights[-1, np.argmax(losses)], edge(2, rho), rtol=1e-5)
    assert state.inner.residual <= 1e-3 * rho


@pytest.mark.parametrize("size", [1e38, 3.3e38, -3.3e38])
def test_equal_losses_of_any_size_stay_equal(size):
    np.testing.assert_allclose(run([(size, size)] * 2, step_size=1e20)[0], 0.5, rtol=1e-6)


def test_steps_beside_an_overflow_are_those_of_the_others():
    """One task so bad that nothing finite tells how much: the two others' game goes on in it."""
    losses = np.array([[1.0, 2.0, -3e38]] * 4)
    weights, _ = run(losses, rho=0.8, step_size=1.5)
    two = reference(losses[:, :2], 1.5, 10.0)
    for got, wanted in zip(weights[1:], two[1:], strict=True):
        radius = np.sum(got[:2] * np.log(3 * got[:2]))
        np.testing.assert_allclose(got[2], 0, atol=1e-12)
        if radius < 0.8 - 1e-5:
            np.testing.assert_allclose(got[:2], wanted, rtol=1e-5)


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
