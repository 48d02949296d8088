"""Δm, Δp and the task variance by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_optax import metrics

# Segmentation (mIoU, pixel accuracy) and depth (absolute, relative error) of two methods.
BASELINE = np.array([0.74, 0.93, 0.0125, 27.7])
FOUND = np.array([[0.75, 0.92, 0.0150, 30.0], [0.74, 0.93, 0.0125, 27.7]])
HIGHER = [True, True, False, False]


def test_delta_m_is_the_sign_convention_of_the_cagrad_and_nash_papers():
    signs = (-1.0) ** np.array(HIGHER)
    wanted = 100 * np.mean(signs * (FOUND - BASELINE) / BASELINE, axis=1)
    assert wanted[0] > 0  # Worse than the baseline, and so positive.
    np.testing.assert_allclose(metrics.delta_m(FOUND, BASELINE, HIGHER), wanted, rtol=1e-5)


def test_delta_p_averages_within_tasks_first():
    gains = 100 * (FOUND - BASELINE) / BASELINE * np.array([1, 1, -1, -1])
    got = metrics.delta_p(FOUND, BASELINE, HIGHER, tasks=[0, 0, 0, 7])
    wanted = (gains[:, :3].mean(1) + gains[:, 3]) / 2
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    balanced = metrics.delta_p(FOUND, BASELINE, HIGHER, tasks=[1, 1, 0, 0])
    np.testing.assert_allclose(balanced, -metrics.delta_m(FOUND, BASELINE, HIGHER), rtol=1e-5)
    assert abs(got[0] - balanced[0]) > 0.1


def test_a_negative_baseline_keeps_the_sign():
    """A log-likelihood that rises from -2 to -1 is a gain."""
    np.testing.assert_allclose(metrics.delta_p([-1.0], [-2.0], [True]), 50.0)
    np.testing.assert_allclose(metrics.delta_m([-1.0], [-2.0], [False]), 50.0)


def test_they_run_under_jit_and_strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = jax.jit(lambda m: metrics.delta_p(m, jnp.asarray(BASELINE), HIGHER, [0, 0, 1, 1]))
        plain = metrics.delta_p(FOUND, BASELINE, HIGHER, [0, 0, 1, 1])
        np.testing.assert_allclose(found(jnp.asarray(FOUND)), plain, rtol=1e-5)


def test_task_variance_is_the_populations():
    losses = np.random.default_rng(0).normal(size=(5, 4))
    np.testing.assert_allclose(metrics.task_variance(losses), losses.var(axis=1), rtol=1e-5)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="delta_m: higher_is_better must hold booleans"):
        metrics.delta_m(FOUND, BASELINE, [1, 1, -1, -1])
    with pytest.raises(ValueError, match=r"delta_p: metrics \(2, 4\), baseline \(4,\) and higher"):
        metrics.delta_p(FOUND, BASELINE, HIGHER[:3])
    with pytest.raises(ValueError, match="delta_p: tasks must hold an int for each of the 4"):
        metrics.delta_p(FOUND, BASELINE, HIGHER, tasks=[0, 1])
