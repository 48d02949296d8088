"""What every model must do: the shapes, whose each leaf is, and that it can learn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from benchmarks.models.backbones import BACKBONES
from benchmarks.models.conv import MultiTaskConvNet, convolve_by_matmul
from benchmarks.models.heads import Heads
from benchmarks.models.lenet import MultiTaskLeNet, max_pool
from benchmarks.models.mlp import MultiTaskMLP
from benchmarks.models.text_cnn import MultiTaskTextCNN
from benchmarks.models.transformer import MultiTaskPairTransformer

NUM_TASKS, EXAMPLES = 3, 16
TABLE = {"numeric": 2, "cardinalities": (3, 40), "embedding": 4, "widths": (32,), "tower": (16,)}
MODELS = {
    "conv": partial(MultiTaskConvNet, size=10, classes=2, channels=(8, 8), features=32),
    "lenet": partial(MultiTaskLeNet, size=17, classes=2, channels=(8, 16), features=32),
    "mlp": partial(MultiTaskMLP, inputs=5, widths=(32, 32), outputs=2),
    "text_cnn": partial(
        MultiTaskTextCNN, vocabulary=30, given=4, embedding=8, classes=2, channels=8
    ),
    "transformer": partial(
        MultiTaskPairTransformer,
        vocabulary=30,
        length=6,
        given=4,
        embedding=8,
        layers=2,
        attention_heads=2,
        width=8,
        hidden=16,
        alike=3,
        side=4,
    ),
    "shared_bottom": partial(BACKBONES["shared_bottom"], **TABLE),
    "mmoe": partial(BACKBONES["mmoe"], **TABLE, experts=3),
    "ple": partial(BACKBONES["ple"], **TABLE, shared_experts=2, task_experts=2, levels=3),
    "dcn": partial(BACKBONES["dcn"], **TABLE, layers=2),
    "dcn_v2": partial(BACKBONES["dcn_v2"], **TABLE, layers=2),
}
# The part of the word vectors that is not learned.
GIVEN = jnp.asarray(np.random.default_rng(2).normal(size=(30, 4)), jnp.float32)
OUTPUTS = {"transformer": (1,), **dict.fromkeys(BACKBONES, ())}
all_models = pytest.mark.parametrize("name", MODELS)


def build(name, key):
    return MODELS[name](num_tasks=NUM_TASKS, rngs=nnx.Rngs(key))


@partial(jax.jit, static_argnums=0)
def params_of(name, key):
    return nnx.state(build(name, key))


def forward(name, params, inputs):
    graph = nnx.graphdef(nnx.eval_shape(lambda: build(name, 0)))
    given = (GIVEN,) if name in ("text_cnn", "transformer") else ()
    return nnx.merge(graph, params)(*inputs, *given)


def examples(name, seed=0):
    """Random inputs; sentences of one to six words."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=(EXAMPLES, *shape)).astype(np.float32)
    if name in ("conv", "lenet"):
        side = MODELS[name].keywords["size"]
        return (normal(side, side),)
    if name == "mlp":
        return (normal(5),)
    if name in BACKBONES:
        return normal(2), rng.integers([3, 40], size=(EXAMPLES, 2))
    words = rng.integers(1, 30, size=(2, EXAMPLES, 6))
    first, second = np.where(np.arange(6) < rng.integers(1, 7, size=(2, EXAMPLES, 1)), words, 0)
    return (first, second, normal(3)) if name == "transformer" else (first,)


def is_shared(path):
    return jax.tree_util.keystr(path).startswith("['trunk']")


@all_models
def test_parameters_are_all_there_is_in_the_trunk_or_in_heads_with_a_task_axis(name):
    state = nnx.state(nnx.eval_shape(lambda: build(name, 0)))
    variables = jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    assert {type(variable) for variable in variables} == {nnx.Param}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        assert is_shared(path) != ("heads" in jax.tree_util.keystr(path))
        assert is_shared(path) or leaf.shape[0] == NUM_TASKS


@all_models
def test_trunk_moves_every_task_and_heads_only_their_own(name):
    inputs = examples(name)

    @jax.jacrev
    def jacobian(params):
        return (forward(name, params, inputs) ** 2).reshape(EXAMPLES, NUM_TASKS, -1).sum((0, 2))

    jacobian = jax.jit(jacobian)(params_of(name, jax.random.key(1)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(jacobian):
        flat = np.abs(leaf).reshape(NUM_TASKS, -1)
        if "['key']['bias']" in jax.tree_util.keystr(path):
            continue  # Softmax cancels it: nothing depends on the bias of attention's keys.
        if is_shared(path):
            assert (flat.sum(axis=1) > 0).all(), path
        else:
            moved = np.abs(leaf).reshape(NUM_TASKS, NUM_TASKS, -1).sum(axis=2) > 0
            np.testing.assert_array_equal(moved, np.eye(NUM_TASKS), err_msg=str(path))


@all_models
def test_two_seeds_learn_random_targets_by_heart(name):
    inputs = examples(name)
    shape = (EXAMPLES, NUM_TASKS, *OUTPUTS.get(name, (2,)))
    targets = np.random.default_rng(1).choice([-1.0, 1.0], size=shape)
    optimizer = optax.adam(1e-2)

    def loss(params):
        outputs = forward(name, params, inputs)
        assert outputs.shape == shape
        return jnp.mean((outputs - targets) ** 2)

    @jax.jit
    @jax.vmap
    def fit(key):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), value

        params = params_of(name, key)
        return jax.lax.scan(step, (params, optimizer.init(params)), length=250)[1]

    losses = fit(jax.random.split(jax.random.key(0)))
    assert losses[0, 0] != losses[1, 0]
    assert (losses[:, 0] > 0.8).all()
    assert (losses[:, -1] < 0.01 * losses[:, 0]).all(), losses[:, ::50]


@pytest.mark.parametrize("name", [name for name in MODELS if name not in BACKBONES])
def test_one_head_on_a_batch_of_its_own_is_that_head_of_all(name):
    params = params_of(name, jax.random.key(0))
    axes = jax.tree_util.tree_map_with_path(lambda path, _: None if is_shared(path) else 0, params)
    batches = [np.stack([part, part[::-1], part]) for part in examples(name)]
    own = jax.jit(jax.vmap(partial(forward, name), (axes, 0)))(params, batches)
    every = jax.jit(partial(forward, name))(params, examples(name))
    wanted = jnp.stack([every[:, 0], every[::-1, 1], every[:, 2]])
    np.testing.assert_allclose(own, wanted, rtol=1e-4, atol=1e-5)


def test_heads_are_a_matrix_and_a_bias_each():
    heads = Heads(2, 3, 4, rngs=nnx.Rngs(0))
    heads.bias[...] = jnp.arange(8.0).reshape(2, 4)
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    logits = heads(features)
    for task in range(2):
        wanted = features @ np.asarray(heads.kernel[task]) + np.asarray(heads.bias[task])
        np.testing.assert_allclose(logits[:, task], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 2)])
def test_convolution_by_matmul_is_a_convolution(strides: tuple[int, int]) -> None:
    image_key, kernel_key = jax.random.split(jax.random.key(0))
    images = jax.random.normal(image_key, (2, 9, 8, 3))
    kernel = jax.random.normal(kernel_key, (3, 2, 3, 5))
    expected = jax.lax.conv_general_dilated(
        images,
        kernel,
        strides,
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    actual = convolve_by_matmul(images, kernel, strides, "VALID")
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_convolution_by_matmul_refuses_padding() -> None:
    with pytest.raises(ValueError, match="'VALID'"):
        convolve_by_matmul(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), (1, 1), "SAME")


@pytest.mark.parametrize("shape", [(6, 8), (7, 8), (6, 5)])
def test_max_pooling_leaves_out_an_odd_row_or_column(shape):
    images = jax.random.normal(jax.random.key(0), (2, *shape, 3))
    window = (1, 2, 2, 1)
    expected = jax.lax.reduce_window(images, -jnp.inf, jax.lax.max, window, window, "VALID")
    np.testing.assert_array_equal(max_pool(images), expected)


def test_smallest_image_of_lenet():
    lenet = partial(MultiTaskLeNet, num_tasks=2, classes=10, rngs=nnx.Rngs(0))
    assert lenet(size=16)(jnp.ones((3, 16, 16))).shape == (3, 2, 10)
    with pytest.raises(ValueError, match="at least 16, not 15"):
        lenet(size=15)
