"""`check_updates` finds what would make a parameter grow, and costs nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl

PLAIN = {"trunk": jnp.ones(4), "heads": jnp.ones(2)}
# What leaves the heads stacked: freezing as Optax shows it, and no method that combines.
LABELS = {"trunk": "train", "heads": "freeze"}
FROZEN = {"trunk": False, "heads": True}
UNCOMBINED = {
    "partition": lambda tx: optax.partition({"train": tx, "freeze": optax.set_to_zero()}, LABELS),
    "selective_transform": lambda tx: optax.selective_transform(tx, freeze_mask=FROZEN),
    "masked": lambda tx: optax.masked(tx, {"trunk": True, "heads": False}),
    "no method": lambda tx: optax.adam(0.1),
    "combine": lambda tx: optax.chain(mtl.pcgrad(2, combine=False), optax.adam(0.1)),
}
COMBINED = {
    "freeze before": lambda tx: optax.chain(optax.freeze(FROZEN), tx),
    "freeze after": lambda tx: optax.chain(tx, optax.freeze(FROZEN)),
    "partition after": lambda tx: optax.chain(
        mtl.mgda(2),
        optax.partition({"train": optax.adam(0.1), "freeze": optax.set_to_zero()}, LABELS),
    ),
}
ALL_STACKED = {"trunk": jnp.ones((2, 4)), "heads": jnp.ones((2, 2))}


@pytest.mark.parametrize("how", UNCOMBINED)
@pytest.mark.parametrize("compiled", [False, True])
def test_an_update_that_would_make_a_parameter_grow_is_named(how, compiled):
    unchecked = UNCOMBINED[how](optax.chain(mtl.mgda(2), optax.adam(0.1)))
    tx = mtl.check_updates(unchecked)
    wrap = jax.jit if compiled else lambda fun: fun
    with jax.numpy_rank_promotion("allow"):
        # What happens without: `optax.apply_updates` says nothing.
        updates, _ = unchecked.update(ALL_STACKED, unchecked.init(PLAIN), PLAIN)
        assert optax.apply_updates(PLAIN, updates)["heads"].shape == (2, 2)
        message = r"check_updates: updates\['heads'\] has shape \(2, 2\), .* \(2,\)\. Added"
        with pytest.raises(ValueError, match=message):
            wrap(tx.update)(ALL_STACKED, tx.init(PLAIN), PLAIN)


@pytest.mark.parametrize("how", COMBINED)
def test_what_freezes_passes_the_check_and_compiles_to_the_same(how):
    tx = COMBINED[how](optax.chain(mtl.mgda(2), optax.adam(0.1)))
    state = tx.init(PLAIN)
    plain, checked = (
        jax.make_jaxpr(one.update)(ALL_STACKED, state, PLAIN, task_losses=jnp.ones(2))
        for one in (tx, mtl.check_updates(tx))
    )
    assert str(checked) == str(plain)
    assert jax.tree.structure(mtl.check_updates(tx).init(PLAIN)) == jax.tree.structure(state)
    updates, _ = mtl.check_updates(tx).update(ALL_STACKED, state, PLAIN, task_losses=jnp.ones(2))
    np.testing.assert_array_equal(updates["heads"], 0)
    np.testing.assert_allclose(updates["trunk"], -0.1, rtol=1e-4)


def test_what_is_frozen_before_the_method_is_not_differentiated():
    """In a compiled step, whose operations are counted: as if the leaf were no parameter."""
    params = {"base": jnp.ones((8, 64)), "heads": jnp.ones((64, 2))}
    x, trained = jnp.ones((128, 8)), {"heads": params["heads"]}
    losses_of = lambda p: jnp.mean((x @ p["base"] @ p["heads"]) ** 2, axis=0)
    frozen = optax.freeze({"base": True, "heads": False})

    def flops(tx, losses_of, params):
        def step(params, state):
            losses, gradients = mtl.value_and_task_grads(losses_of)(params)
            return tx.update(gradients, state, params, task_losses=losses)

        compiled = jax.jit(step).lower(params, tx.init(params)).compile()
        return compiled.cost_analysis()["flops"]

    alone = flops(mtl.mgda(2), lambda p: losses_of({**params, **p}), trained)
    assert flops(optax.chain(frozen, mtl.mgda(2)), losses_of, params) < 1.1 * alone
    assert flops(optax.chain(mtl.mgda(2), frozen), losses_of, params) > 1.3 * alone


def test_leaves_that_are_none_are_no_leaves():
    params, gradients = {**PLAIN, "none": None}, {**ALL_STACKED, "none": None}
    tx = mtl.check_updates(optax.chain(mtl.mgda(2), optax.sgd(0.1)))
    updates, state = tx.update(gradients, tx.init(params), params)
    assert optax.apply_updates(params, updates)["none"] is None
    assert mtl.task_weights(state).shape == (2,)
    with pytest.raises(ValueError, match=r"updates\['heads'\] has shape \(2, 2\)"):
        mtl.check_updates(optax.sgd(0.1)).update(gradients, optax.sgd(0.1).init(params), params)
