"""What of optax composes with a method, and how: the tests that docs/composition.md links.

What `docs/composition_table.py` writes there is tested in `test_composition_table.py`.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import (
    ROOT,
    first_update,
    flat,
    from_matrix,
    inputs,
    relative_error,
    step,
    weights_of,
)
from tests.task_gradients.test_stacked import SHARED, batch, close, losses_of, params

DOCUMENT = (ROOT / "docs" / "composition.md").read_text(encoding="utf-8")
LINK = r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)"
T = 3


def after_steps(tx, p, steps=3, **extra):
    """The last update of a few jitted steps on different gradients, and the state."""
    take = jax.jit(lambda s, g: step(tx, s, g._replace(params=p), **extra))
    state = tx.init(p)
    for seed in range(steps):
        updates, state = take(state, inputs(T, seed))
    return updates, state


def after_the_method(optimizer, steps=3, **extra):
    """What an optimiser makes of MGDA's updates, when run on its own."""
    method, p = mtl.mgda(T), inputs(T).params
    alone = optax.with_extra_args_support(optimizer)
    method_state, state = method.init(p), alone.init(p)
    for seed in range(steps):
        combined, method_state = step(method, method_state, inputs(T, seed))
        updates, state = alone.update(combined, state, p, **extra)
    return updates


def matrix_of(given):
    return flat(given.gradients, tasks=True)


def test_the_tables_rows_and_these_tests_name_each_other():
    rows = [line for line in DOCUMENT.splitlines() if line.startswith("| `")]
    for row in rows:
        assert len(re.findall(LINK, row)) == 1, row
    linked = re.findall(LINK, DOCUMENT)
    for test, path in linked:
        assert f"\ndef {test}(" in (ROOT / path).read_text(encoding="utf-8"), (test, path)
    here = {test for test, path in linked if path == "tests/around/test_with_optax.py"}
    sections = {name for name in globals() if name.startswith("test_")} - here
    assert sections == {
        "test_the_tables_rows_and_these_tests_name_each_other",
        "test_scaled_gradients_give_the_same_weights",
        "test_a_static_loss_scale_saves_gradients_that_underflow",
        "test_bfloat16_gradients_train_float32_parameters",
    }


# Before the method.


def test_clip_each_task():
    given = inputs(T)
    tx = optax.chain(mtl.per_task(T, optax.clip_by_global_norm(0.5)), mtl.pcgrad(T, key=1))
    got, _ = after_steps(tx, given.params, steps=1)
    rows = matrix_of(given)
    rows *= np.minimum(1, 0.5 / np.linalg.norm(rows, axis=1, keepdims=True))
    plain = mtl.pcgrad(T, key=1)
    wanted, _ = step(plain, plain.init(given.params), from_matrix(rows))
    np.testing.assert_allclose(flat(got), flat(wanted), rtol=1e-5, atol=1e-6)


def test_clip_by_global_norm_before_takes_one_norm_of_all_tasks():
    given = inputs(T)
    tx = optax.chain(optax.clip_by_global_norm(0.5), mtl.sum_tasks(T))
    got, _ = after_steps(tx, given.params, steps=1)
    wanted = matrix_of(given).sum(0) * 0.5 / np.linalg.norm(matrix_of(given))
    np.testing.assert_allclose(flat(got), wanted, rtol=1e-5, atol=1e-6)


def test_weight_decay_before_decays_every_task():
    given = inputs(T)
    decay = optax.add_decayed_weights(0.1)
    with jax.numpy_rank_promotion("allow"):
        silent, _ = after_steps(optax.chain(decay, mtl.sum_tasks(T)), given.params, steps=1)
    explicit, _ = after_steps(
        optax.chain(mtl.per_task(T, decay), mtl.sum_tasks(T)), given.params, steps=1
    )
    wanted = matrix_of(given).sum(0) + T * 0.1 * flat(given.params)
    np.testing.assert_allclose(flat(silent), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(flat(explicit), wanted, rtol=1e-5, atol=1e-6)


def test_moments_before_change_the_shapes_of_the_state():
    """`optax.ema` starts at the shape of params; lifted, it has a copy for each task."""
    p = inputs(T).params
    many = jax.tree.map(lambda *x: jnp.stack(x), *(inputs(T, seed) for seed in range(3)))

    def run(first):
        tx = optax.chain(first, mtl.sum_tasks(T))
        body = lambda state, given: step(tx, state, given)[::-1]
        return jax.lax.scan(body, tx.init(p), many)[1]

    with jax.numpy_rank_promotion("allow"), pytest.raises(TypeError, match="carry"):
        run(optax.ema(0.5, debias=False))
    got = run(mtl.per_task(T, optax.ema(0.5, debias=False)))
    rows = [matrix_of(inputs(T, seed)).sum(0) for seed in range(3)]
    wanted = 0.125 * rows[0] + 0.25 * rows[1] + 0.5 * rows[2]
    got = flat(jax.tree.map(lambda x: x[-1], got))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


# After the method.


def test_schedules_after():
    schedule = optax.linear_schedule(1.0, 0.0, 4)
    tx = optax.chain(mtl.mgda(T), optax.scale_by_learning_rate(schedule))
    got, _ = after_steps(tx, inputs(T).params)
    wanted = flat(after_the_method(optax.scale(-0.5)))  # The third step is at 1 - 2/4.
    np.testing.assert_allclose(flat(got), wanted, rtol=1e-4, atol=1e-6)


def test_arguments_of_the_optimizer_pass_through_the_method():
    """`reduce_on_plateau` reads `value`, a line search the gradient of the summed loss as well."""
    p = inputs(T).params
    plateau, value = optax.contrib.reduce_on_plateau(factor=0.5, patience=1), jnp.array(1.0)
    got, _ = after_steps(optax.chain(mtl.mgda(T), plateau), p, value=value)
    wanted = flat(after_the_method(plateau, value=value))
    np.testing.assert_allclose(flat(got), wanted, rtol=1e-5, atol=1e-6)
    assert relative_error(wanted, flat(after_the_method(optax.identity()))) > 0.4

    def value_fn(q, task_losses=None, query_gradients=None, next_losses=None):
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(q))

    extra = {"value": value_fn(p), "grad": jax.grad(value_fn)(p), "value_fn": value_fn}
    search = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15))
    got, _ = after_steps(optax.chain(mtl.mgda(T), search), p, **extra)
    np.testing.assert_allclose(
        flat(got), flat(after_the_method(search, **extra)), rtol=1e-4, atol=1e-6
    )


def test_multi_steps_after_averages_updates():
    """The method runs on every micro-batch, which is not the method on their mean."""
    tx = optax.chain(mtl.mgda(T), optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation())
    got, _ = after_steps(tx, inputs(T).params, steps=2)
    each = []
    for seed in range(2):
        given = inputs(T, seed)
        each.append(flat(step(mtl.mgda(T), mtl.mgda(T).init(given.params), given)[0]))
    np.testing.assert_allclose(flat(got), -(each[0] + each[1]) / 2, rtol=1e-4, atol=1e-6)
    mean = from_matrix((matrix_of(inputs(T, 0)) + matrix_of(inputs(T, 1))) / 2)
    on_mean, _ = step(mtl.mgda(T), mtl.mgda(T).init(mean.params), mean)
    assert relative_error(flat(got), -flat(on_mean)) > 0.1


@pytest.mark.nans
def test_apply_if_finite_after_guards_the_optimizer_alone():
    tx = optax.chain(mtl.uw(T, optax.sgd(0.1)), optax.apply_if_finite(optax.adam(0.1), 3))
    given = inputs(T)
    bad = given._replace(losses=given.losses.at[0].set(jnp.nan))
    updates, state = step(tx, tx.init(given.params), bad)
    assert np.all(flat(updates) == 0)
    assert np.all(np.isnan(weights_of(state)))


# Around the method.


def test_inject_hyperparams_schedules_a_hyperparameter():
    schedule = optax.linear_schedule(0.0, 0.8, 2)
    make = optax.inject_hyperparams(mtl.cagrad, static_args=("num_tasks",))
    got, state = after_steps(make(num_tasks=T, c=schedule), inputs(T).params)
    wanted, _ = after_steps(mtl.cagrad(T, c=0.8), inputs(T).params)
    close(got, wanted)
    np.testing.assert_allclose(state.hyperparams["c"], 0.8)


def test_inject_hyperparams_in_bfloat16_needs_a_dtype():
    """0.999 is 1 in bfloat16, the dtype of these parameters."""
    p = {"w": jnp.zeros(2, jnp.bfloat16)}
    make = lambda **kw: optax.inject_hyperparams(mtl.cagrad, static_args=("num_tasks",), **kw)
    rounded = make()(num_tasks=T, c=0.999).init(p)
    kept = make(hyperparam_dtype=jnp.float32)(num_tasks=T, c=0.999).init(p)
    assert float(rounded.hyperparams["c"]) == 1
    np.testing.assert_allclose(kept.hyperparams["c"], 0.999, rtol=1e-6)


def test_inject_hyperparams_with_a_schedule_that_has_a_state():
    schedule = optax.schedules.WrappedSchedule(optax.linear_schedule(0.0, 0.8, 2))
    make = optax.inject_hyperparams(mtl.cagrad, static_args=("num_tasks",))
    got, _ = after_steps(make(num_tasks=T, c=schedule), inputs(T).params)
    wanted, _ = after_steps(mtl.cagrad(T, c=0.8), inputs(T).params)
    close(got, wanted)


def test_masked_leaves_the_other_leaves_stacked():
    p, given = inputs(T).params, inputs(T)
    trunk, heads = {"dense": True, "scale": False}, {"dense": False, "scale": True}
    got, _ = after_steps(optax.masked(mtl.mgda(T), trunk), p, steps=1)
    assert got["scale"].shape == (T,)
    both = optax.chain(optax.masked(mtl.mgda(T), trunk), optax.masked(mtl.sum_tasks(T), heads))
    got, _ = after_steps(both, p, steps=1)
    alone, _ = mtl.mgda(T).update(
        given.gradients["dense"], mtl.mgda(T).init(p["dense"]), p["dense"]
    )
    close(got, {"dense": alone, "scale": given.gradients["scale"].sum()})


def test_partition_by_labels():
    """The mixed tree of shared leaves and heads: an optimiser for each, a method for one."""
    p, data = params(), batch()
    losses, gradients = mtl.value_and_task_grads(losses_of, shared=SHARED)(p, data)
    tx = optax.partition(
        {"trunk": optax.chain(mtl.mgda(T), optax.sgd(0.1)), "heads": optax.sgd(0.2)},
        {"trunk": "trunk", "heads": "heads"},
    )
    got, state = jax.jit(tx.update)(gradients, tx.init(p), p, task_losses=losses)
    plain = mtl.on_shared(mtl.mgda(T), SHARED)
    wanted, _ = plain.update(gradients, plain.init(p), p)
    close(got["trunk"], jax.tree.map(lambda u: -0.1 * u, wanted["trunk"]))
    close(got["heads"], -0.2 * wanted["heads"])
    assert weights_of(state).shape == (T,)


def test_lookahead_around_passes_no_arguments_on():
    """So it serves methods that read gradients alone."""
    given = inputs(T)
    p = optax.LookaheadParams(given.params, given.params)
    ahead = lambda method: optax.lookahead(optax.chain(method, optax.sgd(0.1)), 2, 0.5)
    tx, alone = ahead(mtl.mgda(T)), optax.lookahead(optax.sgd(0.1), 2, 0.5)
    combined, _ = first_update(mtl.mgda(T), given)
    got, _ = tx.update(given.gradients, tx.init(p), p)
    close(got, alone.update(combined, alone.init(p), p)[0])
    with pytest.raises(TypeError, match="unexpected keyword argument 'task_losses'"):
        tx.update(given.gradients, tx.init(p), p, task_losses=given.losses)
    deaf = optax.with_extra_args_support(ahead(mtl.dwa(T)))
    with pytest.raises(ValueError, match="dwa: task_losses is missing"):
        deaf.update(given.gradients, deaf.init(p), p, task_losses=given.losses)
    inside = optax.chain(mtl.mgda(T), optax.lookahead(optax.sgd(0.1), 2, 0.5))
    with pytest.raises(ValueError, match=r"must have the same tree structure.*LookaheadParams"):
        inside.update(given.gradients, inside.init(p), p)


def test_sam_around_passes_no_arguments_on():
    given = inputs(T)
    chain = lambda rate: optax.chain(mtl.mgda(T), optax.sgd(rate))
    tx = optax.contrib.sam(chain(0.1), chain(0.01))
    got, _ = tx.update(given.gradients, tx.init(given.params), given.params)
    combined, _ = first_update(mtl.mgda(T), given)
    np.testing.assert_allclose(flat(got), 0.01 * flat(combined), rtol=1e-5, atol=1e-7)
    with pytest.raises(TypeError, match="unexpected keyword argument 'task_losses'"):
        step(tx, tx.init(given.params), given)
    grown = optax.contrib.sam(chain(0.1), optax.sgd(0.01))
    with jax.numpy_rank_promotion("allow"):
        got, _ = grown.update(given.gradients, grown.init(given.params), given.params)
    assert got["scale"].shape == (T,)


def test_sam_after_takes_no_losses():
    """Its pair of optimisers is asked without the arguments of the call, and with them raises."""
    given = inputs(T)
    tx = optax.chain(mtl.mgda(T), optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01), sync_period=2))
    take = lambda **extra: tx.update(given.gradients, tx.init(given.params), given.params, **extra)
    assert np.all(np.isfinite(flat(take()[0])))
    with pytest.raises(TypeError, match="unexpected keyword argument 'task_losses'"):
        take(task_losses=given.losses)


def test_mechanize_around_raises():
    given = inputs(T)
    tx = optax.contrib.mechanize(optax.chain(mtl.mgda(T), optax.sgd(0.1)))
    with jax.numpy_rank_promotion("allow"), pytest.raises(TypeError, match="dot_general"):
        tx.update(given.gradients, tx.init(given.params), given.params)
    after = optax.chain(mtl.mgda(T), optax.contrib.mechanize(optax.sgd(0.1)))
    updates, _ = after.update(given.gradients, after.init(given.params), given.params)
    assert np.all(np.isfinite(flat(updates)))


def test_multi_steps_around_names_accumulation():
    tx = optax.MultiSteps(optax.chain(mtl.mgda(T), optax.sgd(0.1)), 2)
    # Before 0.2.8 it fails on its own sums before it calls the method.
    old = tuple(int(part) for part in optax.__version__.split(".")[:3]) < (0, 2, 8)
    message = "broadcast" if old else r"use mtl_optax\.accumulate_task_gradients instead"
    with pytest.raises(ValueError, match=message):
        after_steps(tx, inputs(T).params, steps=1)


@pytest.mark.parametrize(
    "around",
    [
        lambda chain: optax.apply_if_finite(chain, 3),
        lambda chain: optax.conditionally_mask(chain, lambda step: step % 2 == 0),
        lambda chain: optax.conditionally_transform(chain, lambda step: step % 2 == 0),
    ],
)
def test_conditional_wrappers_around_raise(around):
    """They return zeros of the shape of what came in, with the task axis."""
    tx = around(optax.chain(mtl.mgda(T), optax.sgd(0.1)))
    with pytest.raises(TypeError, match="branches must have equal"):
        after_steps(tx, inputs(T).params, steps=1)


def test_flatten_around_raises():
    tx = optax.flatten(optax.chain(mtl.mgda(T), optax.sgd(0.1)))
    with pytest.raises(ValueError, match=r"mgda: task_gradients has shape \(51,\), wanted"):
        after_steps(tx, inputs(T).params, steps=1)


# Mixed precision.


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in mtl.list_methods()
        if {"linear", "homogeneous", "deterministic"} <= mtl.method_info(name).properties
    ],
)
def test_scaled_gradients_give_the_same_weights(name):
    """Of methods that are homogeneous, whatever the loss scale, if the losses are the true ones."""
    given, tx = inputs(T), mtl.get(name, T)
    scaled = given._replace(gradients=jax.tree.map(lambda g: 2**10 * g, given.gradients))
    one = jax.jit(lambda g: step(tx, tx.init(g.params), g))
    (updates, state), (large, scaled_state) = one(given), one(scaled)
    np.testing.assert_allclose(weights_of(scaled_state), weights_of(state), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(flat(large), 2**10 * flat(updates), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", ["cagrad", "getmtl", "emtl", "uw"])
def test_a_static_loss_scale_saves_gradients_that_underflow(name):
    """Gradients of size 1e-8 are zero in float16; scaled, cast and unscaled, they count."""
    scale, rows = 2.0**12, np.random.default_rng(0).normal(size=(T, 17))
    rows[1] *= 1e-8
    exact = from_matrix(rows)
    half = lambda factor: jax.tree.map(lambda g: (factor * g).astype(jnp.float16), exact.gradients)
    undone = jax.tree.map(lambda g: g.astype(jnp.float32) / scale, half(scale))
    assert not np.any(flat(half(1.0), tasks=True)[1])
    np.testing.assert_allclose(flat(undone, tasks=True), rows, rtol=0.05, atol=1e-10)
    tx = mtl.get(name, T)
    one = jax.jit(
        lambda gradients: step(tx, tx.init(exact.params), exact._replace(gradients=gradients))
    )
    wanted, wanted_state = one(exact.gradients)
    got, state = one(undone)
    np.testing.assert_allclose(weights_of(state), weights_of(wanted_state), rtol=0.02, atol=1e-3)
    assert relative_error(flat(got), flat(wanted)) < 0.02


def test_bfloat16_gradients_train_float32_parameters():
    """Steps far below bfloat16's resolution add up, and Adam's state is float32 throughout."""
    p, data = params(), batch()
    tx = optax.chain(mtl.mgda(T), optax.adam(1e-4))
    half = lambda tree: jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)

    @jax.jit
    def train(p, state):
        losses, gradients = mtl.value_and_task_grads(losses_of)(half(p), half(data))
        updates, state = tx.update(gradients, state, p, task_losses=losses)
        return optax.apply_updates(p, updates), state

    moved, state = p, tx.init(p)
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for _ in range(50):
        moved, state = train(moved, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == kinds
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((moved, state[1][0].mu)))
    way = np.abs(np.asarray(moved["heads"] - p["heads"]))
    assert 2e-3 < np.median(way) < 6e-3
    _, gradients = mtl.value_and_task_grads(losses_of)(half(p), half(data))
    one = jax.jit(lambda g: mtl.mgda(T).update(g, mtl.mgda(T).init(p), p))
    got, got_state = one(gradients)
    wanted, wanted_state = one(jax.tree.map(lambda g: g.astype(jnp.float32), gradients))
    np.testing.assert_allclose(weights_of(got_state), weights_of(wanted_state), rtol=1e-5)
    assert got["heads"].dtype == jnp.bfloat16
    assert relative_error(got["heads"].astype(jnp.float32), wanted["heads"]) < 2**-8
