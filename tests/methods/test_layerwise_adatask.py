"""Layer-wise AdaTask against a NumPy transcription over steps, and at its limiting cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl

SHAPES = {"a": {"bias": (2,), "kernel": (3, 2)}, "b": {"kernel": (4,)}}
PARAMS = jax.tree.map(jnp.zeros, SHAPES, is_leaf=lambda x: isinstance(x, tuple))
LAYERS = {"a": ("bias", "kernel"), "b": ("kernel",)}


def draw(num_tasks, seed):
    rng = np.random.default_rng(seed)
    scales = np.array([1.0, 30.0, 0.1])[:num_tasks]
    return {
        layer: {
            leaf: rng.normal(size=(num_tasks, *shape)) * scales.reshape(-1, *[1] * len(shape))
            for leaf, shape in leaves.items()
        }
        for layer, leaves in SHAPES.items()
    }


class Transcription:
    """The paper's Eq. 9 on arrays in float64, one layer at a time."""

    def __init__(self, rate=0.1, decay=0.9, total="sum_sq", min_share=0.0, corrected=False):
        self.rate, self.decay, self.total = rate, decay, total
        self.min_share, self.corrected, self.steps = min_share, corrected, 0
        self.joint = {(la, le): 0.0 for la, leaves in LAYERS.items() for le in leaves}
        self.layer = dict.fromkeys(LAYERS, 0.0)

    def step(self, gradients):
        self.steps += 1
        keep, new = self.decay, 1 - self.decay
        updates = {}
        for layer, leaves in LAYERS.items():
            flat = np.concatenate(
                [
                    gradients[layer][leaf].reshape(len(gradients[layer][leaf]), -1)
                    for leaf in leaves
                ],
                axis=1,
            )
            self.layer[layer] = keep * self.layer[layer] + new * np.mean(flat**2, axis=1)
            share = np.maximum(self.layer[layer] / np.sum(self.layer[layer]), self.min_share)
            updates[layer] = {}
            for leaf in leaves:
                g = gradients[layer][leaf]
                squares = (g**2).sum(0) if self.total == "sum_sq" else g.sum(0) ** 2
                key = layer, leaf
                self.joint[key] = keep * self.joint[key] + new * squares
                joint = self.joint[key] / (1 - keep**self.steps if self.corrected else 1)
                own = share.reshape(-1, *[1] * (g.ndim - 1)) * joint
                updates[layer][leaf] = -self.rate * (g / (np.sqrt(own) + 1e-8)).sum(0)
        return updates


@functools.cache
def method(num_tasks, **hyperparameters):
    tx = mtl.layerwise_adatask(num_tasks, **hyperparameters)
    return tx, jax.jit(tx.update)


def run(gradients, state=None, mask=None, **hyperparameters):
    gradients = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), gradients)
    num_tasks = jax.tree.leaves(gradients)[0].shape[0]
    tx, update = method(num_tasks, **hyperparameters)
    params = jax.tree.map(lambda g: g[0], gradients)
    state = tx.init(params) if state is None else state
    mask = jnp.asarray(np.ones(num_tasks, bool) if mask is None else mask)
    return update(gradients, state, params, task_mask=mask)


def close(got, wanted, rtol=1e-5):
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=rtol, atol=1e-6), got, wanted)


@pytest.mark.parametrize(
    ("total", "min_share", "corrected"),
    [("sum_sq", 0.0, False), ("sum_sq", 1e-2, True), ("sq_sum", 1e-3, False)],
)
def test_steps_are_the_equations(total, min_share, corrected):
    oracle = Transcription(total=total, min_share=min_share, corrected=corrected)
    state = None
    for step in range(5):
        gradients = draw(3, step)
        updates, state = run(
            gradients,
            state,
            learning_rate=0.1,
            decay=0.9,
            total=total,
            min_share=min_share,
            bias_correction=corrected,
        )
        close(updates, oracle.step(gradients), rtol=1e-4)
    np.testing.assert_allclose(state.layers[:, 0] ** 2, oracle.layer["a"], rtol=1e-5)


def test_state_is_n_plus_l_times_t_numbers():
    _, state = run(draw(3, 0))
    sizes = [x.size for x in jax.tree.leaves((state.parameters, state.layers))]
    assert sum(sizes) == (2 + 6 + 4) + 2 * 3


def test_layers_of_one_parameter_are_adatask():
    """With the total that is the default; "sq_sum" is not."""
    per_task = mtl.adatask(3, optax.rmsprop(0.1, decay=0.9, eps=1e-8, eps_in_sqrt=False))
    state = other = wanted_state = None
    for step in range(2):
        keyed = {"layer": {str(i): rows for i, rows in enumerate(draw(3, step)["a"]["bias"].T)}}
        arguments = {"learning_rate": 0.1, "decay": 0.9, "min_share": 0.0, "group": str}
        got, state = run(keyed, state, **arguments)
        unlike, other = run(keyed, other, total="sq_sum", **arguments)
        given = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), keyed)
        if wanted_state is None:
            wanted_state = per_task.init(jax.tree.map(lambda g: g[0], given))
        wanted, wanted_state = per_task.update(given, wanted_state)
        close(got, wanted, rtol=1e-4)
    assert abs(unlike["layer"]["0"] - wanted["layer"]["0"]) > 0.005


def test_one_task_is_rmsprop():
    rmsprop = optax.rmsprop(0.1, decay=0.9, eps_in_sqrt=False)
    state, wanted_state = None, rmsprop.init(PARAMS)
    for step in range(3):
        gradients = draw(1, step)
        got, state = run(gradients, state, learning_rate=0.1, decay=0.9)
        single = jax.tree.map(lambda g: jnp.asarray(g[0], jnp.float32), gradients)
        wanted, wanted_state = rmsprop.update(single, wanted_state)
        close(got, wanted)


def test_equal_tasks_take_that_many_steps():
    one = draw(1, 0)
    three = jax.tree.map(lambda g: np.repeat(g, 3, axis=0), one)
    close(run(three)[0], jax.tree.map(lambda u: 3 * u, run(one)[0]))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_gradients_is_free(scale):
    state = scaled_state = None
    for step in range(3):
        gradients = draw(3, step)
        scaled = jax.tree.map(lambda g: scale * g, gradients)
        wanted, state = run(gradients, state, eps=0.0)
        got, scaled_state = run(scaled, scaled_state, eps=0.0)
        close(got, wanted, rtol=1e-4)


def test_min_share_bounds_a_task_that_is_large_where_the_others_are_silent():
    """A task of share 1e-6 in its layer, alone at one of its parameters."""
    gradients = {"w": np.array([[0.0, 1.0], [1000.0, 0.0]])}
    arguments = {"learning_rate": 1.0, "bias_correction": True}
    free, _ = run(gradients, min_share=0.0, **arguments)
    bounded, _ = run(gradients, **arguments)
    np.testing.assert_allclose(free["w"], [-1, -1000], rtol=1e-4)
    np.testing.assert_allclose(bounded["w"], [-1, -(1e-3**-0.5)], rtol=1e-4)


def test_group_decides_what_a_layer_is():
    gradients = draw(3, 0)
    whole, state = run(gradients, learning_rate=1.0, group=whole_tree)
    assert state.layers.shape == (3, 1)
    leaves, state = run(gradients, learning_rate=1.0, group=str)
    assert state.layers.shape == (3, 3)
    parents, _ = run(gradients, learning_rate=1.0)
    for one, other in ((whole, leaves), (whole, parents), (leaves, parents)):
        assert np.max(np.abs(one["a"]["bias"] - other["a"]["bias"])) > 1e-4


def whole_tree(path):
    del path
    return "all"


def test_a_schedule_sets_the_learning_rate():
    halved = optax.piecewise_constant_schedule(1.0, {1: 0.5})
    state = other = None
    for step in range(2):
        scheduled, state = run(draw(2, step), state, learning_rate=halved)
        constant, other = run(draw(2, step), other, learning_rate=1.0)
        close(scheduled, jax.tree.map(lambda u, f=0.5**step: f * u, constant))


@pytest.mark.nans
def test_absent_tasks():
    """They leave their layers' squares alone; with nobody present everything stands still."""
    mask = [True, False, True]
    _, state = run(draw(3, 0))
    gradients = draw(3, 1)
    spoiled = jax.tree.map(lambda g: np.concatenate([g[:1], np.nan * g[1:2], g[2:]]), gradients)
    _, after = run(spoiled, state, mask)
    np.testing.assert_array_equal(after.layers[1], state.layers[1])
    small = masked = None
    for step in range(3):
        gradients = draw(3, step)
        present = jax.tree.map(lambda g: g[::2], gradients)
        got, masked = run(gradients, masked, mask)
        wanted, small = run(present, small)
        close(got, wanted)
    nothing, after = run(gradients, masked, [False] * 3)
    assert all(np.all(np.asarray(u) == 0) for u in jax.tree.leaves(nothing))
    jax.tree.map(np.testing.assert_array_equal, after, masked)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_finite_at_the_edges(scale):
    gradients = jax.tree.map(lambda g: scale * np.concatenate([g, -g[:1]]), draw(2, 0))
    for total in ("sum_sq", "sq_sum"):
        updates, state = run(gradients, total=total)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((updates, state)))
    zero = jax.tree.map(np.zeros_like, gradients)
    updates, _ = run(zero, state, total="sq_sum")
    assert all(np.all(np.asarray(u) == 0) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, r"decay must lie in \[0, 1\)"),
        ({"learning_rate": -1.0}, "learning_rate must lie in"),
        ({"min_share": 2.0}, r"min_share must lie in \[0, 1\]"),
        ({"total": "sum"}, "total must be one of 'sum_sq', 'sq_sum', got 'sum'"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=f"layerwise_adatask: {message}"):
        mtl.layerwise_adatask(2, **arguments)
