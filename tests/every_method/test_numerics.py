"""Where float32 is hard: many tasks, few parameters, far scales, mixed dtypes, bad values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import METHODS, make, optimised, with_property
from tests.matrices import hard

# Their own optimiser's squares are optax's, and end where float32 does.
ADAM = {"adatask"}
# The step of the weights is quadratic in the gradients, and has no meaning at such scales.
QUADRATIC = {"meta_weighting"}
SCALES = (1e-25, 1e-15, 1.0, 1e15, 1e20)
SHAPES = ((14, 5), (64, 14))  # `test_properties` has few tasks of more parameters.
SMALL, LOSSES = (3, 6), (0.5, 1.0, 2.0)
READS_LOSSES = [name for name in METHODS if "losses" in mtl.method_info(name).reads]


@functools.cache
def run(name, num_tasks):
    """Two steps over many matrices: `(B, T, N)` and losses `(B, T)`.

    Of the middle number of tasks as users have it, of the largest and the smallest at once, and
    compiled in little time: `test_properties` has few tasks as users have them.
    """
    tx = make(name, num_tasks)

    def steps(matrix, losses):
        def take(state, _):
            updates, state = tx.update(
                matrix, state, task_losses=losses, next_losses=losses, query_gradients=matrix
            )
            return state, updates

        state, updates = jax.lax.scan(take, tx.init(matrix[0]), length=2)
        return updates[0], state

    if num_tasks == SHAPES[0][0]:
        return optimised(lambda *batch: jax.lax.map(lambda one: steps(*one), batch))
    return jax.jit(jax.vmap(steps))


def floats(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_updates_are_finite_and_keep_what_the_registry_declares(name, shape):
    """At every scale, after permuting the tasks too; tolerances are shares of the longest."""
    num_tasks, _ = shape
    info = mtl.method_info(name)
    rng = np.random.default_rng(0)
    matrices = np.stack(list(hard(*shape, seed=num_tasks).values()))
    scales = [s for s in SCALES if s <= 1e15 or name not in QUADRATIC]
    scaled = np.concatenate([matrices * scale for scale in scales]).astype(np.float32)
    losses = np.tile(rng.uniform(0.5, 2, num_tasks).astype(np.float32), (len(scaled), 1))
    updates, state = run(name, num_tasks)(scaled, losses)
    assert np.all(np.isfinite(updates))
    if name not in ADAM | QUADRATIC:
        assert all(np.all(np.isfinite(leaf)) for leaf in floats(state))

    # In units of the longest gradient, in float64.
    unit = np.max(np.linalg.norm(scaled.astype(np.float64), axis=2), axis=1)[:, None]
    unit = np.where(unit > 0, unit, 1)
    rows = scaled / unit[:, None]
    moves = np.asarray(updates, np.float64)
    moves = moves if info.scale in ("unit", "step") else moves / unit
    if "homogeneous" in info.properties:
        by_scale = moves.reshape(len(scales), len(matrices), -1)
        np.testing.assert_allclose(by_scale, by_scale[[2] * len(scales)], rtol=2e-3, atol=2e-5)
    if {"equivariant", "linear"} <= info.properties and not info.ambiguous:
        order = rng.permutation(num_tasks)
        permuted, _ = run(name, num_tasks)(scaled[:, order], losses[:, order])
        permuted = np.asarray(permuted, np.float64)
        permuted = permuted if info.scale == "unit" else permuted / unit
        size = np.maximum(np.linalg.norm(moves, axis=1), 1)
        assert np.max(np.linalg.norm(permuted - moves, axis=1) / size) < 2e-4
    if "non-conflicting" in info.properties:
        products = np.einsum("btn,bn->bt", rows, moves)
        longer = np.maximum(np.linalg.norm(moves, axis=1, keepdims=True), 1)
        assert np.all(products >= -2e-6 * np.linalg.norm(rows, axis=2) * longer)
    if "linear" in info.properties:
        weights = np.asarray(optax.tree_utils.tree_get(state, "weights"), np.float64)
        if "conic" in info.properties:
            assert np.all(weights >= 0)
        if "convex" in info.properties:
            np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    if name == "mgda":
        assert np.max(state.inner.gap) < 5e-6
    if name == "nash_mtl":
        residual = np.asarray(state.inner.residual)
        assert np.all((residual < 1e-3) | (residual == 1))


NOT_HOMOGENEOUS = sorted(set(METHODS) - set(with_property("homogeneous")) - ADAM - QUADRATIC)


@pytest.mark.parametrize("name", NOT_HOMOGENEOUS)
def test_the_direction_is_that_of_float64_at_any_scale(name):
    """Those that are homogeneous are compared with themselves at scale one above."""
    scales = np.array([1e-25, 1e-15, 1e-5, 1e5, 1e15, 1e20])[:, None, None]
    matrices = (hard(*SMALL)["gaussian"] * scales).astype(np.float32)
    losses = np.tile(np.float32(LOSSES), (len(matrices), 1))

    def directions(dtype):
        updates, _ = run(name, 3)(jnp.asarray(matrices, dtype), jnp.asarray(losses))
        updates = np.asarray(updates, np.float64)
        return updates / np.linalg.norm(updates, axis=1, keepdims=True)

    with jax.enable_x64(True):
        wanted = directions(jnp.float64)
    np.testing.assert_allclose(directions(jnp.float32), wanted, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_a_tree_of_mixed_dtypes(name):
    """Each leaf keeps its dtype; the value is that of float32 to the coarsest dtype's rounding."""
    info, tx = mtl.method_info(name), make(name, 3)
    matrix = jnp.asarray(hard(*SMALL)["gaussian"], jnp.float32)
    dtypes = (jnp.bfloat16, jnp.float16, jnp.float32)
    mixed = [matrix[:, 2 * i : 2 * i + 2].astype(dtype) for i, dtype in enumerate(dtypes)]

    @jax.jit
    def first(tree):
        losses = jnp.array(LOSSES)
        arguments = {"task_losses": losses, "next_losses": losses, "query_gradients": tree}
        return tx.update(tree, tx.init([g[0] for g in tree]), **arguments)[0]

    updates = first(mixed)
    assert [u.dtype for u in updates] == list(dtypes)
    if "linear" in info.properties or name in QUADRATIC:
        wide = np.concatenate([np.asarray(g, np.float32) for g in mixed], axis=1)
        wanted = run(name, 3)(np.tile(wide, (6, 1, 1)), np.tile(np.float32(LOSSES), (6, 1)))[0][0]
        got = np.concatenate([np.asarray(u, np.float32) for u in updates])
        np.testing.assert_allclose(got, wanted, atol=2**-7 * np.max(np.abs(wanted)))


@pytest.mark.parametrize("name", READS_LOSSES)
def test_losses_of_any_sign_and_size_leave_update_and_state_finite(name):
    """What each method makes of them is in its docstring."""
    losses = [
        (0.0, 1.0, 2.0),
        (0.0, 0.0, 0.0),
        (-1.0, 1.0, 2.0),
        (1e30, 1.0, 2.0),
        (1e-30, 1.0, 2.0),
        (-1e30, 1e-30, 1e30),
    ]
    matrix = np.float32(hard(*SMALL)["gaussian"])
    updates, state = run(name, 3)(np.tile(matrix, (6, 1, 1)), np.float32(losses))
    assert np.all(np.isfinite(updates))
    assert all(np.all(np.isfinite(leaf)) for leaf in floats(state))


@pytest.mark.nans
@pytest.mark.parametrize("name", ["dwa", "uw", "gradnorm", "bandit_mtl", "nash_mtl"])
def test_a_step_after_a_bad_one_shows_it_or_has_recovered(name):
    """Never a NaN that hides in the state: either the next update is NaN, or the state is sound."""
    tx = make(name, 3)
    matrix = jnp.asarray(hard(*SMALL)["gaussian"], jnp.float32)
    update = optimised(
        lambda g, state, losses: tx.update(
            g, state, task_losses=losses, next_losses=losses, query_gradients=g
        )
    )
    losses = jnp.array(LOSSES)
    bad, state = update(matrix.at[1].set(jnp.nan), tx.init(matrix[0]), losses.at[1].set(jnp.nan))
    assert not np.all(np.isfinite(bad))
    after, state = update(matrix, state, losses)
    after, state = update(matrix, state, losses)
    if np.all(np.isfinite(after)):
        assert all(np.all(np.isfinite(leaf)) for leaf in floats(state))


def test_conflict_at_the_edges_of_float32():
    matrix = hard(*SMALL)["gaussian"]
    lengths = np.linalg.norm(matrix, axis=1)
    wanted = matrix @ matrix.T / np.outer(lengths, lengths)
    tx = mtl.track_conflict(3)
    for scale in (1e-25, 1e20):
        gradients = jnp.asarray(matrix * scale, jnp.float32)
        _, found = tx.update(gradients, tx.init(gradients[0]))
        np.testing.assert_allclose(found.cosines, wanted, atol=1e-6)
        np.testing.assert_allclose(found.norms, lengths * scale, rtol=1e-6)
