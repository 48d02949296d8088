"""Derivatives through `update`, so that a method can stand inside a step that is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from tests.common import make

# The update of one that is an optimiser does not depend on the size of the gradients, or jumps.
NAMES = [name for name in mtl.list_methods() if not mtl.method_info(name).is_optimizer]
T, N = 3, 6


def arguments(seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(T, N)) + 0.3
    return jnp.asarray(rows), jnp.array([1.0, 2.0, 0.5]), jnp.asarray(rng.normal(size=N))


def objective(name, probe):
    """A number made of the second step's update, as a function of its gradients and losses."""
    tx = make(name, T)

    def number(rows, losses):
        start, first, _ = arguments(1)
        first = first * jnp.array([1.3, 0.9, 1.1], first.dtype)  # Some jump where nothing changes.
        before = {"task_losses": first, "next_losses": first, "query_gradients": start}
        _, state = tx.update(start, tx.init(rows[0]), rows[0], **before)
        now = {"task_losses": losses, "next_losses": losses, "query_gradients": 2 * rows}
        updates, state = tx.update(rows, state, rows[0], **now)
        return updates @ probe, state

    return number


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_finite_differences(name):
    with jax.enable_x64(True):
        rows, losses, probe = arguments()
        number = jax.jit(jax.value_and_grad(objective(name, probe), argnums=(0, 1), has_aux=True))
        (_, _), slopes = number(rows, losses)
        rng = np.random.default_rng(2)
        move = jnp.asarray(rng.normal(size=(T, N))), jnp.asarray(rng.normal(size=T))
        ahead, behind = (
            number(rows + h * move[0], losses + h * move[1])[0][0] for h in (1e-5, -1e-5)
        )
        found = jnp.vdot(slopes[0], move[0]) + jnp.vdot(slopes[1], move[1])
        # What a state holds in float32 takes digits from the differences.
        np.testing.assert_allclose(found, (ahead - behind) / 2e-5, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_finite_where_a_gradient_or_the_slope_of_a_loss_is_zero(name):
    """Of update and state, in float32; losses of one are where learned scales have no slope."""
    _, _, probe = arguments()
    rows = jnp.eye(T, N).at[1].set(0)
    moves = jnp.ones((T, N), jnp.float32), jnp.ones(T)
    losses = jnp.ones(T)
    number = lambda rows, losses: objective(name, probe.astype(jnp.float32))(rows, losses)
    _, slopes = jax.jit(lambda *at: jax.jvp(number, at, moves))(rows, losses)
    floats = [x for x in jax.tree.leaves(slopes) if x.dtype == jnp.float32]
    assert all(np.all(np.isfinite(x)) for x in floats)


@pytest.mark.parametrize(("name", "options"), [("aligned_mtl", {"scale": "mean"}), ("config", {})])
def test_derivatives_where_gradients_are_dependent(name, options):
    """More tasks than parameters: every change of the gradients keeps the rank."""
    rng = np.random.default_rng(3)
    rows, move, probe = rng.normal(size=(4, 2)), rng.normal(size=(4, 2)), rng.normal(size=2)
    tx = make(name, 4, preference=(1.0, 2.0, 0.5, 1.0), **options)
    with jax.enable_x64(True):
        number = lambda rows: tx.update(rows, tx.init(rows[0]), rows[0])[0] @ probe
        value = jax.jit(number)
        ahead, behind = (np.asarray(value(rows + h * move)) for h in (1e-5, -1e-5))
        slope = jax.jit(lambda *at: jax.jvp(number, *at))((rows,), (move,))[1]
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-5)
