"""GradDrop against a NumPy transcription, given the same draws, and in its exact mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import mtl_optax as mtl
from mtl_optax._methods.graddrop import drop, drop_and_sum, uniform_draws

ROWS = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)


def transcription(rows, draw, leak):
    total = np.sum(np.abs(rows), axis=0)
    purity = 0.5 * (1 + np.sum(rows, axis=0) / total)
    mask = (purity > draw) * (rows > 0) + (purity < draw) * (rows < 0)
    return (leak + (1 - leak) * mask) * rows


@pytest.mark.parametrize("leak", [0.0, 0.3, 1.0])
def test_rows_are_the_papers_for_given_draws(leak):
    draw = np.random.default_rng(1).uniform(size=50).astype(np.float32)
    rows = drop(jnp.asarray(ROWS), jnp.asarray(draw), jnp.float32(leak))
    np.testing.assert_allclose(rows, transcription(ROWS.astype(float), draw, leak), rtol=1e-6)


@pytest.mark.parametrize("num_tasks", [1, 3, 20])
@pytest.mark.parametrize("leak", [0.0, 0.3])
def test_the_sum_is_that_of_the_rows(num_tasks, leak):
    rng = np.random.default_rng(2)
    rows = jnp.asarray(rng.normal(size=(num_tasks, 5, 7)), jnp.float32)
    draw = jnp.asarray(rng.uniform(size=(5, 7)), jnp.float32)
    kept = drop(rows, draw, jnp.float32(leak))
    got = drop_and_sum(rows, draw, jnp.float32(leak))
    np.testing.assert_allclose(got, np.asarray(kept, float).sum(0), rtol=1e-5, atol=1e-5)


def test_draws_are_uniform_and_unrelated_to_those_beside_and_of_other_leaves():
    shape = (300, 7, 500)
    draw, other = (
        uniform_draws(words, shape)
        for words in jax.random.bits(jax.random.key(5), (2, 2), jnp.uint32)
    )
    assert scipy.stats.kstest(np.ravel(draw), "uniform").pvalue > 0.001
    size = draw.size
    pairs = [np.ravel(other)] + [np.roll(np.ravel(draw), lag) for lag in (1, 7, 500, 3500, 2**16)]
    for pair in pairs:
        # Four standard deviations of the correlation of independent draws.
        assert abs(np.corrcoef(np.ravel(draw), pair)[0, 1]) < 4 / size**0.5
        table, *_ = np.histogram2d(np.ravel(draw), pair, bins=16, range=[[0, 1]] * 2)
        assert scipy.stats.chisquare(table.ravel()).pvalue > 0.001


@pytest.mark.parametrize("leak", [0.0, 0.3])
def test_mean_over_the_draw_is_exact(leak):
    """As a function of the draw the update has one step, at P: its mean needs no sampling."""
    rows = ROWS.astype(float)
    purity = 0.5 * (1 + rows.sum(0) / np.abs(rows).sum(0))
    at = lambda draw: np.asarray(drop(jnp.asarray(ROWS), jnp.asarray(draw), jnp.float32(leak)))
    below, above = at(np.float32(purity - 1e-6)), at(np.float32(purity + 1e-6))
    # The ends of the interval show that there is no other step.
    mixed = np.any(rows > 0, axis=0) & np.any(rows < 0, axis=0)
    np.testing.assert_array_equal(below[:, mixed], at(np.zeros(50, np.float32))[:, mixed])
    np.testing.assert_array_equal(above[:, mixed], at(np.full(50, 1 - 2**-23, "f4"))[:, mixed])
    mean = purity * below.sum(0) + (1 - purity) * above.sum(0)
    if leak == 0.0:
        np.testing.assert_allclose(mean, rows.sum(0), rtol=1e-5, atol=1e-6)
    kept = purity * np.maximum(rows, 0).sum(0) + (1 - purity) * np.minimum(rows, 0).sum(0)
    wanted = leak * rows.sum(0) + (1 - leak) * kept
    np.testing.assert_allclose(mean, wanted, rtol=1e-5, atol=1e-6)


def test_the_draws_are_uniform_fresh_at_every_step_and_shared_by_the_tasks():
    tx = mtl.graddrop(3, combine=False)
    many = {"a": jnp.tile(jnp.array([[1.0], [2.0], [-1.0]]), (1, 20000))}
    many["b"] = many["a"]
    update = jax.jit(tx.update)
    rows, state = update(many, tx.init({k: v[0] for k, v in many.items()}))
    again, _ = update(many, state)
    positive = np.asarray(rows["a"][0] != 0)
    np.testing.assert_array_equal(positive, np.asarray(rows["a"][1] != 0))
    np.testing.assert_array_equal(positive, np.asarray(rows["a"][2] == 0))
    # P = ½ (1 + 2/4) = ¾; four standard deviations of 20000 draws are 0.0122.
    assert abs(positive.mean() - 0.75) < 0.0122
    for other in (rows["b"], again["a"]):
        agree = np.mean(positive == np.asarray(other[0] != 0))
        assert abs(agree - (0.75**2 + 0.25**2)) < 0.015


def test_the_same_seed_gives_the_same_update():
    point = jnp.zeros(50)
    run = lambda key: mtl.graddrop(3, key=key).update(
        jnp.asarray(ROWS), mtl.graddrop(3, key=key).init(point), point
    )[0]
    np.testing.assert_array_equal(run(3), run(jax.random.key(3)))
    assert np.any(run(3) != run(4))


@pytest.mark.parametrize("scale", [1e-34, 1e-12, 1e12, 1e37])
def test_no_sum_over_tasks_overflows_or_underflows(scale):
    draw = jnp.asarray(np.random.default_rng(1).uniform(size=50), jnp.float32)
    unit = ROWS / np.float32(np.max(np.abs(ROWS)))
    base = drop(jnp.asarray(unit), draw, jnp.float32(0))
    scaled = drop(jnp.asarray(unit * np.float32(scale)), draw, jnp.float32(0))
    np.testing.assert_allclose(
        np.asarray(scaled, float), scale * np.asarray(base, float), rtol=1e-5, atol=0
    )


def test_agreement_opposition_and_zeros():
    rows = jnp.array([[1.0, -1.0, 0.0, 2.0], [2.0, -3.0, 0.0, -2.0]])
    for draw in (0.0, 0.4999, 0.5, 1 - 2**-24):
        got = drop(rows, jnp.full(4, draw, jnp.float32), jnp.float32(0)).sum(0)
        np.testing.assert_array_equal(got, [3.0, -4.0, 0.0, 2.0 if draw < 0.5 else -2.0])


@pytest.mark.nans
def test_an_absent_task_has_no_say_in_the_purity():
    gradients = jnp.array([[1.0] * 40, [100.0] * 40, [-1.0] * 40])
    point = jnp.zeros(40)
    state = mtl.graddrop(3).init(point)
    mask = jnp.array([True, False, True])
    masked, _ = mtl.graddrop(3).update(gradients.at[1].set(jnp.nan), state, point, task_mask=mask)
    alone, _ = mtl.graddrop(2).update(gradients[::2], mtl.graddrop(2).init(point), point)
    np.testing.assert_array_equal(masked, alone)
    assert 5 < np.sum(np.asarray(masked) == 1.0) < 35


@pytest.mark.nans
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_coordinate_stays_bad_and_spoils_no_other(bad):
    rows = jnp.asarray(ROWS).at[1, 7].set(bad)
    tx = mtl.graddrop(3)
    good, _ = tx.update(jnp.asarray(ROWS), tx.init(jnp.zeros(50)))
    updates, _ = tx.update(rows, tx.init(jnp.zeros(50)))
    assert not np.isfinite(updates[7])
    np.testing.assert_array_equal(np.delete(updates, 7), np.delete(good, 7))


def test_masked_rows_feed_adatask():
    tx = optax.chain(
        mtl.graddrop(3, combine=False), mtl.per_task(3, optax.sgd(0.1)), mtl.sum_tasks(3)
    )
    whole = mtl.graddrop(3)
    got, _ = tx.update(jnp.asarray(ROWS), tx.init(jnp.zeros(50)))
    wanted, _ = whole.update(jnp.asarray(ROWS), whole.init(jnp.zeros(50)))
    np.testing.assert_allclose(got, -0.1 * wanted, rtol=1e-5, atol=1e-7)


def test_leak_is_checked():
    with pytest.raises(ValueError, match=r"graddrop: leak must lie in \[0, 1\]"):
        mtl.graddrop(2, leak=1.5)
