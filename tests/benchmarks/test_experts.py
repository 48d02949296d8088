"""The tabular backbones against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.models.backbones import BACKBONES
from benchmarks.models.experts import TabularInput

NUM_TASKS, ROWS = 3, 5
COLUMNS = {"numeric": 2, "cardinalities": (3, 4), "embedding": 2}


def columns(seed=0):
    rng = np.random.default_rng(seed)
    numeric = rng.normal(size=(ROWS, 2)).astype(np.float32)
    return numeric, rng.integers([3, 4], size=(ROWS, 2))


def filled(model):
    """The same model with random biases too, which start at zero."""
    graph, params = nnx.split(model)
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    leaves = [jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves]
    return nnx.merge(graph, jax.tree.unflatten(structure, leaves))


def one_row(table, numeric, categories):
    """The features of one row, from the rows of a table whose second column starts at 3."""
    table = np.asarray(table[...], np.float64)
    return np.concatenate([numeric, table[categories[0]], table[3 + categories[1]]])


def dense(layers, index, x):
    """The copy at ``index`` of parallel dense layers, ReLU between them."""
    for layer, kernel in enumerate(layers.kernels):
        x = np.maximum(x, 0) if layer else x
        x = x @ np.asarray(kernel[...], np.float64)[index]
        if layers.biases:
            x = x + np.asarray(layers.biases[layer][...], np.float64)[index]
    return x


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def mix(weights, experts):
    return sum(weight * expert for weight, expert in zip(weights, experts, strict=True))


def shared_bottom(model, x, task):
    for layer in model.trunk.bottom.layers:
        x = np.maximum(x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]), 0)
    return dense(model.heads.towers, task, x)


def mmoe(model, x, task):
    experts = [np.maximum(dense(model.trunk.experts, e, x), 0) for e in range(4)]
    gate = softmax(dense(model.heads.gates, task, x))
    return dense(model.heads.towers, task, mix(gate, experts))


def ple(model, x, task):
    """Three levels of two experts for each task and one shared expert."""
    trunk, heads = model.trunk, model.heads
    own = [trunk.task_experts[0], trunk.task_experts[1], heads.task_experts[0]]
    gates = [trunk.task_gates[0], heads.task_gates[0], heads.task_gates[1]]
    of_task, shared = [x] * NUM_TASKS, x
    for level in range(3):
        of_shared = [np.maximum(dense(trunk.shared_experts[level], 0, shared), 0)]
        of_own = [
            [np.maximum(dense(own[level], (t, e), of_task[t]), 0) for e in range(2)]
            for t in range(NUM_TASKS)
        ]
        of_task = [
            mix(softmax(dense(gates[level], t, of_task[t])), of_own[t] + of_shared)
            for t in range(NUM_TASKS)
        ]
        if level < 2:
            gate = softmax(dense(trunk.shared_gates[level], (), shared))
            shared = mix(gate, [*of_own[0], *of_own[1], *of_own[2], *of_shared])
    return dense(heads.towers, task, of_task[task])


def dcn(model, x, task, matrix=False):
    crossed, deep = x, x
    for kernel, bias in zip(model.trunk.cross.kernels, model.trunk.cross.biases, strict=True):
        kernel, bias = (np.asarray(leaf[...], np.float64) for leaf in (kernel, bias))
        # Number by number, as the two papers have them.
        crossed = np.array(
            [
                x[i] * (crossed @ kernel[:, i] + bias[i]) + crossed[i]
                if matrix
                else x[i] * (crossed @ kernel[:, 0]) + bias[i] + crossed[i]
                for i in range(len(x))
            ]
        )
    for layer in model.trunk.deep.layers:
        deep = np.maximum(deep @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]), 0)
    return dense(model.heads.towers, task, np.concatenate([crossed, deep]))


def dcn_v2(model, x, task):
    return dcn(model, x, task, matrix=True)


@pytest.mark.parametrize(
    ("oracle", "sizes"),
    [
        (dcn, {"widths": (6, 5), "layers": 2}),
        (dcn_v2, {"widths": (6, 5), "layers": 2}),
        (shared_bottom, {"widths": (6, 5)}),
        (mmoe, {"widths": (6, 5), "experts": 4}),
        (ple, {"widths": (5,), "shared_experts": 1, "task_experts": 2, "levels": 3}),
    ],
)
def test_backbone_is_what_the_paper_says(oracle, sizes):
    build = BACKBONES[oracle.__name__]
    model = filled(build(num_tasks=NUM_TASKS, tower=(4,), **COLUMNS, **sizes, rngs=nnx.Rngs(0)))
    numeric, categories = columns()
    logits = model(numeric, categories)
    assert logits.shape == (ROWS, NUM_TASKS)
    for row in range(ROWS):
        x = one_row(model.trunk.input.table, numeric[row], categories[row])
        wanted = [oracle(model, x, task).item() for task in range(NUM_TASKS)]
        np.testing.assert_allclose(logits[row], wanted, rtol=1e-4, atol=1e-4)


def test_early_task_experts_reach_every_task():
    sizes = {"widths": (5,), "shared_experts": 1, "task_experts": 2, "levels": 3, "tower": ()}
    graph, params = nnx.split(
        filled(BACKBONES["ple"](num_tasks=NUM_TASKS, **COLUMNS, **sizes, rngs=nnx.Rngs(0)))
    )
    jacobian = jax.jit(jax.jacrev(lambda params: nnx.merge(graph, params)(*columns()).sum(axis=0)))(
        params
    )
    early = [*jacobian["trunk"]["task_experts"].values(), *jacobian["trunk"]["task_gates"].values()]
    assert len(early) == 3
    for leaf in jax.tree.leaves(early):
        moved = np.abs(leaf).reshape(NUM_TASKS, NUM_TASKS, -1).sum(axis=2)
        assert (moved > 0).all()


@pytest.mark.parametrize(("name", "width"), [("dcn", 1), ("dcn_v2", 14)])
def test_the_number_of_parameters_of_crosses(name, width):
    """Of each of three layers a vector or a matrix, and a bias (DCN, section 3; DCN-V2, Eq. 1)."""
    sizes = {"layers": 3, "widths": (8,), "tower": ()}
    model = BACKBONES[name](
        num_tasks=2, numeric=4, cardinalities=(9, 9), embedding=5, **sizes, rngs=nnx.Rngs(0)
    )
    count = lambda part: sum(leaf.size for leaf in jax.tree.leaves(nnx.state(part)))
    assert count(model.trunk.cross) == 3 * (14 * width + 14)
    assert count(model) == count(model.trunk.cross) + 18 * 5 + 14 * 8 + 8 + 2 * (14 + 8 + 1)


@pytest.mark.parametrize(("numeric", "cardinalities"), [(0, (3, 4)), (2, ())])
def test_tables_may_lack_one_kind_of_column(numeric, cardinalities):
    layer = TabularInput(numeric, cardinalities, 2, rngs=nnx.Rngs(0))
    numbers, categories = columns()
    features = layer(numbers[:, :numeric], categories[:, : len(cardinalities)])
    wanted = (
        [numbers] if numeric else [layer.table[categories[:, 0]], layer.table[3 + categories[:, 1]]]
    )
    np.testing.assert_array_equal(features, np.concatenate(wanted, axis=1))
    assert layer.features == features.shape[1]
