"""`per_task` and `on_shared` against plain NumPy computations of the same step."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import flat, inputs, step, tree_gradients
from tests.test_gradients import SHARED, T, batch, close, losses_of, on_trunk, params


def numpy_step(p, data):
    """Losses, per-task trunk gradients `(T, 25)` and head gradients, by hand."""
    w, b, heads = (np.asarray(a, np.float64) for a in (*p["trunk"].values(), p["heads"]))
    x, y = np.asarray(data["x"], np.float64), np.asarray(data["y"], np.float64)
    hidden = np.tanh(x @ w + b)
    errors = hidden @ heads.T - y
    head_gradients = 2 * errors.T @ hidden / len(x)
    trunk = []
    for task in range(T):
        back = 2 * errors[:, [task]] / len(x) * heads[task] * (1 - hidden**2)
        trunk.append(np.concatenate([(x.T @ back).ravel(), back.sum(0)]))
    return (errors**2).mean(0), np.stack(trunk), head_gradients


def mixed(p, data):
    return mtl.value_and_task_grads(losses_of, shared=SHARED)(p, data)


def trunk_vector(updates):
    return np.concatenate([np.asarray(updates["trunk"][k], np.float64).ravel() for k in ("w", "b")])


@pytest.mark.parametrize("shared", [SHARED, on_trunk])
def test_mgda_on_the_trunk_with_unweighted_heads(shared):
    p, data = params(), batch()
    losses, gradients = mixed(p, data)
    tx = mtl.on_shared(mtl.mgda(T), shared)
    updates, _ = jax.jit(tx.update)(gradients, tx.init(p), p, task_losses=losses)
    _, trunk, heads = numpy_step(p, data)
    weights = cp.Variable(T, nonneg=True)
    cp.Problem(cp.Minimize(cp.sum_squares(trunk.T @ weights)), [cp.sum(weights) == 1]).solve(
        solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12
    )
    np.testing.assert_allclose(trunk_vector(updates), weights.value @ trunk, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(updates["heads"], heads, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head_tasks", [None, "labels"])
def test_heads_weighted_by_their_own_task(head_tasks):
    """Two steps of UW: the second weighs with log variances moved by the first."""
    p, data = params(), batch()
    if head_tasks == "labels":
        p = {"trunk": p["trunk"], "heads": {str(t): p["heads"][t] for t in range(T)}}
        head_tasks = {"trunk": -1, "heads": {str(t): t for t in range(T)}}

        def loss(q, d):
            rows = jnp.stack([q["heads"][str(t)] for t in range(T)])
            return losses_of({"trunk": q["trunk"], "heads": rows}, d)
    else:
        loss = losses_of
    tx = mtl.on_shared(mtl.uw(T, optax.sgd(0.5)), SHARED, heads="weighted", head_tasks=head_tasks)
    losses, gradients = mtl.value_and_task_grads(loss, shared=SHARED)(p, data)
    state, s = tx.init(p), np.zeros(T)
    for _ in range(2):
        updates, state = jax.jit(tx.update)(gradients, state, p, task_losses=losses)
        numpy_losses, trunk, heads = numpy_step(params(), data)
        weights = 0.5 * np.exp(-s)
        got = updates["heads"]
        rows = np.stack([got[str(t)] for t in range(T)]) if isinstance(got, dict) else got
        np.testing.assert_allclose(rows, weights[:, None] * heads, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(trunk_vector(updates), weights @ trunk, rtol=1e-4, atol=1e-5)
        s = s - 0.5 * (0.5 - weights * numpy_losses)


def test_heads_take_a_transformation_of_their_own():
    """AdaTask's rule: per-task Adam on the trunk, plain Adam on the heads."""
    p, data = params(), batch()
    losses, gradients = mixed(p, data)
    tx = mtl.on_shared(mtl.adatask(T, optax.adam(0.1)), SHARED, heads=optax.adam(0.1))
    updates, _ = jax.jit(tx.update)(gradients, tx.init(p), p, task_losses=losses)
    _, trunk, heads = numpy_step(p, data)
    first = lambda g: -0.1 * g / (np.abs(g) + 1e-8)
    np.testing.assert_allclose(trunk_vector(updates), first(trunk).sum(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(updates["heads"], first(heads), rtol=1e-3, atol=1e-4)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, p)


def test_on_shared_chains_with_rows_that_keep_the_task_axis():
    """PCGrad's rows, AdaTask on the trunk, Adam on the heads, in one chain."""
    p, data = params(), batch()
    _, gradients = mixed(p, data)
    tx = optax.chain(
        mtl.on_shared(mtl.pcgrad(T, combine=False), SHARED),
        mtl.on_shared(mtl.per_task(T, optax.scale_by_adam()), SHARED, heads=optax.scale_by_adam()),
        mtl.on_shared(mtl.sum_tasks(T), SHARED),
        optax.scale_by_learning_rate(0.1),
    )
    updates, _ = jax.jit(tx.update)(gradients, tx.init(p), p)
    rows, _ = mtl.pcgrad(T, combine=False).update(
        gradients["trunk"], mtl.pcgrad(T).init(p["trunk"])
    )
    rows = np.concatenate([np.asarray(rows[k]).reshape(T, -1) for k in ("w", "b")], axis=1)
    wanted = -0.1 * (rows / (np.abs(rows) + 1e-8)).sum(0)
    np.testing.assert_allclose(trunk_vector(updates), wanted, rtol=1e-3, atol=1e-4)


def test_heads_see_the_extra_arguments():
    seen = {}

    def look(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), look)
    tx = mtl.on_shared(mtl.sum_tasks(2), {"trunk": True, "heads": False}, heads=spy)
    gradients = {"trunk": jnp.eye(2), "heads": jnp.ones(2)}
    state = tx.init({"trunk": jnp.ones(2), "heads": jnp.ones(2)})
    tx.update(gradients, state, value=3.0)
    assert seen == {"value": 3.0}


@pytest.mark.parametrize("head_tasks", [None, {"trunk": 0, "heads": 1}])
def test_weighted_heads_keep_their_dtype(head_tasks):
    tx = mtl.on_shared(
        mtl.mean_tasks(2), {"trunk": True, "heads": False}, "weighted", head_tasks=head_tasks
    )
    gradients = {"trunk": jnp.eye(2), "heads": jnp.ones(2, jnp.bfloat16)}
    updates, _ = tx.update(gradients, tx.init({"trunk": jnp.ones(2), "heads": jnp.ones(2)}))
    assert updates["heads"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates["heads"], 0.5)


def test_on_shared_with_everything_shared_is_the_method():
    given = inputs(T)
    tx, plain = mtl.on_shared(mtl.cagrad(T), lambda path: True), mtl.cagrad(T)
    updates, _ = step(tx, tx.init(given.params), given)
    wanted, _ = step(plain, plain.init(given.params), given)
    close(updates, wanted)


def test_on_shared_passes_the_mask_on_and_keeps_weights_readable():
    p, data = params(), batch()
    losses, gradients = mixed(p, data)
    tx = mtl.on_shared(mtl.mean_tasks(T), SHARED, heads="weighted")
    mask = jnp.array([True, False, True])
    updates, state = tx.update(gradients, tx.init(p), p, task_losses=losses, task_mask=mask)
    np.testing.assert_array_equal(
        optax.tree_utils.tree_get(state, "weights"), np.array([0.5, 0, 0.5])
    )
    np.testing.assert_allclose(updates["heads"][0], gradients["heads"][0] / 2, rtol=1e-6)
    assert np.all(np.asarray(updates["heads"][1]) == 0)


def test_on_shared_mistakes_are_named():
    p, data = params(), batch()
    _, gradients = mixed(p, data)
    _, stacked = mtl.value_and_task_grads(losses_of)(p, data)
    with pytest.raises(
        ValueError, match="on_shared: heads must be one of .*Did you mean 'weighted'"
    ):
        mtl.on_shared(mtl.mgda(T), SHARED, heads="weigthed")
    with pytest.raises(TypeError, match="on_shared: heads must be an optax.GradientTransformation"):
        mtl.on_shared(mtl.mgda(T), SHARED, heads=0.1)
    with pytest.raises(TypeError, match="on_shared: method must be an optax"):
        mtl.on_shared("mgda", SHARED)
    with pytest.raises(ValueError, match="needs a method that weights tasks"):
        mtl.on_shared(mtl.adatask(T, optax.sgd(1.0)), SHARED, heads="weighted").init(p)
    with pytest.raises(ValueError, match="head_tasks only means something"):
        mtl.on_shared(mtl.mgda(T), SHARED, head_tasks={})
    tx = mtl.on_shared(mtl.mgda(T), SHARED)
    with pytest.raises(ValueError, match=r"head gradient updates\['heads'\] has shape \(3, 3, 5\)"):
        tx.update(stacked, tx.init(p), p)
    tx = mtl.on_shared(mtl.mgda(T), SHARED, heads="weighted")
    single = {"trunk": p["trunk"], "heads": jnp.ones((5,))}
    with pytest.raises(ValueError, match=r"no leading axis of 3 tasks.*head_tasks"):
        tx.update({**gradients, "heads": jnp.ones((5,))}, tx.init(single), single)
    with pytest.raises(ValueError, match="on_shared: shared selects no leaf"):
        mtl.on_shared(mtl.mgda(T), lambda path: False).init(p)


def test_per_task_clips_each_task_alone():
    given = inputs(T)
    tx = mtl.per_task(T, optax.clip_by_global_norm(1.0))
    updates, _ = jax.jit(tx.update)(given.gradients, tx.init(given.params), given.params)
    matrix = flat(given.gradients, tasks=True)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    np.testing.assert_allclose(
        flat(updates, tasks=True), matrix / np.maximum(norms, 1), rtol=1e-5, atol=1e-6
    )


def test_per_task_sees_params_and_extra_arguments():
    """Weight decay reads the parameters, and a transformation may read extra arguments."""
    given = inputs(T)
    decay = mtl.per_task(T, optax.add_decayed_weights(0.1))
    updates, _ = decay.update(given.gradients, decay.init(given.params), given.params)
    np.testing.assert_allclose(
        flat(updates, tasks=True),
        flat(given.gradients, tasks=True) + 0.1 * flat(given.params),
        rtol=1e-5,
        atol=1e-6,
    )

    def by_value(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda u: u * value, updates), state

    scaled = mtl.per_task(
        T, optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), by_value)
    )
    updates, _ = scaled.update(given.gradients, scaled.init(given.params), value=jnp.array(2.0))
    close(updates, jax.tree.map(lambda g: 2 * g, given.gradients))


def test_per_task_schedules_count_each_task_alone():
    """A task that was absent once is one step behind on its schedule."""
    tx = mtl.per_task(2, optax.scale_by_schedule(lambda count: 1.0 + count))
    gradients = tree_gradients(jnp.ones((2, 17)))
    state = tx.init(inputs(2).params)
    _, state = tx.update(gradients, state, task_mask=jnp.array([True, False]))
    updates, state = tx.update(gradients, state)
    np.testing.assert_array_equal(flat(updates, tasks=True)[:, 0], [2, 1])
