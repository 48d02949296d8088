"""EPO search against its linear programs, solved by SciPy's HiGHS."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import mtl_optax as mtl
from tests.matrices import KINDS, hard

T, N = 3, 6


@functools.cache
def draws():
    """Gradients of every kind, losses and preferences; every third one is on its ray."""
    matrices, losses, preferences = [], [], []
    for seed in range(9):
        rng = np.random.default_rng(seed)
        for kind in KINDS:
            preference = rng.uniform(0.3, 2, T)
            loss = rng.uniform(0.2, 2, T)
            on_ray = len(losses) % 3 == 0
            matrices.append(hard(T, N, seed)[kind])
            losses.append(1 / preference if on_ray else loss)
            preferences.append(preference)
    return np.stack(matrices), np.stack(losses), np.stack(preferences)


@functools.cache
def optima():
    return [program(*drawn) for drawn in zip(*draws(), strict=True)]


def program(matrix, loss, r):
    """The paper's linear program: goal, demands `A α >= b`, and its optimum; None if infeasible."""
    gram, scaled = matrix @ matrix.T, r * loss
    share = scaled / scaled.sum()
    mu = share @ np.log(len(r) * share)
    a = r * (np.log(len(r) * share) - mu)
    assert abs(a @ loss) < 1e-9
    gains = gram @ a
    if mu > 1e-4:
        goal, demands, least = gains, gram, np.zeros(len(r))
        if np.any(gains > 0):
            least = np.where(gains > 0, -np.inf, gains)
            least[scaled == scaled.max()] = 0
    else:
        goal, demands = gram.sum(0), np.vstack([gram, gains])
        least = np.append(np.zeros(len(r)), min(gains.max(), 0))
    asked = least > -np.inf
    found = scipy.optimize.linprog(
        -goal,
        A_ub=-demands[asked] if np.any(asked) else None,
        b_ub=-least[asked] if np.any(asked) else None,
        A_eq=np.ones((1, len(r))),
        b_eq=[1],
        method="highs",
    )
    return goal, demands[asked], least[asked], -found.fun if found.status == 0 else None


@jax.jit
def run(matrices, losses, preferences, masks):
    def one(matrix, loss, preference, mask):
        tx = mtl.epo(T, preference)
        return tx.update(matrix, tx.init(matrix[0]), task_losses=loss, task_mask=mask)

    return jax.vmap(one)(matrices, losses, preferences, masks)


def check(found, matrix, wanted, close):
    """Goal and demands of `d`, in units of the largest of their terms; whether all can be met."""
    update, state = found
    weights = np.asarray(state.weights, np.float64)
    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    size = np.max(np.abs(matrix))
    np.testing.assert_allclose(update, weights @ matrix, atol=1e-6 * size)
    goal, demands, least, optimum = wanted
    # Both are linear in `d`, as combinations of the gradients.
    combine = lambda rows: np.linalg.lstsq(matrix @ matrix.T, rows.T, rcond=1e-13)[0].T @ matrix
    if optimum is None:
        demands, least = demands[: len(matrix)], least[: len(matrix)]
    unit = np.max(np.abs(demands), axis=1, initial=0)
    assert np.all(combine(demands) @ update >= least - close * unit)
    assert state.inner.gap < 20 * close
    if optimum is not None:
        assert abs(combine(goal) @ update - optimum) <= close * np.max(np.abs(matrix @ matrix.T))
    return optimum is not None


@pytest.mark.parametrize(("dtype", "close"), [(np.float32, 2e-5), (np.float64, 1e-9)])
def test_equals_highs_on_hundreds_of_draws(dtype, close):
    drawn = draws()
    masks = np.ones((len(drawn[0]), T), bool)
    with jax.enable_x64(dtype == np.float64):
        found = jax.tree.map(np.asarray, run(*(jnp.asarray(x, dtype) for x in drawn), masks))
    met = []
    for i, (matrix, wanted) in enumerate(zip(drawn[0], optima(), strict=True)):
        if KINDS[i % len(KINDS)] not in ("1e6 apart", "far apart"):  # HiGHS's zero is absolute.
            one = jax.tree.map(lambda x, i=i: x[i], found)
            met.append(check(one, matrix, wanted, close))
    assert len(met) == 135
    assert all(met)


def test_reaches_its_ray_on_three_quadratics():
    """Losses `0.2 + ‖x - c_t‖²`: at the end all `r_t L_t` are equal."""
    preference, centres = np.array([1.0, 0.8, 1.2]), jnp.eye(3)[:, :2]
    tx = mtl.epo(3, preference, tolerance=1e-6)
    losses_of = lambda x: 0.2 + jnp.sum((x[None] - centres) ** 2, axis=1)

    def step(carry, rate):
        x, state = carry
        losses = losses_of(x)
        d, state = tx.update(2 * (x[None] - centres), state, x, task_losses=losses)
        return (x - rate * d, state), None

    x = jnp.array([0.8, 0.9])
    rates = 0.05 * 0.98 ** np.arange(400, dtype=np.float32)
    (x, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, rates))((x, tx.init(x)))
    scaled = preference * losses_of(x)
    np.testing.assert_allclose(scaled, np.mean(scaled), rtol=5e-3)


def test_malformed_hyperparameters_are_named():
    with pytest.raises(ValueError, match=r"epo: preference must be positive, got \[1.0, 0.0\]"):
        mtl.epo(2, [1.0, 0.0])
    with pytest.raises(ValueError, match=r"epo: preference has shape \(3,\), wanted \(2,\)"):
        mtl.epo(2, [1.0, 1.0, 1.0])
    with pytest.raises(TypeError, match="epo: preference must hold 2 real numbers, got None"):
        mtl.epo(2, None)
    with pytest.raises(ValueError, match=r"epo: tolerance must lie in \[0, inf\), got -1"):
        mtl.epo(2, [1.0, 1.0], tolerance=-1.0)


def near_ray(seed):
    """Uneven gradients with much in common, and losses on the ray to a per mille or so."""
    rng = np.random.default_rng(seed)
    common = rng.uniform(0, 2) * rng.normal(size=N)
    matrix = rng.normal(size=(T, N)) * np.exp(rng.normal(size=(T, 1))) + common
    preference = rng.uniform(0.3, 2, T)
    return matrix, (1 + 0.005 * rng.normal(size=T)) / preference, preference


def test_where_no_weights_keep_to_the_ray_the_nearest_do_and_all_losses_fall():
    """In two stages by HiGHS: the least shortfall, then the goal. The public code gives up."""
    drawn = [near_ray(seed) for seed in range(240)]
    stuck = [draw for draw in drawn if program(*draw)[3] is None]
    assert len(stuck) >= 4
    rows = [np.stack(part) for part in zip(*stuck, strict=True)]
    with jax.enable_x64(True):
        masks = np.ones((len(stuck), T), bool)
        updates, state = jax.tree.map(np.asarray, run(*map(jnp.asarray, rows), masks))
    for update, draw in zip(updates, stuck, strict=True):
        goal, demands, least, _ = program(*draw)
        on = {"A_eq": np.append(np.ones(T), 0)[None], "b_eq": [1], "method": "highs"}
        loose = np.hstack([-demands, -np.eye(len(demands))[:, -1:]])
        short = scipy.optimize.linprog(np.eye(T + 1)[-1], A_ub=loose, b_ub=-least, **on).fun
        assert short > 0
        least[-1] -= short * (1 + 1e-9)
        rigid = np.hstack([-demands, 0 * demands[:, :1]])
        best = -scipy.optimize.linprog(np.append(-goal, 0), A_ub=rigid, b_ub=-least, **on).fun
        size = np.max(np.abs(draw[0] @ draw[0].T))
        assert np.all(draw[0] @ update >= -1e-9 * size)
        np.testing.assert_allclose(np.sum(draw[0], axis=0) @ update, best, atol=1e-6 * size)
    assert np.max(state.inner.gap) < 1e-9
