"""The contract, point by point, over every method of the registry."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import (
    LINEAR,
    METHODS,
    first_update,
    flat,
    inputs,
    make,
    relative_error,
    step,
    tree_gradients,
    weights_of,
)

T = 4
every_method = pytest.mark.parametrize("name", METHODS)
linear_method = pytest.mark.parametrize("name", LINEAR)
DETERMINISTIC = [n for n in METHODS if "deterministic" in mtl.method_info(n).properties]


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), jax.eval_shape(lambda: tree))


@every_method
def test_updates_have_the_shapes_and_dtypes_of_params(name):
    given = inputs(T)
    updates, _ = first_update(make(name, T), given)
    assert shapes(updates) == shapes(given.params)
    assert np.any(flat(updates) != 0)


@every_method
def test_state_keeps_its_shapes_and_the_step_compiles_once(name):
    tx = make(name, T)
    traces = []

    @jax.jit
    def jitted(state, given):
        traces.append(None)
        return step(tx, state, given)

    state = tx.init(inputs(T).params)
    assert isinstance(state, tuple)
    assert hasattr(state, "_fields")
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    before = shapes(state)
    for seed in range(3):
        _, state = jitted(state, inputs(T, seed))
        assert shapes(state) == before
    assert len(traces) == 1


AROUND = {
    "track_conflict": lambda method: optax.chain(mtl.track_conflict(T), method),
    "skip_nonfinite": mtl.skip_nonfinite,
    "accumulate": lambda method: mtl.accumulate_task_gradients(T, 1, then=method),
}


@pytest.mark.parametrize("around", AROUND)
@every_method
def test_a_donated_state_can_be_made_anew(name, around):
    """No array lies in a state twice, and none is the factory's own."""
    given = inputs(T)
    tx = AROUND[around](make(name, T))
    donating = jax.jit(lambda state: step(tx, state, given), donate_argnums=0)
    first, _ = donating(tx.init(given.params))
    again, state = donating(tx.init(given.params))
    np.testing.assert_array_equal(flat(again), flat(first))
    donating(state)


@linear_method
def test_weights_in_the_state_give_the_update(name):
    tx = make(name, T)
    state = tx.init(inputs(T).params)
    for seed in range(3):
        given = inputs(T, seed)
        updates, state = jax.jit(lambda s, g: step(tx, s, g))(state, given)
        weights = optax.tree_utils.tree_get(state, "weights")
        assert weights.shape == (T,)
        assert weights.dtype == jnp.float32
        wanted = flat(mtl.combine(weights, given.gradients))
        np.testing.assert_allclose(flat(updates), wanted, rtol=1e-6, atol=1e-6)


@linear_method
def test_combine_false_returns_rows_that_sum_to_the_update(name):
    given = inputs(T)
    rows, _ = first_update(make(name, T, combine=False), given)
    updates, _ = first_update(make(name, T), given)
    assert shapes(rows) == shapes(given.gradients)
    np.testing.assert_allclose(flat(rows, tasks=True).sum(0), flat(updates), rtol=1e-5, atol=1e-5)


@every_method
def test_unknown_extra_arguments_are_ignored(name):
    given = inputs(T)
    plain, _ = first_update(make(name, T), given)
    extra, _ = first_update(make(name, T), given, value=jnp.array(1.0), unheard_of=3)
    np.testing.assert_array_equal(flat(plain), flat(extra))


@pytest.mark.parametrize("name", [n for n in METHODS if "losses" in mtl.method_info(n).reads])
def test_a_missing_loss_is_an_error_that_names_method_and_argument(name):
    tx, given = make(name, T), inputs(T)
    with pytest.raises(ValueError, match=rf"{name}: task_losses is missing"):
        tx.update(
            given.gradients,
            tx.init(given.params),
            given.params,
            query_gradients=given.query_gradients,
        )
    with pytest.raises(ValueError, match=rf"{name}: task_losses has shape \(4, 1\), wanted \(4,\)"):
        step(tx, tx.init(given.params), given._replace(losses=given.losses[:, None]))
    with pytest.raises(TypeError, match=rf"{name}: task_losses must be an array, got list"):
        step(tx, tx.init(given.params), given._replace(losses=[1.0] * T))


def unstacked(given):
    return given.params


def one_leaf_unstacked(given):
    return {**given.gradients, "scale": given.params["scale"]}


def one_leaf_of_another_shape(given):
    return {**given.gradients, "scale": given.gradients["dense"]["bias"]}


def one_task_too_many(given):
    return jax.tree.map(lambda g: jnp.concatenate([g, g[:1]]), given.gradients)


@every_method
@pytest.mark.parametrize(
    ("gradients_of", "error", "message"),
    [
        (unstacked, ValueError, r"task_gradients\['dense'\]\['bias'\] has shape \(4,\), wanted"),
        (one_leaf_unstacked, ValueError, r"task_gradients\['scale'\] has shape \(\), wanted \(4,"),
        (one_leaf_of_another_shape, ValueError, r"\['scale'\] has shape \(4, 4\), wanted \(4,\)"),
        (one_task_too_many, ValueError, r"has shape \(5, 4\), wanted \(4, 4\)"),
        (lambda g: g.gradients["dense"], ValueError, "must have the same tree structure"),
        (lambda g: {}, ValueError, "task_gradients has no array leaves"),
        (
            lambda g: jax.tree.map(lambda x: x.astype(jnp.int32), g.gradients),
            TypeError,
            "must have a real floating dtype, got int32",
        ),
        (lambda g: jax.tree.map(lambda x: 1.0, g.params), TypeError, "must be an array, got float"),
    ],
)
def test_malformed_task_gradients_are_named_while_tracing(name, gradients_of, error, message):
    tx, given = make(name, T), inputs(T)
    bad = given._replace(gradients=gradients_of(given))
    with pytest.raises(error, match=rf"^{name}: .*{message}"):
        jax.eval_shape(lambda: step(tx, tx.init(given.params), bad))


@every_method
def test_the_leading_axis_is_checked_without_params(name):
    tx, given = make(name, T), inputs(T)
    with pytest.raises(ValueError, match=rf"{name}: .*wanted a leading axis of num_tasks=4"):
        tx.update(
            one_task_too_many(given),
            tx.init(given.params),
            task_losses=given.losses,
            query_gradients=given.query_gradients,
        )


@every_method
@pytest.mark.parametrize(
    ("num_tasks", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_num_tasks_must_be_a_positive_integer(name, num_tasks, error):
    info = mtl.method_info(name)
    with pytest.raises(error, match="num_tasks must be"):
        info.factory(num_tasks, **info.arguments(T))


@every_method
@pytest.mark.parametrize(
    ("mask", "error"),
    [(jnp.ones(T), TypeError), ([True] * T, TypeError), (jnp.ones(T + 1, bool), ValueError)],
)
def test_a_malformed_mask_is_named(name, mask, error):
    tx, given = make(name, T), inputs(T)
    with pytest.raises(error, match="task_mask"):
        step(tx, tx.init(given.params), given, task_mask=mask)


def subset(given, tasks):
    rows = np.array(tasks)
    return given._replace(
        gradients=jax.tree.map(lambda g: g[rows], given.gradients),
        losses=given.losses[rows],
        query_gradients=jax.tree.map(lambda g: g[rows], given.query_gradients),
    )


def spoil(given, task):
    """Puts NaN wherever the step speaks of `task`."""
    nan = lambda g: g.at[task].set(jnp.nan)
    return given._replace(
        gradients=jax.tree.map(nan, given.gradients),
        losses=nan(given.losses),
        query_gradients=jax.tree.map(nan, given.query_gradients),
    )


@pytest.mark.nans
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_an_absent_task_changes_nothing_for_the_others(name):
    """Masked steps equal those of the method built for the present tasks, state included."""
    present, absent = [0, 1, 3], 2
    mask = jnp.arange(T) != absent
    full, small = make(name, T), make(name, len(present))
    full_step = jax.jit(lambda s, g: step(full, s, g, task_mask=mask))
    small_step = jax.jit(lambda s, g: step(small, s, g))
    full_state, small_state = full.init(inputs(T).params), small.init(inputs(T).params)
    for seed in range(4):
        given = inputs(T, seed)
        got, full_state = full_step(full_state, spoil(given, absent))
        wanted, small_state = small_step(small_state, subset(given, present))
        assert relative_error(flat(got), flat(wanted)) < 1e-5
    for got, wanted in zip(jax.tree.leaves(full_state), jax.tree.leaves(small_state), strict=True):
        if got.shape != wanted.shape:
            np.testing.assert_allclose(got[np.array(present)], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.nans
@every_method
def test_an_absent_tasks_state_stands_still(name):
    num_tasks = 5  # No parameter has an axis of five, so these are the leaves with a task axis.
    tx, given = make(name, num_tasks), inputs(num_tasks)
    _, state = first_update(tx, given)
    mask = jnp.array([True, False, True, True, True])
    _, after = jax.jit(lambda s, g: step(tx, s, g, task_mask=mask))(state, spoil(given, 1))
    linear = name in LINEAR
    state, after = (state[1:], after[1:]) if linear else (state, after)  # Without `weights`.
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        if old.ndim and old.shape[0] == num_tasks:
            np.testing.assert_array_equal(old[1], new[1])


@pytest.mark.nans
@linear_method
def test_an_absent_task_has_no_weight_and_none_present_gives_zero(name):
    tx, given = make(name, T), inputs(T)
    _, state = first_update(tx, spoil(given, 1), task_mask=jnp.array([True, False, True, True]))
    assert weights_of(state)[1] == 0
    assert np.all(np.isfinite(weights_of(state)))
    updates, state = first_update(tx, given, task_mask=jnp.zeros(T, bool))
    assert np.all(flat(updates) == 0)
    assert np.all(weights_of(state) == 0)


@every_method
def test_vmap_over_seeds_equals_a_loop(name):
    tx = make(name, T)
    many = [inputs(T, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *many)
    updates, _ = jax.jit(jax.vmap(lambda g: step(tx, tx.init(g.params), g)))(stacked)
    for seed, given in enumerate(many):
        wanted, _ = first_update(tx, given)
        got = jax.tree.map(lambda u, seed=seed: u[seed], updates)
        np.testing.assert_allclose(flat(got), flat(wanted), rtol=1e-4, atol=1e-5)


@every_method
def test_scan_over_steps_equals_a_loop(name):
    tx = make(name, T)
    many = [inputs(T, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *many)

    def body(state, given):
        updates, state = step(tx, state, given)
        return state, updates

    start = tx.init(many[0].params)
    last, scanned = jax.jit(lambda s: jax.lax.scan(body, s, stacked))(start)
    state = start
    for given in many:
        updates, state = jax.jit(lambda s, g: step(tx, s, g))(state, given)
    np.testing.assert_allclose(
        flat(jax.tree.map(lambda u: u[-1], scanned)), flat(updates), rtol=1e-4, atol=1e-5
    )
    assert shapes(last) == shapes(state)


@every_method
def test_chain_with_an_optimizer(name):
    given = inputs(T)
    tx = optax.chain(make(name, T), optax.scale(-0.5))
    plain, _ = first_update(make(name, T), given)
    chained, _ = first_update(tx, given)
    np.testing.assert_allclose(flat(chained), -0.5 * flat(plain), rtol=1e-6)


@every_method
def test_masked_sees_only_the_chosen_leaves(name):
    given = inputs(T)
    chosen = {"dense": True, "scale": False}
    tx = optax.masked(make(name, T), chosen)
    updates, _ = first_update(tx, given)
    alone, _ = first_update(
        make(name, T),
        given._replace(
            params=given.params["dense"],
            gradients=given.gradients["dense"],
            query_gradients=given.query_gradients["dense"],
        ),
    )
    np.testing.assert_array_equal(updates["dense"]["kernel"], alone["kernel"])
    np.testing.assert_array_equal(updates["scale"], given.gradients["scale"])


@every_method
def test_inject_hyperparams(name):
    info, given = mtl.method_info(name), inputs(T)
    injected = optax.inject_hyperparams(info.factory, static_args=("num_tasks",))
    tx = injected(num_tasks=T, **info.arguments(T))
    wanted, _ = first_update(make(name, T), given)
    got, state = first_update(tx, given)
    np.testing.assert_allclose(flat(got), flat(wanted), rtol=1e-5, atol=1e-6)
    numbers = {
        p.name
        for p in inspect.signature(info.factory).parameters.values()
        if isinstance(p.default, (int, float)) and not isinstance(p.default, bool)
    }
    assert numbers <= set(state.hyperparams)


@every_method
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision_gradients(name, dtype):
    """The update has the gradients' dtype and the value of float32 to that dtype's rounding."""
    given = inputs(T, dtype=dtype)
    as_float32 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    updates, _ = first_update(make(name, T), given)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(updates))
    if mtl.method_info(name).is_optimizer:
        return  # Its arithmetic is that of the optimiser, in the dtype of the gradients.
    wanted, _ = first_update(make(name, T), jax.tree.map(as_float32, given))
    assert relative_error(flat(as_float32(updates)), flat(wanted)) < 2 * float(jnp.finfo(dtype).eps)


@every_method
def test_float64(name):
    with jax.enable_x64(True):
        given = inputs(T, dtype=jnp.float64)
        updates, state = first_update(make(name, T), given)
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(updates))
        if name in LINEAR:
            assert weights_of(state).dtype == np.float32
        again, _ = first_update(make(name, T), given._replace(losses=given.losses.astype(float)))
        assert relative_error(flat(again), flat(updates)) < 1e-6
    wanted, _ = first_update(make(name, T), inputs(T))
    assert relative_error(flat(updates), flat(wanted)) < 1e-5


@pytest.mark.nans
@every_method
def test_a_nan_gradient_propagates_and_ends(name):
    given = inputs(T)
    bad = given.gradients["dense"]["kernel"].at[1, 0, 0].set(jnp.nan)
    gradients = {**given.gradients, "dense": {**given.gradients["dense"], "kernel": bad}}
    query = {**given.query_gradients, "dense": {**given.query_gradients["dense"], "kernel": bad}}
    updates, _ = first_update(
        make(name, T), given._replace(gradients=gradients, query_gradients=query)
    )
    assert not np.all(np.isfinite(flat(updates)))


@pytest.mark.nans
@every_method
def test_an_infinite_gradient_does_not_vanish(name):
    given = inputs(T)
    bad = given.gradients["dense"]["kernel"].at[1, 0, 0].set(jnp.inf)
    gradients = {**given.gradients, "dense": {**given.gradients["dense"], "kernel": bad}}
    updates, _ = first_update(make(name, T), given._replace(gradients=gradients))
    assert not np.all(np.isfinite(flat(updates)))


@pytest.mark.nans
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("name", [n for n in METHODS if "losses" in mtl.method_info(n).reads])
def test_a_non_finite_loss_propagates(name, bad):
    given = inputs(T)
    updates, _ = first_update(make(name, T), given._replace(losses=given.losses.at[1].set(bad)))
    assert np.all(np.isnan(flat(updates)))


@every_method
def test_docstring_states_what_the_contract_asks_for(name):
    text = inspect.getdoc(mtl.method_info(name).factory)
    for part in (
        "Args:",
        "Returns:",
        "References:",
        "Example:",
        ">>>",
        "num_tasks: the number T of tasks",
    ):
        assert part in text
    assert "scale" in text.lower()
    for parameter in inspect.signature(mtl.method_info(name).factory).parameters:
        assert f"{parameter}: " in text


def test_the_registry_and_the_public_face_agree():
    for name in METHODS:
        assert getattr(mtl, name) is mtl.method_info(name).factory
        assert mtl.method_info(name).name == name


def test_gradients_of_one_leaf_and_of_many_agree():
    given = inputs(T)
    leaf = jnp.concatenate(
        [g.reshape(T, -1) for g in (*given.gradients["dense"].values(), given.gradients["scale"])],
        axis=1,
    )
    for name in ("mgda", "cagrad", "pcgrad"):
        tree_weights = weights_of(first_update(make(name, T), given)[1])
        tx = make(name, T)
        leaf_weights = weights_of(tx.update(leaf, tx.init(leaf[0]))[1])
        np.testing.assert_allclose(tree_weights, leaf_weights, rtol=1e-4, atol=1e-5)


def test_tree_gradients_round_trip():
    matrix = np.arange(2 * 17, dtype=np.float32).reshape(2, 17)
    np.testing.assert_array_equal(flat(tree_gradients(matrix), tasks=True), matrix)
