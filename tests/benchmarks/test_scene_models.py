"""SegNet and MTAN: their sizes are the published ones, pooling PyTorch's, and they can learn."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from benchmarks.compiler import QUICK
from benchmarks.models.mtan import MTAN, twice_as_large
from benchmarks.models.segnet import SegNet, max_pool, max_unpool
from benchmarks.problems.networks import head_of, in_trunk, normalised_network
from mtl_optax._tracing import inner_programs

TASKS = {"segmentation": 3, "depth": 1, "normals": 3}
TINY = (6, 8)
MODELS = {"segnet": SegNet, "mtan": MTAN}
both_models = pytest.mark.parametrize("name", MODELS)


def convolutions(size, *widths):
    """Parameters of convolutions in a row, each with a bias."""
    return sum((size**2 * a + 1) * b for a, b in pairwise(widths))


def by_hand(outputs):
    """Of the trunk, its normalisations, one head for each task; and what MTAN adds to them."""
    layers = (
        [(3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, *[512] * 3), (512, *[512] * 3)],
        [(512, *[512] * 3), (512, *[256] * 3), (256, *[128] * 3), (128, 64, 64), (64, 64, 64)],
    )
    stages = [stage for part in layers for stage in part]
    normalised = [width for stage in stages for width in stage[1:]]
    trunk = sum(convolutions(3, *stage) for stage in stages) + 2 * sum(normalised)
    heads = sum(convolutions(3, 64, 64) + convolutions(1, 64, number) for number in outputs)
    passages = [(64, 128), (128, 256), (256, 512), (512, 512), (512, 512)]
    passages += [(512, 512), (512, 256), (256, 128), (128, 64), (64, 64)]
    attention = [(64, 64), (256, 128), (512, 256), (1024, 512), (1024, 512)]
    attention += [(1024, 512), (768, 256), (384, 128), (192, 64), (128, 64)]
    shared = sum(convolutions(3, *ends) + 2 * ends[1] for ends in passages)
    own = sum(convolutions(1, a, b, b) + 4 * b for a, b in attention)
    return {"segnet": (trunk, heads), "mtan": (trunk + shared, heads + len(outputs) * own)}


@both_models
@pytest.mark.parametrize("outputs", [(13, 1, 3), (7, 1)])
def test_the_number_of_parameters_is_that_of_the_channels(name, outputs):
    tasks = {str(number): number for number in outputs}
    params = nnx.state(
        nnx.eval_shape(lambda: MODELS[name](outputs=tasks, rngs=nnx.Rngs(0))), nnx.Param
    )
    count = lambda part: sum(leaf.size for leaf in jax.tree.leaves(part))
    assert (count(params["trunk"]), count(params["heads"])) == by_hand(outputs)[name]


def test_the_published_numbers_of_parameters():
    """MTAN's code divides by 24981069, one SegNet with 13 classes; 1.77 in its Table 2."""
    assert sum(by_hand([13])["segnet"]) == 24_981_069
    assert sum(by_hand([13, 1, 3])["mtan"]) == 44_229_073
    assert round(44_229_073 / 24_981_069, 2) == 1.77


def test_pooling_keeps_the_first_of_equal_places_and_unpooling_puts_it_back():
    """In PyTorch's order: row by row, a later one only if it is larger."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 3, (2, 6, 8, 5)).astype(np.float32)
    found = max_pool(jnp.asarray(images))
    back = max_unpool(*found)
    wanted, places = np.zeros((2, 3, 4, 5)), np.zeros((2, 3, 4, 5))
    kept = np.zeros(images.shape)
    for n, y, x, c in np.ndindex(wanted.shape):
        window = images[n, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2, c]
        place = int(np.argmax(window))
        wanted[n, y, x, c], places[n, y, x, c] = window.max(), place
        kept[n, 2 * y + place // 2, 2 * x + place % 2, c] = window.max()
    assert 0 < (places == 3).sum() < (places == 0).sum()
    np.testing.assert_array_equal(found.values, wanted)
    np.testing.assert_array_equal(found.places, places)
    np.testing.assert_array_equal(back, kept)
    gradient = jax.grad(lambda x: max_pool(x).values.sum())(jnp.asarray(images))
    np.testing.assert_array_equal(gradient, max_unpool(jnp.ones(wanted.shape), found.places))


def test_twice_as_large_keeps_the_corners():
    """Against `numpy.interp` along rows, then columns."""
    images = np.random.default_rng(0).normal(size=(1, 3, 4, 2)).astype(np.float32)
    wanted = images
    for axis, size in ((1, 3), (2, 4)):
        between = partial(np.interp, np.linspace(0, size - 1, 2 * size), np.arange(size))
        wanted = np.apply_along_axis(between, axis, wanted)
    found = twice_as_large(jnp.asarray(images))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[:, ::5, ::7], images[:, ::2, ::3])


def test_sizes_must_survive_the_pooling():
    with pytest.raises(ValueError, match="multiples of 4, not 6 x 16"):
        SegNet(outputs=TASKS, channels=TINY, rngs=nnx.Rngs(0))(jnp.ones((1, 6, 16, 3)))


@pytest.fixture(scope="module", params=MODELS)
def made(request):
    """A tiny network and its parameters."""
    network = normalised_network(
        lambda rngs: MODELS[request.param](outputs=TASKS, channels=TINY, rngs=rngs)
    )
    return network, network.init(jax.random.key(0))


IMAGES = np.random.default_rng(0).random((2, 8, 12, 3)).astype(np.float32)


def test_trunk_moves_every_task_and_heads_only_their_own(made):
    """Of the network once trained: a bias before a normalisation by the batch moves nothing."""
    network, params = made

    @partial(jax.jit, compiler_options=QUICK)
    @jax.jacrev
    def jacobian(params):
        outputs, _ = network.apply(params, network.statistics, False, IMAGES)
        return jnp.stack([(outputs[task] ** 2).mean() for task in TASKS])

    for path, leaf in jax.tree_util.tree_leaves_with_path(jacobian(params)):
        moved = np.abs(leaf).reshape(len(TASKS), -1).sum(axis=1) > 0
        wanted = [True] * 3 if in_trunk(path) else np.arange(3) == head_of(tuple(TASKS))(path)
        np.testing.assert_array_equal(moved, wanted, err_msg=jax.tree_util.keystr(path))


def test_a_task_has_statistics_of_its_own(made):
    """What a task says once trained does not depend on statistics that another's network makes."""
    network, params = made
    run = jax.jit(
        lambda statistics, training: network.apply(params, statistics, training, IMAGES),
        static_argnums=1,
        compiler_options=QUICK,
    )
    _, kept = run(network.statistics, True)
    assert any(
        np.abs(a - b).max() > 0
        for a, b in zip(*map(jax.tree.leaves, (kept, network.statistics)), strict=True)
    )
    spoiled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if in_trunk(path) or path[1].key == "depth" else leaf + 1, kept
    )
    told, other = (run(statistics, False)[0] for statistics in (kept, spoiled))
    np.testing.assert_array_equal(told["depth"], other["depth"])


def products(jaxpr):
    """The dtypes that each convolution and each product of matrices reads."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield {variable.aval.dtype.name for variable in equation.invars}
        for inner in inner_programs(equation.params.values()):
            yield from products(inner)


@both_models
def test_half_precision_is_near_and_what_is_kept_is_whole(name):
    """Bfloat16 has 8 bits: outputs are off by up to 2 % of their size, gradients by up to 10 %."""
    found = []
    for precision in ("float32", "bfloat16"):
        network = normalised_network(
            lambda rngs: MODELS[name](outputs=TASKS, channels=(8,), rngs=rngs), precision
        )

        def loss(params, network=network):
            outputs, statistics = network.apply(params, network.statistics, True, IMAGES)
            return sum((x**2).mean() for x in outputs.values()), (outputs, statistics)

        params, gradient = network.init(jax.random.key(0)), jax.grad(loss, has_aux=True)
        traced = jax.make_jaxpr(gradient)(params)
        assert {*map(frozenset, products(traced.jaxpr))} == {frozenset({precision})}
        assert {x.dtype.name for x in (*jax.tree.leaves(params), *traced.out_avals)} == {"float32"}
        compiled = partial(jax.jit, compiler_options=QUICK)
        # MTAN's takes many times as long to compile.
        found.append(compiled(gradient)(params) if name == "segnet" else compiled(loss)(params))
    (gradient, whole), (half_gradient, half) = found

    def off(ours, theirs):
        ours, theirs = (
            np.concatenate([*map(np.ravel, jax.tree.leaves(x))]) for x in (ours, theirs)
        )
        return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)

    for ours, theirs in zip(half, whole, strict=True):
        assert 1e-5 < off(ours, theirs) < 0.02
    assert off(half_gradient, gradient) < 0.1


@both_models
def test_pictures_are_learned_by_heart(name):
    """Classes, depths and directions drawn at random; less than 1 % of the loss remains."""
    network = normalised_network(
        lambda rngs: MODELS[name](outputs=TASKS, channels=(12,), rngs=rngs)
    )
    params = network.init(jax.random.key(0))
    rng = np.random.default_rng(1)
    images = IMAGES[:1, :8, :8]
    labels = rng.integers(0, 3, (1, 8, 8))
    targets = {"depth": rng.normal(size=(1, 8, 8, 1)), "normals": rng.normal(size=(1, 8, 8, 3))}
    optimizer = optax.adam(2e-2)

    def loss(params, statistics):
        outputs, statistics = network.apply(params, statistics, True, images)
        entropy = optax.softmax_cross_entropy_with_integer_labels(outputs["segmentation"], labels)
        squares = [jnp.mean((outputs[task] - target) ** 2) for task, target in targets.items()]
        return entropy.mean() + sum(squares), statistics

    @partial(jax.jit, compiler_options=QUICK)
    def step(carry):
        params, statistics, state = carry
        (value, statistics), grads = jax.value_and_grad(loss, has_aux=True)(params, statistics)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), statistics, state), value

    carry, losses = (params, network.statistics, optimizer.init(params)), []
    for _ in range(400):
        carry, value = step(carry)
        losses.append(float(value))
    assert losses[-1] < 0.01 * losses[0], losses[::50]
