"""Extra arguments of `update`: near misses of what methods read, and what a method declares."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from mtl_optax import _checks, _frame

T = 3
GRADIENTS = jnp.array([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]])
PARAMS = jnp.zeros(2)
ADAM = optax.scale_by_adam()
MAKERS = {
    "mgda": mtl.mgda(T),
    "graddrop": mtl.graddrop(T),
    "adatask": mtl.adatask(T, ADAM),
    "layerwise_adatask": mtl.layerwise_adatask(T),
    "meta_weighting": mtl.meta_weighting(T),
    "per_task": mtl.per_task(T, ADAM),
    "track_conflict": mtl.track_conflict(T),
    "track_dominance": mtl.track_dominance(T),
    "split_step": mtl.split_step(T, ADAM),
    "task_ema": mtl.task_ema(T, 0.9),
    "excess_mtl": mtl.excess_mtl(T),
    "moco": mtl.moco(T),
    "on_shared": mtl.on_shared(mtl.mgda(T), True),
    "skip_nonfinite": mtl.skip_nonfinite(mtl.mgda(T)),
    "accumulate_task_gradients": mtl.accumulate_task_gradients(T, 2, then=mtl.mgda(T)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_misspelt_mask_is_an_error(name):
    tx = MAKERS[name]
    with pytest.raises(ValueError, match=f"{name}: .*'mask'.*Did you mean 'task_mask'"):
        tx.update(GRADIENTS, tx.init(PARAMS), PARAMS, mask=jnp.array([True, True, False]))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("task_masks", "task_mask"),
        ("taskMask", "task_mask"),
        ("taks_mask", "task_mask"),
        ("losses", "task_losses"),
        ("task_loss", "task_losses"),
        ("query_grads", "query_gradients"),
        ("next_loss", "next_losses"),
    ],
)
def test_near_misses_name_what_is_meant(given, meant):
    tx = mtl.mgda(T)
    with pytest.raises(ValueError, match=f"'{given}'. Did you mean '{meant}'"):
        tx.update(GRADIENTS, tx.init(PARAMS), PARAMS, **{given: jnp.ones(T)})


def test_what_optax_reads_is_no_near_miss():
    """Every keyword of an update in the installed optax reaches it through a method."""
    names = {
        argument.arg
        for file in Path(optax.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and "update" in node.name
        for argument in node.args.kwonlyargs
    }
    assert {"value", "grad", "value_fn"} <= names
    names.add("loss")  # The example in the docstring of optax.GradientTransformationExtraArgs.
    _checks.check_extra("mgda", dict.fromkeys(names))
    tx = optax.chain(mtl.mean_tasks(T), optax.contrib.reduce_on_plateau())
    tx.update(GRADIENTS, tx.init(PARAMS), PARAMS, value=jnp.array(1.0))


def needs_salt():
    """A transformation that requires an argument of its own."""

    def update(updates, state, params=None, *, salt, **extra):
        del params, extra
        return jax.tree.map(lambda u: u * salt, updates), state

    return optax.GradientTransformationExtraArgs(lambda _: (), update)


def test_query_gradients_are_summed_behind_a_transformation_with_arguments():
    """The step on the mean of two batches, from a state that saw both query gradients."""
    then = optax.chain(needs_salt(), mtl.meta_weighting(T), optax.sgd(0.1))
    tx = mtl.accumulate_task_gradients(T, 2, then=then)
    state = tx.init(PARAMS)
    many = [(GRADIENTS, GRADIENTS[::-1]), (3 * GRADIENTS, 5 * GRADIENTS)]
    for gradients, query in many:
        updates, state = tx.update(gradients, state, PARAMS, salt=1.0, query_gradients=query)
    mean = lambda *x: sum(x) / len(x)
    gradients, query = jax.tree.map(mean, *many)
    wanted = then.update(gradients, then.init(PARAMS), PARAMS, salt=1.0, query_gradients=query)
    np.testing.assert_allclose(updates, wanted[0], rtol=1e-6)
    inner, expected = jax.tree.leaves(state.inner), jax.tree.leaves(wanted[1])
    for ours, theirs in zip(inner, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_guard_finds_the_tasks_behind_a_transformation_with_arguments():
    tx = mtl.skip_nonfinite(optax.chain(needs_salt(), mtl.mean_tasks(T)))
    state = tx.init(PARAMS)
    assert state.dropped.shape == (T,)
    updates, _ = tx.update(GRADIENTS, state, PARAMS, salt=2.0)
    np.testing.assert_allclose(updates, 2 * np.mean(GRADIENTS, axis=0), rtol=1e-6)


def test_guard_refuses_parts_for_different_numbers_of_tasks():
    parts = optax.chain(mtl.track_conflict(2), mtl.mean_tasks(T))
    with pytest.raises(ValueError, match="track_conflict for 2, mean_tasks for 3"):
        mtl.skip_nonfinite(parts).init(PARAMS)


def test_nothing_is_heard_after_a_failure():
    """An init that raises leaves no listener behind."""

    def fail(params):
        raise RuntimeError("no state")

    broken = optax.GradientTransformationExtraArgs(fail, lambda g, s, p=None, **_: (g, s))
    with pytest.raises(RuntimeError, match="no state"):
        mtl.skip_nonfinite(broken).init(PARAMS)
    assert _frame._HEARD.get() is None
