"""A training step in Flax NNX and in Linen, through Flax's own optimiser classes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.training.train_state import TrainState

import mtl_optax as mtl

T = 2


def data():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 6)), jnp.float32)
    return x, jnp.stack([jnp.sin(x[:, 0] + x[:, 1]), x[:, 2] * x[:, 3]], axis=1)


class Trunk(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(6, 32, rngs=rngs)
        self.heads = nnx.Linear(32, T, rngs=rngs)

    def __call__(self, x):
        return self.heads(nnx.relu(self.hidden(x)))


def test_nnx_optimizer_step():
    model = Trunk(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(mtl.pcgrad(T), optax.adam(1e-2)), wrt=nnx.Param)
    x, y = data()

    @nnx.jit
    def train_step(model, optimizer):
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def losses_of(params):
            return jnp.mean((nnx.merge(graph, params, rest)(x) - y) ** 2, axis=0)

        losses, gradients = mtl.value_and_task_grads(losses_of)(params)
        optimizer.update(model, gradients, task_losses=losses)
        return losses

    history = [train_step(model, optimizer) for _ in range(60)]
    assert np.all(np.asarray(history[-1]) < 0.5 * np.asarray(history[0]))
    assert optax.tree_utils.tree_get(optimizer.opt_state, "weights")[...].shape == (T,)


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(T, name="heads")(nn.relu(nn.Dense(32, name="trunk")(x)))


def test_linen_train_state_step():
    model = LinenModel()
    x, y = data()
    params = model.init(jax.random.key(0), x)["params"]
    shared = lambda path: path[0].key == "trunk"
    tx = optax.chain(mtl.on_shared(mtl.cagrad(T), shared), optax.adam(1e-2))
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def train_step(state):
        losses_of = lambda p: jnp.mean((state.apply_fn({"params": p}, x) - y) ** 2, axis=0)
        losses, gradients = mtl.value_and_task_grads(losses_of, shared=shared)(state.params)
        updates, opt_state = state.tx.update(
            gradients, state.opt_state, state.params, task_losses=losses
        )
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), losses

    history = []
    for _ in range(60):
        state, losses = train_step(state)
        history.append(losses)
    assert np.all(np.asarray(history[-1]) < 0.5 * np.asarray(history[0]))
    assert optax.tree_utils.tree_get(state.opt_state, "weights").shape == (T,)
    assert state.step == 60
