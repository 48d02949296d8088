"""M-ConFIG against the public algorithm in NumPy, over steps that see one task or several."""

import functools

import jax
import numpy as np
import pytest

import mtl_optax as mtl

T, N, STEPS = 3, 5, 20


def drawn(seed=0, several=False):
    """Gradients of each step, and masks: one task in turn, or any, none too."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(STEPS, T, N)) * np.array([[1.0], [20.0], [0.1]])
    masks = (
        rng.random((STEPS, T)) < 0.5 if several else np.arange(T) == np.arange(STEPS)[:, None] % T
    )
    return rows, masks


def config(matrix, wanted):
    norms = np.linalg.norm(matrix, axis=1)
    direction = np.linalg.lstsq(matrix / norms[:, None], wanted, rcond=None)[0]
    direction /= np.linalg.norm(direction)
    return np.sum(matrix @ direction) * direction


def oracle(rows, masks, decay=0.9, square_decay=0.999, wait=False, preference=(1.0,) * T):
    """The update of every step."""
    averages, counts, steps = np.zeros((T, N)), np.zeros(T), 0
    before, squares, updates = np.zeros(N), np.zeros(N), []
    for gradients, mask in zip(rows, masks, strict=True):
        averages[mask] = decay * averages[mask] + (1 - decay) * gradients[mask]
        counts += mask
        seen = counts > 0
        if not mask.any() or (wait and not seen.all()):
            updates.append(np.zeros(N))
            continue
        steps += 1
        hats = averages[seen] / (1 - decay ** counts[seen])[:, None]
        update = config(hats, np.array(preference)[seen])
        momentum = update * (1 - decay**steps)
        implied = (momentum - decay * before) / (1 - decay)
        before = momentum
        squares = square_decay * squares + (1 - square_decay) * implied**2
        updates.append(update / np.sqrt(squares / (1 - square_decay**steps)))
    return np.stack(updates)


@functools.cache
def program(**hyperparameters):
    tx = mtl.m_config(T, **hyperparameters)

    def steps(rows, masks):
        def take(state, given):
            gradients, mask = given
            updates, state = tx.update(gradients, state, gradients[0], task_mask=mask)
            return state, updates

        return jax.lax.scan(take, tx.init(rows[0, 0]), (rows, masks))

    return jax.jit(steps)


def run(rows, masks, dtype=np.float32, **hyperparameters):
    with jax.enable_x64(dtype == np.float64):
        state, updates = program(**hyperparameters)(np.asarray(rows, dtype), masks)
        return np.asarray(updates), jax.tree.map(np.asarray, state)


OTHERS = {"decay": 0.5, "square_decay": 0.9, "wait": True, "preference": (1.0, 2.0, 0.5)}


@pytest.mark.parametrize(
    "options", [{}, {"wait": True}, OTHERS], ids=["defaults", "wait", "others"]
)
def test_equals_the_public_algorithm_over_twenty_steps(options):
    for seed, several in enumerate([False, True, True]):
        rows, masks = drawn(seed, several)
        updates, _ = run(rows, masks, np.float64, **options)
        np.testing.assert_allclose(updates, oracle(rows, masks, **options), rtol=1e-7, atol=1e-9)
        # What is absent is not read, and where nobody is present nothing moves.
        spoiled = np.where(masks[..., None], rows, 1e30)
        np.testing.assert_array_equal(run(spoiled, masks, np.float64, **options)[0], updates)


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e20])
def test_no_scale_has_a_say_in_the_update(scale):
    """The public code's 1e-8 beside the root would swamp gradients of 1e-25."""
    rows, masks = drawn()
    updates, state = run(rows * scale, masks)
    np.testing.assert_allclose(updates, oracle(rows, masks), rtol=1e-2, atol=2e-3)
    assert np.all(np.isfinite(np.concatenate([state.sizes, state.momentum])))


def test_a_coordinate_without_gradient_stands_still():
    rows, masks = drawn()
    rows[..., 2] = 0
    updates, _ = run(rows, masks)
    np.testing.assert_array_equal(updates[:, 2], 0)
    assert np.all(updates[:, [0, 1, 3, 4]] != 0)


def test_the_state_is_of_tasks_and_parameters_and_counts_both():
    rows, masks = drawn(1, several=True)
    _, state = run(rows, masks, wait=True)
    np.testing.assert_array_equal(state.ema.counts, masks.sum(axis=0))
    first = np.max(np.argmax(masks, axis=0))
    assert state.steps == np.sum(masks.any(axis=1)[first:])
    assert state.ema.averages.shape == (T, N)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="m_config: decay must lie in"):
        mtl.m_config(2, decay=1.0)
    with pytest.raises(ValueError, match="m_config: square_decay must lie in"):
        mtl.m_config(2, square_decay=-0.1)
