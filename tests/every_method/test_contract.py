"""The contract, point by point, over every method of the registry."""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import mtl_optax as mtl
from tests.common import (
    AVERAGED,
    METHODS,
    WEIGHTED,
    flat,
    inputs,
    make,
    relative_error,
    step,
    tree_gradients,
    weights_of,
)

T = 5  # No parameter has an axis of five, so that axes of five are those of tasks.
every_method = pytest.mark.parametrize("name", METHODS)
weighted_method = pytest.mark.parametrize("name", WEIGHTED)
DETERMINISTIC = [n for n in METHODS if "deterministic" in mtl.method_info(n).properties]


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), jax.eval_shape(lambda: tree))


class Steps(NamedTuple):
    """A method and its compiled steps: the checks of one method take the same programs."""

    tx: Any
    plain: Callable[..., Any]  # (state, given)
    masked: Callable[..., Any]  # (state, given, mask)
    traces: list[None]  # One for each time that `plain` was traced.


def steps(name, num_tasks=T):
    return _steps(name, num_tasks, jax.config.jax_enable_x64)


@functools.cache
def _steps(name, num_tasks, _x64):
    tx, traces = make(name, num_tasks), []

    def plain(state, given):
        traces.append(None)
        return step(tx, state, given)

    masked = jax.jit(lambda state, given, mask: step(tx, state, given, task_mask=mask))
    return Steps(tx, jax.jit(plain), masked, traces)


def first_update(name, given):
    """The first step from a fresh state."""
    method = steps(name, given.losses.shape[0])
    return method.plain(method.tx.init(given.params), given)


def first_of(tx, given):
    """The first step of another transformation, which one check alone takes."""
    return jax.jit(lambda state, given: step(tx, state, given))(tx.init(given.params), given)


@every_method
def test_updates_have_the_shapes_and_dtypes_of_params(name):
    given = inputs(T)
    updates, _ = first_update(name, given)
    assert shapes(updates) == shapes(given.params)
    assert np.any(flat(updates) != 0)


@every_method
def test_state_keeps_its_shapes_and_the_step_compiles_once(name):
    tx, plain, _, traces = steps(name)
    state = tx.init(inputs(T).params)
    assert isinstance(state, tuple)
    assert hasattr(state, "_fields")
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    before, at_first = shapes(state), None
    for seed in range(3):
        _, state = plain(state, inputs(T, seed))
        assert shapes(state) == before
        at_first = at_first or len(traces)
    assert len(traces) == at_first


@every_method
def test_a_donated_state_can_be_made_anew(name):
    """No array lies in a state twice, and none is the factory's own, in what stands around too."""
    given = inputs(T)
    inside = optax.chain(mtl.track_conflict(T), make(name, T))
    tx = mtl.accumulate_task_gradients(T, 1, then=mtl.skip_nonfinite(inside))
    donating = jax.jit(lambda state, given: step(tx, state, given), donate_argnums=0)
    first, _ = donating(tx.init(given.params), given)
    again, state = donating(tx.init(given.params), given)
    np.testing.assert_array_equal(flat(again), flat(first))
    donating(state, given)


@weighted_method
def test_weights_in_the_state_give_the_update(name):
    tx, plain, *_ = steps(name)
    state = tx.init(inputs(T).params)
    for seed in range(3):
        given = inputs(T, seed)
        updates, state = plain(state, given)
        weights = optax.tree_utils.tree_get(state, "weights")
        assert weights.shape == (T,)
        assert weights.dtype == jnp.float32
        rows = given.gradients
        if name in AVERAGED:
            rows = optax.tree_utils.tree_get(state, "averages")
        wanted = flat(mtl.combine(weights, rows))
        np.testing.assert_allclose(flat(updates), wanted, rtol=1e-6, atol=1e-6)


@weighted_method
def test_combine_false_returns_rows_that_sum_to_the_update(name):
    given = inputs(T)
    rows, _ = first_of(make(name, T, combine=False), given)
    updates, _ = first_update(name, given)
    assert shapes(rows) == shapes(given.gradients)
    np.testing.assert_allclose(flat(rows, tasks=True).sum(0), flat(updates), rtol=1e-5, atol=1e-5)


@every_method
def test_unknown_extra_arguments_are_ignored(name):
    """The program is the same, letter by letter."""
    tx, given = make(name, T), inputs(T)

    def text(**extra):
        def first(given):
            return step(tx, tx.init(given.params), given, **extra)

        return jax.jit(first).lower(given).as_text()

    assert text(value=jnp.array(1.0), unheard_of=3) == text()


@pytest.mark.parametrize("name", [n for n in METHODS if "losses" in mtl.method_info(n).reads])
def test_a_missing_loss_is_an_error_that_names_method_and_argument(name):
    tx, given = make(name, T), inputs(T)
    with pytest.raises(ValueError, match=rf"{name}: task_losses is missing"):
        tx.update(
            given.gradients,
            tx.init(given.params),
            given.params,
            query_gradients=given.query_gradients,
            next_losses=given.losses,
        )
    with pytest.raises(ValueError, match=rf"{name}: task_losses has shape \(5, 1\), wanted \(5,\)"):
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


MALFORMED = [
    (unstacked, ValueError, r"task_gradients\['dense'\]\['bias'\] has shape \(4,\), wanted"),
    (one_leaf_unstacked, ValueError, r"task_gradients\['scale'\] has shape \(\), wanted \(5,"),
    (one_leaf_of_another_shape, ValueError, r"\['scale'\] has shape \(5, 4\), wanted \(5,\)"),
    (one_task_too_many, ValueError, r"has shape \(6, 4\), wanted \(5, 4\)"),
    (lambda g: g.gradients["dense"], ValueError, "must have the same tree structure"),
    (lambda g: {}, ValueError, "task_gradients has no array leaves"),
    (
        lambda g: jax.tree.map(lambda x: x.astype(jnp.int32), g.gradients),
        TypeError,
        "must have a floating dtype, got int32",
    ),
    (lambda g: jax.tree.map(lambda x: 1.0, g.params), TypeError, "must be an array, got float"),
]


@every_method
def test_malformed_task_gradients_are_named_while_tracing(name):
    tx, given = make(name, T), inputs(T)
    state = tx.init(given.params)
    for gradients_of, error, message in MALFORMED:
        bad = given._replace(gradients=gradients_of(given))
        with pytest.raises(error, match=rf"^{name}: .*{message}"):
            jax.eval_shape(lambda state, bad=bad: step(tx, state, bad), state)


@every_method
def test_the_leading_axis_is_checked_without_params(name):
    tx, given = make(name, T), inputs(T)
    with pytest.raises(ValueError, match=rf"{name}: .*wanted a leading axis of num_tasks=5"):
        tx.update(
            one_task_too_many(given),
            tx.init(given.params),
            task_losses=given.losses,
            query_gradients=given.query_gradients,
            next_losses=given.losses,
        )


# Parameters whose own leading axes happen to be T, and whose gradients so pass for a stack.
LIKE_A_STACK = {"kernel": jnp.zeros((T, 2)), "bias": jnp.zeros(T)}


def without_params(tx, state, gradients):
    losses = jnp.ones(T)
    extra = {"task_losses": losses, "next_losses": losses, "query_gradients": gradients}
    return jax.eval_shape(lambda: tx.update(gradients, state, **extra))


@every_method
def test_without_params_the_shapes_given_to_init_are_looked_at(name):
    tx = make(name, T)
    state = tx.init(LIKE_A_STACK)
    stacked = jax.tree.map(lambda p: jnp.zeros((T, *p.shape)), LIKE_A_STACK)
    assert without_params(tx, state, stacked)
    for bad in (LIKE_A_STACK, {**stacked, "bias": LIKE_A_STACK["bias"]}):
        with pytest.raises(
            ValueError, match=rf"^{name}: .*'bias'\] has shape \(5,\), wanted \(5, 5"
        ):
            without_params(tx, state, bad)


@every_method
def test_missing_params_warn_at_the_users_line_where_nothing_tells(name):
    given = inputs(T)
    state = (make(name, T).init(given.params), optax.EmptyState())
    tx = optax.chain(make(name, T), optax.identity())
    wanted = rf"^{name}: params is missing.*tx\.update\(task_gradients, state, params\)"
    with pytest.warns(UserWarning, match=wanted) as caught:
        without_params(tx, state, given.gradients)
    assert [warning.filename for warning in caught] == [__file__]
    tx.init(given.params)
    without_params(tx, state, given.gradients)


def test_missing_params_warn_once():
    tx, state = mtl.mgda(T), mtl.mgda(T).init(jnp.zeros(T))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            tx.update(jnp.eye(T), state)
    assert len(caught) == 1


def test_what_init_saw_tells_inside_shard_map_and_vmap_too():
    tx, mesh = (
        mtl.sum_tasks(2),
        jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,)),
    )
    state = tx.init(jnp.zeros((2, 3)))
    gradients = jnp.ones((2, 2, 3))
    piece = jax.shard_map(
        lambda g: tx.update(g[..., :2], state)[0], mesh=mesh, in_specs=P(), out_specs=P()
    )
    assert piece(gradients).shape == (2, 2)
    assert jax.vmap(lambda g: tx.update(g, state)[0])(gradients[None]).shape == (1, 2, 3)


@every_method
def test_num_tasks_must_be_a_positive_integer(name):
    info = mtl.method_info(name)
    for num_tasks, error in (
        (0, ValueError),
        (-1, ValueError),
        (2.0, TypeError),
        (True, TypeError),
    ):
        with pytest.raises(error, match=rf"num_tasks must be .*{num_tasks}"):
            info.factory(num_tasks, **info.arguments(T))


@every_method
def test_a_malformed_mask_is_named(name):
    tx, given = make(name, T), inputs(T)
    state = tx.init(given.params)
    for mask, error, said in (
        (jnp.ones(T), TypeError, "must be a boolean array"),
        ([True] * T, TypeError, "must be a boolean array"),
        (jnp.ones(T + 1, bool), ValueError, r"has shape \(6,\), wanted \(5,\)"),
    ):
        with pytest.raises(error, match=rf"task_mask {said}"):
            step(tx, state, given, task_mask=mask)


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
    present, absent = [0, 1, 3, 4], 2
    mask = jnp.arange(T) != absent
    full, small = steps(name), steps(name, len(present))
    full_state, small_state = (m.tx.init(inputs(T).params) for m in (full, small))
    for seed in range(4):
        given = inputs(T, seed)
        got, full_state = full.masked(full_state, spoil(given, absent), mask)
        wanted, small_state = small.plain(small_state, subset(given, present))
        assert relative_error(flat(got), flat(wanted)) < 1e-5
    for got, wanted in zip(jax.tree.leaves(full_state), jax.tree.leaves(small_state), strict=True):
        of_present = np.asarray(got)
        for axis, (one, other) in enumerate(zip(got.shape, wanted.shape, strict=True)):
            of_present = np.take(of_present, present, axis) if one != other else of_present
        if got.shape != wanted.shape:
            np.testing.assert_allclose(of_present, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.nans
@every_method
def test_an_absent_tasks_state_stands_still(name):
    given = inputs(T)
    _, state = first_update(name, given)
    mask = jnp.array([True, False, True, True, True])
    _, after = steps(name).masked(state, spoil(given, 1), mask)
    weighted = name in WEIGHTED
    state, after = (state[1:], after[1:]) if weighted else (state, after)  # Without `weights`.
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        if old.ndim and old.shape[0] == T:
            np.testing.assert_array_equal(old[1], new[1])


@pytest.mark.nans
@weighted_method
def test_an_absent_task_has_no_weight_and_none_present_gives_zero(name):
    (tx, _, masked, _), given = steps(name), inputs(T)
    fresh = tx.init(given.params)
    _, state = masked(fresh, spoil(given, 1), jnp.array([True, False, True, True, True]))
    assert weights_of(state)[1] == 0
    assert np.all(np.isfinite(weights_of(state)))
    updates, state = masked(fresh, given, jnp.zeros(T, bool))
    assert np.all(flat(updates) == 0)
    assert np.all(weights_of(state) == 0)


@every_method
def test_vmap_over_seeds_equals_a_loop(name):
    """With `init` inside, as a training over seeds has it."""
    tx = make(name, T)
    many = [inputs(T, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *many)
    updates, _ = jax.jit(jax.vmap(lambda g: step(tx, tx.init(g.params), g)))(stacked)
    for seed, given in enumerate(many):
        wanted, _ = first_update(name, given)
        got = jax.tree.map(lambda u, seed=seed: u[seed], updates)
        np.testing.assert_allclose(flat(got), flat(wanted), rtol=1e-4, atol=1e-5)


@functools.cache
def chained_and_scanned(name):
    """Three steps of the method and an optimiser, in one program; and the method's own."""
    method, many = steps(name), [inputs(T, seed) for seed in range(3)]
    tx = optax.chain(make(name, T), optax.scale(-0.5))
    stacked = jax.tree.map(lambda *x: np.stack(x), *many)

    def body(state, given):
        updates, state = step(tx, state, given)
        return state, updates

    start = tx.init(many[0].params)
    last, scanned = jax.jit(lambda s, given: jax.lax.scan(body, s, given))(start, stacked)
    got = [flat(jax.tree.map(lambda u, at=at: u[at], scanned)) for at in range(3)]
    state, wanted = method.tx.init(many[0].params), []
    for given in many:
        updates, state = method.plain(state, given)
        wanted.append(flat(updates))
    return got, last[0], wanted, state


@every_method
def test_scan_over_steps_equals_a_loop(name):
    got, last, wanted, state = chained_and_scanned(name)
    np.testing.assert_allclose(got[2], -0.5 * wanted[2], rtol=1e-4, atol=1e-5)
    assert shapes(last) == shapes(state)


@every_method
def test_chain_with_an_optimizer(name):
    got, _, wanted, _ = chained_and_scanned(name)
    np.testing.assert_allclose(got[0], -0.5 * wanted[0], rtol=1e-6, atol=1e-7)


@every_method
def test_masked_sees_only_the_chosen_leaves(name):
    given = inputs(T)
    tx = optax.masked(make(name, T), {"dense": True, "scale": False})
    updates, _ = first_of(tx, given)
    alone, _ = first_update(
        name,
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
    wanted, _ = first_update(name, given)
    got, state = first_of(tx, given)
    np.testing.assert_allclose(flat(got), flat(wanted), rtol=1e-5, atol=1e-6)
    numbers = {
        p.name
        for p in inspect.signature(info.factory).parameters.values()
        if isinstance(p.default, (int, float)) and not isinstance(p.default, bool)
    }
    assert numbers <= set(state.hyperparams)


@every_method
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_gradients(name, dtype):
    """The update has the gradients' dtype and the value of float32 to that dtype's rounding."""
    given = inputs(T, dtype=dtype)
    as_float32 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    updates, _ = first_update(name, given)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(updates))
    if mtl.method_info(name).is_optimizer:
        return  # Its arithmetic is that of the optimiser, in the dtype of the gradients.
    wanted, _ = first_update(name, as_float32(given))
    assert relative_error(flat(as_float32(updates)), flat(wanted)) < 2 * float(jnp.finfo(dtype).eps)


@every_method
def test_float64(name):
    with jax.enable_x64(True):
        given = inputs(T, dtype=jnp.float64)
        updates, state = first_update(name, given)
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(updates))
        if name in WEIGHTED:
            assert weights_of(state).dtype == np.float32
        again, _ = first_update(name, given._replace(losses=given.losses.astype(float)))
        assert relative_error(flat(again), flat(updates)) < 1e-6
    wanted, _ = first_update(name, inputs(T))
    assert relative_error(flat(updates), flat(wanted)) < 1e-5


def kernel_with(bad, gradients):
    kernel = gradients["dense"]["kernel"].at[1, 0, 0].set(bad)
    return {**gradients, "dense": {**gradients["dense"], "kernel": kernel}}


@pytest.mark.nans
@every_method
def test_a_nan_gradient_propagates_and_ends(name):
    given = inputs(T)
    gradients, query = (kernel_with(jnp.nan, g) for g in (given.gradients, given.query_gradients))
    updates, _ = first_update(name, given._replace(gradients=gradients, query_gradients=query))
    assert not np.all(np.isfinite(flat(updates)))


@pytest.mark.nans
@every_method
def test_an_infinite_gradient_does_not_vanish(name):
    given = inputs(T)
    updates, _ = first_update(name, given._replace(gradients=kernel_with(jnp.inf, given.gradients)))
    assert not np.all(np.isfinite(flat(updates)))


@pytest.mark.nans
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("name", [n for n in METHODS if "losses" in mtl.method_info(n).reads])
def test_a_non_finite_loss_propagates(name, bad):
    given = inputs(T)
    updates, _ = first_update(name, given._replace(losses=given.losses.at[1].set(bad)))
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
    assert "called as `update(task_gradients, state, params" in " ".join(text.split())
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
        tx, plain, *_ = steps(name)
        tree_weights = weights_of(first_update(name, given)[1])
        alone = given._replace(params=leaf[0], gradients=leaf, query_gradients=leaf)
        leaf_weights = weights_of(plain(tx.init(leaf[0]), alone)[1])
        np.testing.assert_allclose(tree_weights, leaf_weights, rtol=1e-4, atol=1e-5)


def test_tree_gradients_round_trip():
    matrix = np.arange(2 * 17, dtype=np.float32).reshape(2, 17)
    np.testing.assert_array_equal(flat(tree_gradients(matrix), tasks=True), matrix)
