"""A training step in Flax NNX and in Linen, through Flax's own optimiser classes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
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
        losses_of = lambda model: jnp.mean((model(x) - y) ** 2, axis=0)
        losses, gradients = mtl.nnx_value_and_task_grads(losses_of)(model)
        optimizer.update(model, gradients, task_losses=losses)
        return losses

    history = [train_step(model, optimizer) for _ in range(60)]
    assert np.all(np.asarray(history[-1]) < 0.5 * np.asarray(history[0]))
    assert optax.tree_utils.tree_get(optimizer.opt_state, "weights")[...].shape == (T,)


@pytest.mark.parametrize("heads", ["unweighted", "weighted"])
@pytest.mark.parametrize("way", [{}, {"way": "rows"}], ids=str)
def test_nnx_optimizer_takes_gradients_that_are_not_stacked(way, heads):
    """A step with MGDA on the trunk; the heads' kernel has no axis of tasks in front."""
    model = Trunk(nnx.Rngs(0))
    tx = optax.chain(mtl.on_shared(mtl.mgda(T), "hidden", heads), optax.sgd(0.1))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    x, y = data()
    losses_of = lambda model: jnp.mean((model(x) - y) ** 2, axis=0)
    graph, start = nnx.split(nnx.clone(model))
    start = nnx.to_pure_dict(start)

    @nnx.jit
    def train_step(model, optimizer):
        gather = mtl.nnx_value_and_task_grads(losses_of, shared="hidden", stacked=False, **way)
        losses, gradients = gather(model)
        optimizer.update(model, gradients, task_losses=losses)
        return mtl.task_weights(optimizer.opt_state)

    weights = np.asarray(train_step(model, optimizer))
    rows = jax.jacrev(lambda p: losses_of(nnx.merge(graph, nnx.State(p))))(start)
    stack = rows["hidden"]
    tx = mtl.mgda(T)
    of_trunk = start["hidden"]
    wanted = tx.update(stack, tx.init(of_trunk), of_trunk)[1].weights
    np.testing.assert_allclose(weights, wanted, atol=1e-4)
    of_heads = wanted if heads == "weighted" else jnp.ones(T)
    moves = {"hidden": mtl.combine(wanted, stack), "heads": mtl.combine(of_heads, rows["heads"])}
    found = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    jax.tree.map(
        lambda p, g, got: np.testing.assert_allclose(got, p - 0.1 * g, rtol=1e-4, atol=1e-5),
        start,
        moves,
        found,
    )


class Stateful(nnx.Module):
    """Everything that a forward pass of NNX changes."""

    def __init__(self, rngs):
        self.cells = nnx.RNN(nnx.SimpleCell(3, 4, rngs=rngs), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.heads = nnx.Linear(4, T, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] += 1
        return self.heads(self.dropout(self.norm(self.cells(x)[:, -1])))


def test_nnx_models_change_as_in_a_pass_of_their_own():
    """Losses, gradients and variables of `nnx.value_and_grad`, a pass for each task."""

    def made():
        return Stateful(nnx.Rngs(0)), x, nnx.Rngs(noise=1), Trunk(nnx.Rngs(2))

    def loss_fn(model, x, rngs, teacher, task=None):
        noise = 0.1 * jax.random.normal(rngs.noise(), (5, T))
        wanted = teacher(jnp.concatenate([x[:, 0], x[:, 1]], axis=1)) + noise
        losses = jnp.mean((model(x) - wanted) ** 2, axis=0)
        return (losses, noise) if task is None else losses[task]

    @nnx.jit
    def in_one_pass(*args):
        way = mtl.nnx_value_and_task_grads(loss_fn, has_aux=True, shared=in_trunk)
        return way(*args)

    @nnx.jit
    def a_pass_for_each_task(arguments):
        of_one = lambda task: nnx.value_and_grad(lambda *args: loss_fn(*args, task=task))
        return [of_one(task)(*args) for task, args in enumerate(arguments)]

    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3, 3)), jnp.float32)
    in_trunk = lambda path: path[0].key != "heads"
    found = made()
    (losses, noise), gradients = in_one_pass(*found)
    assert noise.shape == (5, T)
    one_by_one = [made() for _ in range(T)]
    summed = 0.0
    for task, (loss, wanted) in enumerate(a_pass_for_each_task(one_by_one)):
        np.testing.assert_allclose(losses[task], loss, rtol=1e-5)
        for part in ("cells", "norm"):
            jax.tree.map(
                lambda row, g, t=task: np.testing.assert_allclose(row[t], g, rtol=1e-4, atol=1e-6),
                nnx.to_pure_dict(gradients[part]),
                nnx.to_pure_dict(wanted[part]),
            )
        summed += wanted["heads"]["kernel"][...]
    np.testing.assert_allclose(gradients["heads"]["kernel"][...], summed, rtol=1e-4, atol=1e-6)
    states = nnx.state(found, nnx.Variable), nnx.state(one_by_one[-1], nnx.Variable)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *map(numbers, states))
    assert found[0].calls[...] == 1
    assert found[2].noise.count[...] == 1


def numbers(state):
    """The arrays of a state, keys as numbers too."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return [jax.random.key_data(x) if is_key(x) else x for x in jax.tree.leaves(state)]


class Adapted(nnx.Module):
    def __init__(self):
        self.kernel = nnx.Param(jnp.ones((6, T)))
        self.change = nnx.LoRAParam(jnp.zeros((6, T)))

    def __call__(self, x):
        return x @ (self.kernel + self.change)


def test_nnx_gradients_of_chosen_variables():
    """`wrt` is a filter, as the optimiser's: of LoRA's parameters alone, without `jit`."""
    model = Adapted()
    x, y = data()
    losses_of = lambda model, x, y: jnp.mean((model(x) - y) ** 2, axis=0)
    _, gradients = mtl.nnx_value_and_task_grads(losses_of, wrt=nnx.LoRAParam)(model, x, y)
    assert [leaf.shape for leaf in jax.tree.leaves(gradients)] == [(T, 6, T)]
    wanted = nnx.state(model, nnx.LoRAParam)
    assert jax.tree.structure(gradients) == jax.tree.structure(wanted)


def test_mistakes_with_nnx_are_named():
    model = Trunk(nnx.Rngs(0))
    x, _ = data()
    ways = lambda **options: mtl.nnx_value_and_task_grads(lambda m, x: m(x), **options)
    with pytest.raises(ValueError, match="nnx_value_and_task_grads: the function must return one"):
        ways()(model, x)
    with pytest.raises(TypeError, match=r"nnx_value_and_task_grads: .* \(losses, aux\)"):
        ways(has_aux=True)(model, x)
    with pytest.raises(
        ValueError,
        match="nnx_value_and_task_grads: model must be an nnx.Module .*LoRAParam.*got Trunk",
    ):
        ways(wrt=nnx.LoRAParam)(model, x)
    with pytest.raises(ValueError, match="nnx_value_and_task_grads: shared selects no leaf"):
        ways(shared=lambda path: False)(model, x)


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


def test_a_forgotten_method_is_named_with_flax():
    """`nnx.Optimizer` and `apply_gradients` would let the parameters grow."""
    x, y = data()
    tx = mtl.check_updates(optax.sgd(0.1))
    model = Trunk(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer):
        losses_of = lambda model: jnp.mean((model(x) - y) ** 2, axis=0)
        _, gradients = mtl.nnx_value_and_task_grads(losses_of)(model)
        optimizer.update(model, gradients)

    message = r"check_updates: updates\['heads'\]\['bias'\] has shape \(2, 2\), .* \(2,\)"
    with pytest.raises(ValueError, match=message):
        train_step(model, optimizer)
    linen = LinenModel()
    params = linen.init(jax.random.key(0), x)["params"]
    state = TrainState.create(apply_fn=linen.apply, params=params, tx=tx)
    losses_of = lambda p: jnp.mean((linen.apply({"params": p}, x) - y) ** 2, axis=0)
    gradients = jax.eval_shape(mtl.value_and_task_grads(losses_of), params)[1]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda state, g: state.apply_gradients(grads=g), state, gradients)
