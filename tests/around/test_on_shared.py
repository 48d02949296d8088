"""`per_task` and `on_shared` against plain NumPy computations of the same step."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import METHODS, flat, inputs, step, tree_gradients
from tests.task_gradients.test_stacked import SHARED, T, batch, close, losses_of, on_trunk, params


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
        gradients["trunk"], mtl.pcgrad(T).init(p["trunk"]), p["trunk"]
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
    np.testing.assert_array_equal(mtl.task_weights(state), np.array([0.5, 0, 0.5]))
    np.testing.assert_allclose(updates["heads"][0], gradients["heads"][0] / 2, rtol=1e-6)
    assert np.all(np.asarray(updates["heads"][1]) == 0)


ADAM = optax.adam(0.1)
STACKED = {"trunk": jnp.ones((2, 4)), "heads": jnp.ones(2)}
PLAIN = {"trunk": jnp.ones(4), "heads": jnp.ones(2)}


@pytest.mark.parametrize("name", [n for n in METHODS if mtl.method_info(n).is_optimizer])
@pytest.mark.parametrize("options", [{}, {"heads": "weighted"}, {"combine": False}], ids=str)
def test_a_method_that_is_an_optimiser_takes_no_raw_heads(name, options):
    kept = {"combine": options["combine"]} if "combine" in options else {}
    heads = {"heads": options["heads"]} if "heads" in options else {}
    with pytest.raises(ValueError, match=rf"on_shared: .* and {name} is an optimiser.*heads=optax"):
        mtl.on_shared(mtl.get(name, 2, **kept), "trunk", **heads)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_moves_trunk_and_heads_the_same_way_with_the_heads_it_recommends(name):
    """Down with gradients of ones, after an optimiser if the method is none."""
    info = mtl.method_info(name)
    tx = mtl.on_shared(mtl.get(name, 2), "trunk", heads=info.heads)
    tx = tx if info.is_optimizer else optax.chain(tx, optax.sgd(0.1))
    ones = jnp.ones(2)
    extra = {"task_losses": ones, "next_losses": ones, "query_gradients": STACKED}
    state = tx.init(PLAIN)
    for _ in range(2):
        updates, state = tx.update(STACKED, state, PLAIN, **extra)
    assert all(np.all(np.asarray(leaf) < 0) for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("method", "heads", "climbing"),
    [
        (lambda: optax.chain(mtl.sum_tasks(2), ADAM), "unweighted", "heads"),
        (lambda: optax.chain(mtl.uw(2), optax.sgd(0.1)), "weighted", "heads"),
        (lambda: mtl.per_task(2, ADAM), "unweighted", "heads"),
        (lambda: optax.chain(mtl.track_conflict(2), mtl.adatask(2, ADAM)), "unweighted", "heads"),
        (lambda: mtl.skip_nonfinite(mtl.adatask(2, ADAM)), "unweighted", "heads"),
        # Its rate is zero in the first step.
        (
            lambda: optax.chain(mtl.sum_tasks(2), optax.sgd(optax.linear_schedule(0, 1, 9))),
            "unweighted",
            "heads",
        ),
        (lambda: mtl.sum_tasks(2), ADAM, "method"),
        (lambda: mtl.sum_tasks(2), optax.scale(-1.0), "method"),
        (lambda: mtl.adatask(2, optax.scale_by_adam()), ADAM, "method"),
        (lambda: optax.chain(mtl.adatask(2, ADAM), ADAM), ADAM, "method"),
    ],
)
def test_steps_beside_gradients_are_an_error(method, heads, climbing, compiled):
    tx = mtl.on_shared(method(), "trunk", heads=heads)
    update = jax.jit(tx.update) if compiled else tx.update
    message = "the heads get gradients" if climbing == "heads" else "method returns gradients"
    with pytest.raises(ValueError, match=f"on_shared: .*{message}, which point uphill"):
        update(STACKED, tx.init(PLAIN), PLAIN, task_losses=jnp.ones(2))


@pytest.mark.parametrize(
    ("method", "heads"),
    [
        (lambda: mtl.per_task(2, ADAM), ADAM),
        (lambda: mtl.adatask(2, ADAM), optax.scale(-1.0)),
        (lambda: optax.chain(mtl.sum_tasks(2), ADAM), optax.sgd(1.0)),
        (lambda: mtl.adatask(2, optax.scale_by_adam()), optax.identity()),
        (lambda: mtl.per_task(2, optax.clip(0.5)), "unweighted"),
        (lambda: mtl.sum_tasks(2), optax.set_to_zero()),
    ],
)
def test_parts_of_one_kind_pass(method, heads):
    tx = mtl.on_shared(method(), "trunk", heads=heads)
    updates, _ = tx.update(STACKED, tx.init(PLAIN), PLAIN)
    trunk, head = (np.sign(np.mean(updates[k])) for k in ("trunk", "heads"))
    assert trunk == head or head == 0


def test_directions_are_asked_while_rates_are_traced():
    """They cannot be told then, and nothing leaks."""

    def moved(rate):
        tx = mtl.on_shared(mtl.per_task(2, optax.sgd(rate)), "trunk", heads=optax.sgd(rate))
        return tx.update(STACKED, tx.init(PLAIN), PLAIN)[0]["heads"]

    with jax.checking_leaks():
        got = jax.jit(jax.vmap(moved))(jnp.array([0.5, 2.0]))
    np.testing.assert_array_equal(got, [[-0.5, -0.5], [-2, -2]])


def test_an_optimiser_after_adatask_climbs():
    """Nothing in a chain can tell; the page on what composes says it."""
    tx = optax.chain(mtl.adatask(2, ADAM), optax.sgd(1.0))
    updates, _ = tx.update(jnp.ones((2, 4)), tx.init(jnp.ones(4)))
    np.testing.assert_allclose(updates, 0.2, rtol=1e-4)


@pytest.mark.parametrize("task", [2, 7, -1, -5, 1.0, True, np.array([0, 2])], ids=str)
def test_head_tasks_outside_the_tasks_are_an_error(task):
    tree = {"trunk": 0, "heads": {"a": 0, "b": task}}
    params = {"trunk": jnp.ones(4), "heads": {"a": jnp.ones(2), "b": jnp.ones(2)}}
    tx = mtl.on_shared(mtl.uw(2), "trunk", heads="weighted", head_tasks=tree)
    message = r"on_shared: head_tasks must give params\['heads'\]\['b'\] .* below num_tasks=2"
    with pytest.raises(ValueError, match=message):
        tx.init(params)
    if np.ndim(task) == 0:
        plain = mtl.on_shared(mtl.uw(2), "trunk", "weighted", head_tasks={"trunk": 0, "heads": 1})
        gradients = {**params, "trunk": jnp.ones((2, 4))}
        with pytest.raises(ValueError, match=message):
            tx.update(gradients, plain.init(params), params, task_losses=jnp.ones(2))


def test_head_tasks_along_a_leading_axis():
    """Heads of tasks in another order, stacked; what stands at shared leaves is ignored."""
    tree = {"trunk": -7, "heads": np.array([1, 0, 1])}
    tx = mtl.on_shared(mtl.uw(2, optax.sgd(0.5)), "trunk", heads="weighted", head_tasks=tree)
    params = {"trunk": jnp.ones(4), "heads": jnp.ones((3, 2))}
    state = tx.init(params)
    for _ in range(2):  # UW's first weights are equal.
        updates, state = tx.update(
            {**params, "trunk": jnp.ones((2, 4))}, state, params, task_losses=jnp.array([1.0, 3.0])
        )
    # By hand: s moves by -0.5 (0.5 - 0.5 exp(-s) L), from zero.
    second = 0.5 * np.exp(-np.array([0.0, 0.5]))
    np.testing.assert_allclose(updates["heads"], second[[1, 0, 1]][:, None] * [1, 1], rtol=1e-5)


def test_head_tasks_of_another_structure_are_named():
    tx = mtl.on_shared(mtl.uw(2), "trunk", heads="weighted", head_tasks={"heads": 0})
    with pytest.raises(ValueError, match="on_shared: head_tasks must be a tree of task indices"):
        tx.init(PLAIN)


def test_a_parameter_called_weights_does_not_weigh_heads():
    params = {"weights": jnp.ones(3), "heads": jnp.ones((2, 3))}
    tx = mtl.on_shared(optax.chain(mtl.mean_tasks(2), optax.trace(0.9)), "weights", "weighted")
    gradients = {"weights": jnp.ones((2, 3)), "heads": jnp.ones((2, 3))}
    updates, state = tx.update(gradients, tx.init(params), params)
    np.testing.assert_array_equal(updates["heads"], 0.5)
    np.testing.assert_array_equal(mtl.task_weights(state), [0.5, 0.5])


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
