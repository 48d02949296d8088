"""Every method and every way lowers for CPU, CUDA and TPU, where there is no such device."""

import jax
import jax.export
import jax.numpy as jnp
import pytest

import mtl_optax as mtl
from tests.common import METHODS, inputs, make, one_step, step
from tests.task_gradients.test_stacked import SHARED, T, batch, features, params

PLATFORMS = ("cpu", "cuda", "tpu")


def lower(fun, *examples):
    """Lowers `fun` on the shapes of the examples."""
    abstract = jax.eval_shape(lambda: examples)
    exported = jax.export.export(jax.jit(fun), platforms=PLATFORMS)(*abstract)
    assert exported.platforms == PLATFORMS
    return exported


@pytest.mark.parametrize("name", METHODS)
def test_a_method_lowers(name):
    tx, given = make(name, T), inputs(T)
    state = tx.init(given.params)
    exported = lower(lambda state, given: step(tx, state, given), state, given)
    wanted = jax.tree.structure((given.params, state))
    assert exported.out_tree == wanted


def marked_losses_of(p, data):
    z = mtl.mark_features(features(p, data["x"]))
    return jnp.mean((z @ p["heads"].T - data["y"]) ** 2, axis=0)


@pytest.mark.parametrize(
    ("way", "method"),
    [
        ("stacked", mtl.nash_mtl(T)),
        ("taps", mtl.bandit_mtl(T)),
        ("taps", mtl.cagrad(T)),
        ("rows", mtl.mgda(T)),
        ("rows", mtl.gradnorm(T)),
        ("features", mtl.imtl(T)),
    ],
)
def test_a_way_lowers(way, method):
    step, init = one_step(marked_losses_of, method, way, shared=SHARED)
    p, data = params(), batch()
    exported = lower(step, p, init(p), data)
    wanted = jax.tree.structure((data["y"], p, init(p)))
    assert exported.out_tree == wanted
