"""Trains on scikit-learn's digits, in one process or in one of several that share the batch.

The trunk's kernel is cut over all devices, so that it and its gradients, and not the batch alone,
lie in several processes. `test_processes` compares what is saved.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from sklearn.datasets import load_digits

import mtl_optax as mtl

P = PartitionSpec
T = 2
STEPS = 5
SPECS = {"trunk": P("data", None), "digit": P(), "parity": P()}
SHARED = {"trunk": True, "digit": False, "parity": False}


def encoder(params, data):
    return jnp.tanh(data["x"] @ jax.sharding.reshard(params["trunk"], P()))


def decoder(params, features, data):
    entropy = optax.softmax_cross_entropy_with_integer_labels
    digit = entropy(features @ params["digit"], data["y"])
    return jnp.stack([digit.mean(), entropy(features @ params["parity"], data["y"] % 2).mean()])


def losses_of(params, data):
    return decoder(params, encoder(params, data), data)


def stacked(tx):
    def way(params, state, data):
        losses, gradients = mtl.value_and_task_grads(losses_of, shared=SHARED)(params, data)
        return losses, *tx.update(gradients, state, params, task_losses=losses)

    return way, tx.init


def ways():
    yield stacked(mtl.on_shared(mtl.pcgrad(T), SHARED))
    yield stacked(mtl.on_shared(mtl.adatask(T, optax.sgd(1.0)), SHARED, heads=optax.sgd(1.0)))
    method = mtl.uw(T)
    yield mtl.weighted_value_and_grad(losses_of, method), method.init
    method = mtl.cagrad(T)
    yield mtl.streamed_value_and_grad(losses_of, method, shared=SHARED), method.init
    method = mtl.mgda(T)
    yield mtl.feature_value_and_grad(encoder, decoder, method), method.init


def train(mesh):
    """Returns the losses of every step and the last parameters, by way."""
    rng = np.random.default_rng(0)
    sizes = {"trunk": (64, 32), "digit": (32, 10), "parity": (32, 2)}
    start = {name: rng.normal(size=size) / 8 for name, size in sizes.items()}
    start = {
        name: jax.device_put(np.float32(value), NamedSharding(mesh, SPECS[name]))
        for name, value in start.items()
    }
    x, y = load_digits(return_X_y=True)
    own = slice(jax.process_index(), 256, jax.process_count())
    own_rows = {"x": np.float32(x[own] / 16), "y": np.int32(y[own])}
    data = {
        key: jax.make_array_from_process_local_data(
            NamedSharding(mesh, P("data", *(None,) * (rows.ndim - 1))), rows
        )
        for key, rows in own_rows.items()
    }
    saved = {}
    for number, (way, init) in enumerate(ways()):

        @jax.jit
        def step(params, state, data, way=way):
            losses, gradient, state = way(params, state, data)
            return losses, jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient), state

        params, state = start, init(start)
        for at in range(STEPS):
            losses, params, state = step(params, state, data)
            saved[f"losses of {number} at {at}"] = losses
        saved |= {f"{name} of {number}": value for name, value in params.items()}
    whole = jax.jit(lambda tree: jax.tree.map(lambda x: jax.sharding.reshard(x, P()), tree))
    return jax.tree.map(np.asarray, whole(saved))


if __name__ == "__main__":
    port, number, count, path = sys.argv[1:]
    if int(count) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"127.0.0.1:{port}", int(count), int(number), initialization_timeout=60
        )
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        saved = train(mesh)
    if number == "0":
        np.savez(path, **saved)
