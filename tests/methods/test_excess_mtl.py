"""ExcessMTL against a loop in NumPy, absent tasks included, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from tests.common import masked_steps, weights_of

T, N, STEPS = 4, 6, 20


def draws(seed=0):
    rng = np.random.default_rng(seed)
    falls = np.linspace(1, 0.2, STEPS)[:, None, None] ** np.arange(T)[None, :, None]
    gradients = rng.normal(size=(STEPS, T, N)) * falls
    gradients[:4, 1] = 0  # A task whose first gradients are zero.
    gradients[:, 2, 0] = 0  # A coordinate that a task does not touch.
    masks = rng.random((STEPS, T)) < 0.7
    masks[5] = False
    return gradients, masks


def loop(gradients, masks, eta):
    sums, first, shares = np.zeros((T, N)), np.zeros(T), np.ones(T)
    for now, present in zip(gradients, masks, strict=True):
        weights, here = np.zeros(T), np.flatnonzero(present)
        for t in here:
            sums[t] += now[t] ** 2
            used = sums[t] > 0
            risk = np.sum(now[t][used] ** 2 / np.sqrt(sums[t][used]))
            if first[t]:
                shares[t] *= np.exp(eta * risk / first[t])
            else:
                first[t] = risk
        if len(here):
            weights[here] = shares[here] / shares[here].sum()
            shares[here] = len(here) * weights[here]
        yield weights @ now, weights


@pytest.mark.parametrize("eta", [0.01, 1.0])
def test_it_equals_numpy_over_twenty_steps(eta):
    gradients, masks = draws()
    wanted, weights = map(np.stack, zip(*loop(gradients, masks, eta), strict=True))
    tx = mtl.excess_mtl(T, step_size=eta)
    with jax.enable_x64(True):
        updates, got = masked_steps(tx, gradients, masks)
    # The weights are carried from step to step in float32.
    np.testing.assert_allclose(got, weights, rtol=5e-6, atol=1e-9)
    np.testing.assert_allclose(updates, wanted, atol=5e-6)
    updates, got = masked_steps(tx, np.float32(gradients), masks)
    np.testing.assert_allclose(got, weights, rtol=2e-5, atol=1e-9)
    np.testing.assert_allclose(updates, wanted, atol=2e-5)
    assert np.ptp(weights[-1][masks[-1]]) > 0.01


def test_constant_gradients_keep_even_weights_whatever_their_lengths():
    """TorchJD's first weights of such rows are (1.2e-4, 9e-4, 0.999)."""
    rows = jnp.ones((3, 4)) * jnp.array([[1.0], [3.0], [10.0]])
    tx = mtl.excess_mtl(3, step_size=1.0)
    state, take = tx.init(rows[0]), jax.jit(tx.update)
    for _ in range(5):
        update, state = take(rows, state, rows[0])
        np.testing.assert_allclose(weights_of(state), np.full(3, 1 / 3), rtol=1e-6)
    np.testing.assert_allclose(update, rows.mean(0), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e25])
def test_the_weights_do_not_depend_on_the_scale(scale):
    """An epsilon under the root stops small gradients; squares of large ones leave float32."""
    gradients, masks = draws()
    run_at = lambda factor: masked_steps(
        mtl.excess_mtl(T, step_size=0.5), np.float32(gradients * factor), masks
    )[1]
    np.testing.assert_allclose(run_at(scale), run_at(1.0), rtol=1e-5, atol=1e-7)


def test_a_weight_that_became_small_comes_back():
    """Its logarithm is kept, so that it does not end at zero."""
    tx, params = mtl.excess_mtl(2, step_size=50.0), jnp.zeros(1)
    state = tx.init(params)
    take = jax.jit(lambda rows, state: tx.update(rows, state, params)[1])
    for rows in [[[1.0], [1.0]]] + [[[1.0], [1e-3]]] * 5:
        state = take(jnp.array(rows), state)
    assert weights_of(state)[1] < 1e-30
    for _ in range(200):
        state = take(jnp.array([[1e-3], [1.0]]), state)
    assert weights_of(state)[1] > 0.99


def test_a_ratio_without_a_bound_ends_in_a_corner():
    tx, params = mtl.excess_mtl(2), jnp.zeros(1)
    state, take = tx.init(params), jax.jit(tx.update)
    for rows in ([[1e-30], [1.0]], [[1e30], [1.0]]):
        update, state = take(jnp.array(rows), state, params)
    np.testing.assert_array_equal(weights_of(state), [1.0, 0.0])
    np.testing.assert_allclose(update, [1e30], rtol=1e-6)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


@pytest.mark.nans
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("when", [0, 1])
def test_what_is_not_finite_shows_in_all_that_follows(bad, when):
    """It stays in the sums of squares."""
    tx, rows = mtl.excess_mtl(2), jnp.array([[1.0, 2.0], [2.0, 1.0]])
    state, take = tx.init(rows[0]), jax.jit(tx.update)
    for step in range(4):
        now = rows.at[1, 0].set(bad) if step == when else rows
        update, state = take(now, state, rows[0])
        assert np.all(np.isfinite(update)) == (step < when)


def test_bad_hyperparameters_are_named():
    with pytest.raises(ValueError, match=r"^excess_mtl: step_size must lie in \[0, inf\), got -1"):
        mtl.excess_mtl(2, step_size=-1)
