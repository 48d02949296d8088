"""Micro-batches train like the batch they make up, and move nothing in between."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import flat, inputs, make, step, tree_gradients
from tests.task_gradients.test_stacked import SHARED, batch, close, losses_of, on_trunk, params
from tests.task_gradients.test_stacked import T as HEADS

T, K = 4, 3


def mean_of(many):
    return jax.tree.map(lambda *x: jnp.mean(jnp.stack(x), axis=0), *many)


def with_optimizer(name):
    method = make(name, T)
    return method if mtl.method_info(name).is_optimizer else optax.chain(method, optax.adam(0.1))


@pytest.mark.parametrize(
    "name", ["mgda", "pcgrad", "graddrop", "dwa", "gradnorm", "meta_weighting", "adatask"]
)
def test_micro_batches_make_one_step_on_their_mean(name):
    """Two full steps; in between, updates are zero and nothing that follows moves."""
    then = with_optimizer(name)
    tx = mtl.accumulate_task_gradients(T, K, then=then)
    take = jax.jit(lambda s, g: step(tx, s, g))
    plain = jax.jit(lambda s, g: step(then, s, g))
    state, plain_state = tx.init(inputs(T).params), then.init(inputs(T).params)
    for large in range(2):
        many = [inputs(T, K * large + seed)._replace(params=inputs(T).params) for seed in range(K)]
        for given in many[:-1]:
            updates, state = take(state, given)
            assert np.all(flat(updates) == 0)
            close(state.inner, plain_state)
        updates, state = take(state, many[-1])
        wanted, plain_state = plain(plain_state, mean_of(many))
        np.testing.assert_allclose(flat(updates), flat(wanted), rtol=1e-4, atol=1e-5)
        close(state.inner, plain_state)
        assert int(state.micro_step) == 0


def test_real_micro_batches_equal_the_large_batch():
    """Shared leaves and heads of a model, three batches of 8 against one of 24."""
    p = params()
    small = [batch(seed) for seed in range(K)]
    large = jax.tree.map(lambda *x: jnp.concatenate(x), *small)
    then = optax.chain(mtl.on_shared(mtl.imtl(HEADS), SHARED), optax.adam(0.1))
    graded = mtl.value_and_task_grads(losses_of, shared=SHARED)
    losses, gradients = graded(p, large)
    wanted, _ = then.update(gradients, then.init(p), p, task_losses=losses)
    for shared in (SHARED, on_trunk):
        tx = mtl.accumulate_task_gradients(HEADS, K, then=then, shared=shared)
        state, moved = tx.init(p), p
        for data in small:
            losses, gradients = graded(moved, data)
            updates, state = jax.jit(tx.update)(gradients, state, moved, task_losses=losses)
            moved = optax.apply_updates(moved, updates)
        close(updates, wanted)


@pytest.mark.nans
def test_a_task_is_averaged_over_the_micro_batches_where_it_was_present():
    """What it holds where it was absent is not looked at, and absent throughout is absent."""
    many = [inputs(T, seed)._replace(params=inputs(T).params) for seed in range(K)]
    masks = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], bool)
    then = mtl.meta_weighting(T, step_size=1.0)
    tx = mtl.accumulate_task_gradients(T, K, then=then)

    def spoil(tree, mask):
        absent = lambda x: jnp.asarray(np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, np.nan))
        return jax.tree.map(absent, tree)

    def mean(trees):
        return jax.tree.map(lambda *x: jnp.asarray(np.nan_to_num(np.nanmean(x, axis=0))), *trees)

    state, plain_state = tx.init(many[0].params), then.init(many[0].params)
    for _ in range(2):  # The first step of this method looks at no query gradient.
        spoiled = []
        for given, mask in zip(many, masks, strict=True):
            spoiled.append(
                given._replace(
                    gradients=spoil(given.gradients, mask),
                    losses=spoil(given.losses, mask),
                    query_gradients=spoil(given.query_gradients, mask),
                )
            )
            updates, state = step(tx, state, spoiled[-1], task_mask=jnp.asarray(mask))
        with pytest.warns(RuntimeWarning, match="empty slice"):
            given = mean(spoiled)
        wanted, plain_state = step(
            then, plain_state, given, task_mask=jnp.array([True, True, True, False])
        )
        close(updates, wanted)
        close(state.inner, plain_state)


@pytest.mark.nans
@pytest.mark.parametrize("labels", ["rows", "leaves", None])
def test_heads_are_averaged_where_their_task_was_present(labels):
    """If their tasks are named; otherwise over all micro-batches."""
    p = {"trunk": jnp.zeros(2), "heads": jnp.zeros((2, 3))}
    head_tasks = {"trunk": -1, "heads": np.arange(2)}
    absent = 0.0 if labels is None else jnp.nan
    gradients = [
        {"trunk": jnp.ones((2, 2)), "heads": jnp.array([[2.0] * 3, [4.0] * 3])},
        {"trunk": jnp.ones((2, 2)), "heads": jnp.array([[4.0] * 3, [absent] * 3])},
    ]
    if labels == "leaves":
        by_name = lambda tree: {**tree, "heads": {"a": tree["heads"][0], "b": tree["heads"][1]}}
        p, gradients = by_name(p), [by_name(g) for g in gradients]
        head_tasks["heads"] = {"a": 0, "b": 1}
    then = mtl.on_shared(mtl.mean_tasks(2), SHARED)
    tx = mtl.accumulate_task_gradients(
        2, 2, then=then, shared=SHARED, head_tasks=None if labels is None else head_tasks
    )
    state = tx.init(p)
    for given, mask in zip(gradients, ([True, True], [True, False]), strict=True):
        updates, state = jax.jit(tx.update)(given, state, p, task_mask=jnp.array(mask))
    first, second = jax.tree.leaves(updates["heads"]) if labels == "leaves" else updates["heads"]
    np.testing.assert_array_equal(first, 3)
    np.testing.assert_array_equal(second, 2 if labels is None else 4)


@pytest.mark.nans
def test_losses_are_averaged_where_present():
    """The scale-invariant weights are one over the mean loss."""
    tx = mtl.accumulate_task_gradients(2, 2, then=mtl.scale_invariant(2))
    gradients, state = jnp.ones((2, 3)), tx.init(jnp.zeros(3))
    for losses, mask in (([1.0, 2.0], [True, True]), ([3.0, jnp.nan], [True, False])):
        _, state = tx.update(
            gradients, state, task_losses=jnp.array(losses), task_mask=jnp.array(mask)
        )
    np.testing.assert_allclose(state.inner.weights, [0.5, 0.5], rtol=1e-6)


def test_low_precision_gradients_are_summed_in_float32():
    """In bfloat16, 256 + 1 is 256."""
    then = mtl.sum_tasks(1)
    tx = mtl.accumulate_task_gradients(1, 4, then=then)
    state = tx.init(jnp.zeros(1, jnp.bfloat16))
    for value in (256, 1, 1, 1):
        updates, state = tx.update(jnp.full((1, 1), value, jnp.bfloat16), state)
        assert updates.dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates, jnp.asarray([259 / 4], jnp.bfloat16))


def test_one_micro_batch_and_scan():
    given = inputs(T)
    once = mtl.accumulate_task_gradients(T, 1, then=mtl.mgda(T))
    got, _ = step(once, once.init(given.params), given)
    wanted, _ = step(mtl.mgda(T), mtl.mgda(T).init(given.params), given)
    close(got, wanted)

    tx = mtl.accumulate_task_gradients(T, 2, then=optax.chain(mtl.mgda(T), optax.sgd(0.1)))
    many = jax.tree.map(lambda *x: jnp.stack(x), *(inputs(T, seed) for seed in range(4)))

    def body(state, g):
        updates, state = step(tx, state, g)
        return state, updates["scale"]

    _, scale = jax.jit(lambda s: jax.lax.scan(body, s, many))(tx.init(given.params))
    assert (np.asarray(scale) != 0).tolist() == [False, True, False, True]


@pytest.mark.nans
def test_a_guard_inside_drops_the_task_and_one_outside_the_micro_batch():
    good = tree_gradients(jnp.ones((2, 17)))
    bad = jax.tree.map(lambda g: g.at[1].set(jnp.nan), good)
    p = jax.tree.map(lambda g: g[0], good)
    inside = mtl.accumulate_task_gradients(2, 2, then=mtl.skip_nonfinite(mtl.sum_tasks(2)))
    outside = mtl.skip_nonfinite(mtl.accumulate_task_gradients(2, 2, then=mtl.sum_tasks(2)))
    for tx, wanted in ((inside, 1), (outside, 2)):
        state = tx.init(p)
        for gradients in (bad, good):
            updates, state = jax.jit(tx.update)(gradients, state, p)
        np.testing.assert_array_equal(flat(updates), wanted)
        assert optax.tree_utils.tree_get(state, "dropped").tolist() == [0, 1]


def test_mistakes_are_named():
    name, given = "accumulate_task_gradients", inputs(T)
    p = given.params
    tx = mtl.accumulate_task_gradients(T, 2, then=mtl.meta_weighting(T))
    state = tx.init(p)
    with pytest.raises(ValueError, match=rf"{name}: task_gradients.* has shape \(4,\), wanted"):
        step(tx, state, given._replace(gradients=p))
    with pytest.raises(ValueError, match=rf"{name}: task_losses has shape \(2,\)"):
        step(tx, state, given._replace(losses=given.losses[:2]))
    with pytest.raises(ValueError, match=rf"{name}: query_gradients.* has shape \(4,\), wanted"):
        step(tx, state, given._replace(query_gradients=p))
    with pytest.raises(ValueError, match=f"{name}: query_gradients must have the tree structure"):
        step(tx, state, given._replace(query_gradients=p["dense"]))
    with pytest.raises(ValueError, match="meta_weighting: query_gradients is missing"):
        step(tx, state, given._replace(query_gradients=None))
    _, mixed = mtl.value_and_task_grads(losses_of, shared=SHARED)(params(), batch())
    then = mtl.on_shared(mtl.mgda(HEADS), SHARED)
    tx = mtl.accumulate_task_gradients(HEADS, 2, then=then, shared=SHARED)
    _, stacked = mtl.value_and_task_grads(losses_of)(params(), batch())
    with pytest.raises(ValueError, match=r"task_gradients\['heads'\] has shape .*shared=\.\.\."):
        tx.update(stacked, tx.init(params()), params())
    for labels, message in (
        (
            {"trunk": -1, "heads": 3},
            r"\['heads'\] of shape \(3, 5\) a task index below num_tasks=3",
        ),
        ({"trunk": -1, "heads": np.arange(2)}, r"along its leading axis, got array\(\[0, 1\]\)"),
        ({"heads": 0}, "must be a tree of task indices with the structure of params"),
    ):
        tx = mtl.accumulate_task_gradients(HEADS, 2, then=then, shared=SHARED, head_tasks=labels)
        with pytest.raises(ValueError, match=f"{name}: head_tasks .*{message}"):
            tx.update(mixed, tx.init(params()), params())
    whole = mtl.accumulate_task_gradients(HEADS, 2, then=then)
    with pytest.raises(ValueError, match=r"task_gradients\['heads'\] has shape \(3, 5\), wanted"):
        whole.update(mixed, whole.init(params()), params())


@pytest.mark.parametrize("x64", [False, True])
def test_strict_dtype_promotion(x64):
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        given = inputs(T, dtype=jnp.float64 if x64 else jnp.float32)
        tx = mtl.accumulate_task_gradients(T, 2, then=mtl.meta_weighting(T))
        state = tx.init(given.params)
        for _ in range(2):
            updates, state = jax.jit(lambda s, g: step(tx, s, g))(state, given)
        assert np.any(flat(updates) != 0)
        assert updates["scale"].dtype == given.params["scale"].dtype
