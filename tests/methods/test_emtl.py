"""EMTL against NumPy, cvxpy and a root finder over consecutive steps, on several base methods."""

import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import mtl_optax as mtl
from tests.common import first_update, flat, inputs, relative_error, step, weights_of


def min_norm_weights(matrix):
    weights = cp.Variable(len(matrix), nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(matrix.T @ weights)), [cp.sum(weights) == 1])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return weights.value


def adversary(p, rewards, step_size, radius):
    """`p ∝ exp[(log p + η R) / (1 + λ)]` with the least λ >= 0 within the radius."""
    logits = np.log(p) + step_size * rewards

    def tilted(multiplier):
        p = np.exp((logits - logits.max()) / (1 + multiplier))
        return p / p.sum()

    def excess(log_multiplier):
        p = tilted(np.exp(log_multiplier))
        return np.sum(p[p > 0] * np.log(len(p) * p[p > 0])) - radius

    if excess(-300) <= 0:
        return tilted(0)
    return tilted(np.exp(scipy.optimize.brentq(excess, -300, 300, xtol=1e-13)))


def weights_by_hand(alpha, p, norms, mix):
    return alpha / len(alpha) * (mix + (1 - mix) * p / norms)


def run(tx, seeds, alpha_of, *, rho, mix, scale=3.0):
    """Compares consecutive steps with the equations; `scale` makes the ball bind."""
    state, p = tx.init(inputs(3).params), np.full(3, 1 / 3)
    jitted = jax.jit(lambda s, g: step(tx, s, g))
    for seed in seeds:
        given = inputs(3, seed)
        given = given._replace(losses=scale * given.losses)
        matrix, losses = flat(given.gradients, tasks=True), np.asarray(given.losses, np.float64)
        norms, alpha = np.linalg.norm(matrix, axis=1), alpha_of(given, matrix)
        p = adversary(p, alpha * losses / norms, 0.5, np.sqrt(rho))
        updates, state = jitted(state, given)
        wanted = weights_by_hand(alpha, p, norms, mix)
        np.testing.assert_allclose(weights_of(state), wanted, rtol=5e-5, atol=1e-7)
        assert relative_error(flat(updates), wanted @ matrix) < 5e-5
    return p


@pytest.mark.parametrize(("rho", "mix"), [(0.5, 0.1), (0.01, 0.1), (0.5, 0.0), (0.1, 0.5)])
def test_it_equals_numpy_over_eight_steps(rho, mix):
    """The step weighs with the p that it has just found, within a radius of sqrt(ρ)."""
    p = run(
        mtl.emtl(3, rho=rho, mix=mix), range(8), lambda g, m: min_norm_weights(m), rho=rho, mix=mix
    )
    assert np.max(np.abs(p - 1 / 3)) > 0.05


BASES = {
    "a method": (lambda: mtl.mean_tasks(3), lambda g, m: np.full(3, 1 / 3)),
    "one that reads losses": (
        lambda: mtl.scale_invariant(3),
        lambda g, m: 1 / np.asarray(g.losses, np.float64),
    ),
    "a weighting of one's own": (
        lambda: mtl.stateless(
            "norm", 3, frozenset({"norms"}), lambda e: e.norms / jnp.sum(e.norms)
        ),
        lambda g, m: np.linalg.norm(m, axis=1) / np.linalg.norm(m, axis=1).sum(),
    ),
    "one with a matrix of coefficients": (
        lambda: mtl.pcgrad(3, key=4),
        lambda g, m: weights_of(first_update(mtl.pcgrad(3, key=4), g)[1]),
    ),
}


@pytest.mark.parametrize("kind", BASES)
def test_any_weighting_serves_as_base(kind):
    make, alpha_of = BASES[kind]
    # PCGrad's second step has another key.
    seeds = range(1 if "matrix" in kind else 3)
    run(mtl.emtl(3, base=make(), rho=0.5), seeds, alpha_of, rho=0.5, mix=0.1)


def test_the_bases_state_is_carried_along():
    tx, alone = mtl.emtl(3, base=mtl.dwa(3), mix=1.0), mtl.dwa(3)
    state, alone_state = (tx.init(inputs(3).params) for tx in (tx, alone))
    for seed in range(4):
        given = inputs(3, seed)
        updates, state = step(tx, state, given)
        wanted, alone_state = step(alone, alone_state, given)
        assert relative_error(flat(updates), flat(wanted) / 3) < 1e-6
    assert not np.allclose(alone_state.weights, 1)


def test_a_common_factor_on_gradients_and_losses_leaves_the_second_term():
    """R and p stay; with mix = 0 so does the update, and the first term grows with the factor."""
    given = inputs(3)
    plain = [step(mtl.emtl(3, mix=m), mtl.emtl(3).init(given.params), given) for m in (0.0, 1.0)]
    scaled = jax.tree.map(lambda x: 100 * x, given)
    grown = [step(mtl.emtl(3, mix=m), mtl.emtl(3).init(given.params), scaled) for m in (0.0, 1.0)]
    np.testing.assert_allclose(grown[0][1].inner.scores, plain[0][1].inner.scores, atol=1e-5)
    assert relative_error(flat(grown[0][0]), flat(plain[0][0])) < 1e-5
    assert relative_error(flat(grown[1][0]), 100 * flat(plain[1][0])) < 1e-5


def test_a_task_without_gradient_plays_no_part():
    """The others' game is that of two tasks, as if the third were absent."""
    rows = jnp.array([[1.0, 0.5], [0.0, 1.0], [0.0, 0.0]])
    losses = jnp.array([3.0, 1.0, 100.0])
    base = lambda n: mtl.mean_tasks(n)
    tx = mtl.emtl(3, base=base(3), mix=0.0, rho=0.2)
    _, state = tx.update(rows, tx.init(rows[0]), task_losses=losses)
    small = mtl.emtl(2, base=base(2), mix=0.0, rho=0.2)
    two = jnp.array([3.0, 1.0]) * (2 / 3)  # α is 1/3 instead of 1/2.
    _, wanted = small.update(rows[:2], small.init(rows[0]), task_losses=two)
    np.testing.assert_allclose(state.inner.scores[:2], wanted.inner.scores, rtol=1e-5)
    assert state.inner.scores[2] == 0
    assert state.weights[2] == 0


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_gradients_of_any_scale_keep_the_ball(scale):
    given = inputs(3)
    given = given._replace(gradients=jax.tree.map(lambda g: scale * g, given.gradients))
    tx = mtl.emtl(3)
    _, state = step(tx, tx.init(given.params), given)
    p = np.exp(np.asarray(state.inner.scores, np.float64)) / 3
    assert np.all(np.isfinite(state.weights))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
    assert np.sum(p * np.log(3 * p)) <= np.log(3) / 2 + 1e-5


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1e-10, 1e30])
@pytest.mark.parametrize("losses", [(1e15, 1.0), (3e38, -3e38), (1e38, 1e37), (1.0, 1e-30)])
def test_contributions_beyond_float32_weigh_as_in_float64(size, losses):
    rows, rho = size * jnp.eye(2), 0.3
    tx = mtl.emtl(2, rho=rho, base=mtl.mean_tasks(2))
    _, state = tx.update(rows, tx.init(rows[0]), task_losses=jnp.array(losses))
    norm = np.float64(np.float32(size))
    rewards = 0.5 * np.float64(losses) / norm
    p = adversary(np.full(2, 0.5), rewards, 0.5, np.sqrt(rho))
    wanted = weights_by_hand(np.full(2, 0.5), p, norm, 0.1)
    np.testing.assert_allclose(state.weights, wanted, rtol=2e-5)


def test_a_zero_contribution_is_no_reward_beside_any_other():
    """A loss of zero has no size that the others could be counted in."""
    sizes = jnp.array([1e-30, 1.0, 1.0])
    tx = mtl.emtl(3, base=mtl.mean_tasks(3), mix=0.0, rho=0.9)
    _, state = tx.update(
        jnp.diag(sizes), tx.init(jnp.zeros(3)), task_losses=jnp.array([0.0, 3.0, 1.0])
    )
    p = adversary(np.full(3, 1 / 3), np.array([0.0, 1.0, 1 / 3]), 0.5, np.sqrt(0.9))
    np.testing.assert_allclose(state.weights * sizes, p / 9, rtol=1e-5)


def test_a_contribution_beyond_float32_leaves_the_others_their_own():
    """The first falls out, and the two others are told apart by what they differ in."""
    sizes, losses = np.array([1e-20, 1.0, 1.0]), np.array([-1e20, 3.0, 9.0])
    tx = mtl.emtl(3, base=mtl.mean_tasks(3), mix=0.0, rho=0.9)
    _, state = tx.update(
        jnp.diag(jnp.array(sizes)),
        tx.init(jnp.zeros(3)),
        task_losses=jnp.array(losses, jnp.float32),
    )
    p = adversary(np.full(3, 1 / 3), losses / sizes / 3, 0.5, np.sqrt(0.9))
    np.testing.assert_allclose(state.weights[1:], p[1:] / 9, rtol=1e-5)


@pytest.mark.parametrize("num_tasks", [2, 3])
def test_by_default_the_ball_restrains_and_nothing_warns(num_tasks):
    tx = mtl.emtl(num_tasks, base=mtl.mean_tasks(num_tasks))
    losses = jnp.zeros(num_tasks).at[1].set(1e9)
    _, state = tx.update(jnp.eye(num_tasks), tx.init(losses), task_losses=losses)
    p = np.exp(np.asarray(state.inner.scores, np.float64)) / num_tasks
    np.testing.assert_allclose(np.sum(p * np.log(num_tasks * p)), np.log(num_tasks) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("num_tasks", "rho", "warns"),
    [(2, 0.5, True), (2, 0.3, False), (3, 1.2, False), (3, 1.21, True), (1, 0.5, False)]
    + [(num_tasks, None, False) for num_tasks in (1, 2, 3)],
)
def test_an_inactive_ball_is_warned_of_once(num_tasks, rho, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tx = mtl.emtl(num_tasks, rho=rho)
        jax.eval_shape(lambda g: step(tx, tx.init(g.params), g), inputs(num_tasks))
    messages = [str(w.message) for w in caught if "emtl" in str(w.message)]
    assert len(messages) == warns
    if warns:
        assert "emtl: the ball is inactive" in messages[0]
        assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("hyperparameters", "error", "message"),
    [
        ({"rho": -1}, ValueError, r"rho must lie in \[0, inf\), got -1"),
        ({"step_size": -1}, ValueError, r"step_size must lie in \[0, inf\), got -1"),
        ({"mix": 1.5}, ValueError, r"mix must lie in \[0, 1\], got 1.5"),
        ({"base": mtl.mgda(4)}, ValueError, "base mgda was made for 4 tasks, wanted 3"),
        ({"base": "mgda"}, TypeError, "base must be a method made from a weighting"),
    ],
)
def test_bad_hyperparameters_are_named(hyperparameters, error, message):
    with pytest.raises(error, match=f"emtl: {message}"):
        mtl.emtl(3, **hyperparameters)
