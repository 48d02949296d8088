"""DWA against a NumPy transcription of Eq. 7 of Liu et al. (2019)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl


def run(losses, masks=None, **hyperparameters):
    """The weights of consecutive steps, `(steps, T)`."""
    losses = jnp.asarray(losses, jnp.float32)
    steps, num_tasks = losses.shape
    tx = mtl.dwa(num_tasks, **hyperparameters)
    masks = jnp.ones((steps, num_tasks), bool) if masks is None else jnp.asarray(masks)

    def body(state, now):
        _, state = tx.update(jnp.eye(num_tasks), state, task_losses=now[0], task_mask=now[1])
        return state, (state.weights, state.inner)

    _, (weights, inner) = jax.jit(lambda s: jax.lax.scan(body, s, (losses, masks)))(
        tx.init(losses[0])
    )
    return np.asarray(weights, np.float64), inner


def reference(losses, temperature=2.0, steps_per_epoch=1):
    losses = np.asarray(losses, np.float64)
    steps, num_tasks = losses.shape
    weights = np.ones((steps, num_tasks))
    for step in range(steps):
        epoch = step // steps_per_epoch
        if epoch >= 2:
            mean = lambda e: losses[e * steps_per_epoch : (e + 1) * steps_per_epoch].mean(0)
            powers = np.exp(mean(epoch - 1) / mean(epoch - 2) / temperature)
            weights[step] = num_tasks * powers / powers.sum()
    return weights


@pytest.mark.parametrize(("temperature", "steps_per_epoch"), [(2.0, 1), (0.5, 1), (2.0, 4)])
def test_it_follows_the_paper(temperature, steps_per_epoch):
    losses = np.random.default_rng(0).uniform(0.2, 3.0, (18, 3))
    hyperparameters = {"temperature": temperature, "steps_per_epoch": steps_per_epoch}
    got, _ = run(losses, **hyperparameters)
    np.testing.assert_allclose(got, reference(losses, **hyperparameters), rtol=1e-5)
    # The nash-mtl code takes the mean of the weighted losses, so that its weights sum to one.
    np.testing.assert_allclose(got.sum(1), 3, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_a_factor_on_a_tasks_losses_cancels(scale):
    losses = np.random.default_rng(1).uniform(0.2, 3.0, (9, 3))
    plain, _ = run(losses, steps_per_epoch=2)
    scaled, _ = run(losses * [1.0, scale, 1.0], steps_per_epoch=2)
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)


def test_losses_of_zero_leave_the_ratio_at_one():
    losses = np.array([[0.0, 2.0], [0.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    np.testing.assert_allclose(run(losses)[0], 1, rtol=1e-6)


def test_a_ratio_beyond_the_range_takes_all_the_weight():
    losses = np.array([[1e-30, 2.0], [1e30, 2.0], [1.0, 2.0]])
    np.testing.assert_allclose(run(losses)[0][-1], [2, 0], atol=1e-6)


@pytest.mark.nans
def test_a_task_is_averaged_over_the_steps_in_which_it_is_present():
    """Against a loop that keeps, per task, the losses of each epoch in which it was seen."""
    rng = np.random.default_rng(2)
    per_epoch, losses, masks = 3, rng.uniform(0.2, 3.0, (30, 4)), rng.random((30, 4)) < 0.4
    history, wanted = [{} for _ in range(4)], np.zeros((30, 4))
    for step in range(30):
        epoch, ratios = step // per_epoch, np.ones(4)
        for task in range(4):
            closed = [np.mean(v) for e, v in sorted(history[task].items()) if e < epoch]
            if len(closed) >= 2:
                ratios[task] = closed[-1] / closed[-2]
            if masks[step, task]:
                history[task].setdefault(epoch, []).append(losses[step, task])
        powers = np.where(masks[step], np.exp(ratios / 2), 0)
        wanted[step] = masks[step].sum() * powers / max(powers.sum(), 1e-300)
    spoiled = np.where(masks, losses, np.nan)
    got, _ = run(spoiled, masks, steps_per_epoch=per_epoch)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_an_absent_tasks_means_stand_still_over_the_end_of_an_epoch():
    losses = np.random.default_rng(3).uniform(0.2, 3.0, (12, 2))
    masks = np.ones((12, 2), bool)
    masks[5:, 1] = False
    _, states = run(losses, masks, steps_per_epoch=2)
    for leaf in (states.mean, states.seen, states.last, states.before):
        assert np.all(np.asarray(leaf)[5:, 1] == np.asarray(leaf)[4, 1])


def test_long_epochs_keep_their_accuracy():
    losses = np.random.default_rng(4).uniform(0.2, 3.0, (60_001, 2))
    got, _ = run(losses, steps_per_epoch=30_000, temperature=0.01)
    powers = np.exp(losses[30_000:60_000].mean(0) / losses[:30_000].mean(0) / 0.01)
    np.testing.assert_allclose(got[-1], 2 * powers / powers.sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("hyperparameters", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, r"dwa: temperature must lie in \(0, inf\)"),
        ({"steps_per_epoch": 0}, ValueError, "dwa: steps_per_epoch must be at least 1, got 0"),
        ({"steps_per_epoch": 2.5}, TypeError, "dwa: steps_per_epoch must be an integer, got 2.5"),
    ],
)
def test_bad_hyperparameters_are_named(hyperparameters, error, message):
    with pytest.raises(error, match=message):
        mtl.dwa(2, **hyperparameters)
