"""The projection on the Kullback-Leibler ball against cvxpy, bisection and its own residual."""

import cvxpy as cp
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from mtl_optax._solvers.kl_ball import ascend, kl_ball

project = jax.jit(kl_ball)


def divergence(weights):
    weights = np.asarray(weights, np.float64)
    present = weights[weights > 0]
    return np.log(len(weights)) + present @ np.log(present)


def power_by_bisection(logits, radius):
    """The largest τ in [0, 1] within the radius, in float64."""
    depths = logits - logits.max()

    def inside(power):
        weights = np.exp(power * depths)
        weights /= weights.sum()
        return divergence(weights) <= radius

    if inside(1.0):
        return 1.0
    low, high = 1e-30, 1.0
    for _ in range(300):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if inside(middle) else (low, middle)
    return low


def step_with_cvxpy(start, rewards, step_size, radius):
    weights = cp.Variable(len(start))
    uniform = np.full(len(start), 1 / len(start))
    gain = step_size * rewards @ weights - cp.sum(cp.rel_entr(weights, start))
    constraints = [cp.sum(weights) == 1, cp.sum(cp.rel_entr(weights, uniform)) <= radius]
    cp.Problem(cp.Maximize(gain), constraints).solve(solver=cp.CLARABEL)
    return weights.value


@pytest.mark.parametrize("radius", [0.05, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("num_tasks", [2, 3, 5])
def test_a_step_of_the_adversary_equals_cvxpy(num_tasks, radius):
    rng = np.random.default_rng(num_tasks)
    start, rewards = rng.dirichlet(np.ones(num_tasks)), rng.uniform(0, 4, num_tasks)
    wanted = step_with_cvxpy(start, rewards, 0.5, radius)
    scores, solution = ascend(
        jnp.asarray(np.log(num_tasks * start), jnp.float32),
        jnp.asarray(rewards, jnp.float32),
        0.5,
        radius,
        jnp.ones(num_tasks, bool),
    )
    np.testing.assert_allclose(np.exp(solution.log_weights), wanted, atol=2e-5)
    np.testing.assert_allclose(np.exp(scores) / num_tasks, wanted, atol=2e-5)


@hypothesis.settings(max_examples=150)
@hypothesis.given(
    st.integers(0, 2**32 - 1), st.floats(-4, 12), st.floats(1e-4, 2.0), st.floats(0, 1)
)
def test_the_power_equals_bisection_at_any_scale(seed, exponent, radius, tie):
    """Also where the two largest logits nearly tie, which asks for a power far above the rest."""
    rng = np.random.default_rng(seed)
    logits = np.sort(rng.normal(size=4))
    logits[2] += tie**0.1 * (logits[3] - logits[2])
    logits = (10**exponent * logits).astype(np.float32)
    solution = project(jnp.asarray(logits), jnp.float32(radius))
    wanted = power_by_bisection(logits.astype(np.float64), float(np.float32(radius)))
    np.testing.assert_allclose(solution.power, wanted, rtol=2e-4)
    assert solution.residual <= 2e-4 * radius
    assert solution.iterations <= 25


def test_float64_is_exact_to_its_own_precision():
    with jax.enable_x64(True):
        logits = np.array([3.0, 1.0, -2.0, 0.5])
        solution = project(jnp.asarray(logits), 0.2)
        np.testing.assert_allclose(solution.power, power_by_bisection(logits, 0.2), rtol=1e-13)
        assert solution.residual < 1e-14
        assert solution.iterations <= 10


@pytest.mark.parametrize("logits", [[0.0] * 3, [5.0] * 3, [-1e30] * 3])
def test_equal_logits_stay_uniform(logits):
    solution = project(jnp.array(logits), 0.1)
    np.testing.assert_allclose(np.exp(solution.log_weights), 1 / 3, rtol=1e-6)
    assert solution.residual == 0


def test_radius_zero_is_uniform_and_a_wide_ball_is_the_softmax():
    logits = jnp.array([3.0, 1.0, -2.0])
    np.testing.assert_allclose(project(logits, 0.0).log_weights, -np.log(3), rtol=1e-6)
    wide = project(logits, 1.2)
    assert wide.power == 1
    assert wide.residual == 0
    np.testing.assert_allclose(wide.log_weights, jax.nn.log_softmax(logits), rtol=1e-6)


@pytest.mark.nans
def test_only_the_tasks_in_the_mask_count():
    logits, mask = jnp.array([3.0, jnp.nan, 1.0, -2.0]), jnp.array([True, False, True, True])
    got, wanted = project(logits, 0.3, mask), project(logits[mask], 0.3)
    np.testing.assert_allclose(got.log_weights[mask], wanted.log_weights, rtol=1e-6)
    assert got.iterations == wanted.iterations


@pytest.mark.nans
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_end_on_nan(bad):
    solution = project(jnp.array([1.0, bad, 0.0]), 0.3)
    assert np.all(np.isnan(solution.log_weights))


@pytest.mark.nans
def test_a_radius_of_nan_ends_on_nan():
    assert np.all(np.isnan(project(jnp.array([1.0, 2.0, 0.0]), jnp.nan).log_weights))


def test_scores_do_not_fall_for_ever():
    """After 1000 steps at the bottom, a task is back above even odds within 50 steps."""
    up, down = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    play = lambda rewards: lambda _, s: ascend(s, rewards, 1.0, 5.0, jnp.ones(2, bool))[0]
    scores = jax.lax.fori_loop(0, 1000, play(up), jnp.zeros(2))
    assert scores[1] == -30
    scores = jax.lax.fori_loop(0, 50, play(down), scores)
    assert scores[1] > scores[0]


def test_players_keep_their_share_among_all():
    scores = jnp.log(4 * jnp.array([0.1, 0.2, 0.3, 0.4]))
    mask = jnp.array([True, False, True, False])
    moved, _ = ascend(scores, jnp.array([2.0, 9.0, 0.0, 9.0]), 0.5, 0.3, mask)
    weights = np.exp(moved) / 4
    np.testing.assert_array_equal(moved[~mask], scores[~mask])
    np.testing.assert_allclose(weights[0] + weights[2], 0.4, rtol=1e-6)
    assert weights[0] > 0.1
