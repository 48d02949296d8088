"""Every method and every way lowers for CPU, CUDA and TPU, where there is no such device."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import optax
import pytest

import mtl_optax as mtl
from tests.common import METHODS, inputs, make, step
from tests.every_method.test_eager import FEW, OPTIONS
from tests.task_gradients.test_stacked import SHARED, T, batch, features, losses_of, params

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
    ids=str,
)
def test_a_method_lowers(name, options):
    tx, given = make(name, FEW, **options), inputs(FEW)
    state = tx.init(given.params)
    exported = lower(lambda state, given: step(tx, state, given), state, given)
    wanted = jax.tree.structure((given.params, state))
    assert exported.out_tree == wanted


def stacked(method, **heads):
    tx = mtl.on_shared(method, SHARED, **heads)

    def way(p, state, data):
        losses, gradients = mtl.value_and_task_grads(losses_of, shared=SHARED)(p, data)
        return losses, *tx.update(gradients, state, p, task_losses=losses)

    return way, tx.init


def losses_only(method):
    return mtl.weighted_value_and_grad(losses_of, method), method.init


def streamed(method):
    return mtl.streamed_value_and_grad(losses_of, method, shared=SHARED), method.init


def at_features(method):
    encoder = lambda p, data: features(p, data["x"])
    decoder = lambda p, z, data: jnp.mean((z @ p["heads"].T - data["y"]) ** 2, axis=0)
    return mtl.feature_value_and_grad(encoder, decoder, method), method.init


@pytest.mark.parametrize(
    ("way", "method"),
    [
        (stacked, mtl.nash_mtl(T)),
        (functools.partial(stacked, heads="weighted", head_tasks=0), mtl.uw(T)),
        (functools.partial(stacked, heads=optax.sgd(1.0)), mtl.adatask(T, optax.sgd(1.0))),
        (losses_only, mtl.bandit_mtl(T)),
        (streamed, mtl.mgda(T)),
        (streamed, mtl.gradnorm(T)),
        (at_features, mtl.imtl(T)),
    ],
)
def test_a_way_lowers(way, method):
    step, init = way(method)
    p, data = params(), batch()
    exported = lower(step, p, init(p), data)
    wanted = jax.tree.structure((data["y"], p, init(p)))
    assert exported.out_tree == wanted
