"""Every method and every way lowers for CPU, CUDA and TPU, where there is no such device."""

import jax
import jax.export
import jax.numpy as jnp
import optax
import pytest

import mtl_optax as mtl
from tests.common import METHODS, inputs, make, one_step, step
from tests.every_method.test_eager import FEW, OPTIONS
from tests.task_gradients.test_stacked import SHARED, T, batch, features, params

PLATFORMS = ("cpu", "cuda", "tpu")


def lower(fun, *examples):
    """Lowers `fun` on the shapes of the examples."""
    abstract = jax.eval_shape(lambda: examples)
    exported = jax.export.export(jax.jit(fun), platforms=PLATFORMS)(*abstract)
    assert exported.platforms == PLATFORMS
    return exported


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in METHODS), *OPTIONS, ("mgda", {"combine": False})],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_method_lowers(name, options):
    tx, given = make(name, FEW, **options), inputs(FEW)
    state = tx.init(given.params)
    exported = lower(lambda state, given: step(tx, state, given), state, given)
    wanted = jax.tree.structure((given.params, state))
    assert exported.out_tree == wanted


def marked_losses_of(p, data):
    z = mtl.mark_features(features(p, data["x"]))
    return jnp.mean((z @ p["heads"].T - data["y"]) ** 2, axis=0)


@pytest.mark.parametrize(
    ("way", "method", "heads"),
    [
        ("stacked", mtl.nash_mtl(T), "unweighted"),
        ("stacked", mtl.uw(T), "weighted"),
        ("stacked", mtl.adatask(T, optax.sgd(1.0)), optax.sgd(1.0)),
        ("taps", mtl.bandit_mtl(T), "weighted"),
        ("taps", mtl.cagrad(T), "unweighted"),
        ("rows", mtl.mgda(T), "unweighted"),
        ("rows", mtl.gradnorm(T), "unweighted"),
        ("features", mtl.imtl(T), "unweighted"),
    ],
)
def test_a_way_lowers(way, method, heads):
    step, init = one_step(marked_losses_of, method, way, shared=SHARED, heads=heads)
    p, data = params(), batch()
    exported = lower(step, p, init(p), data)
    wanted = jax.tree.structure((data["y"], p, init(p)))
    assert exported.out_tree == wanted
