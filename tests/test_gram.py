"""Contractions of gradient trees against NumPy in float64."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import mtl_optax as mtl
from mtl_optax import _gram, _gram_on_cpu
from mtl_optax._tracing import inner_programs
from tests.common import METHODS, Inputs, flat, make, optimised, step, tree_gradients


def random_tree(num_tasks=4, seed=0, scale=1.0):
    matrix = np.random.default_rng(seed).normal(size=(num_tasks, 17)) * scale
    return tree_gradients(jnp.asarray(matrix, jnp.float32))


def test_gram_combine_mix_and_norms_equal_numpy():
    tree = random_tree()
    matrix = flat(tree, tasks=True)
    rng = np.random.default_rng(1)
    weights, coefficients = rng.normal(size=4), rng.normal(size=(3, 4))
    np.testing.assert_allclose(_gram.gram(tree), matrix @ matrix.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        flat(_gram.combine(jnp.asarray(weights, jnp.float32), tree)),
        weights @ matrix,
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        flat(_gram.mix(jnp.asarray(coefficients, jnp.float32), tree), tasks=True),
        coefficients @ matrix,
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(_gram.norms(tree), np.linalg.norm(matrix, axis=1), rtol=1e-6)


def test_gram_of_bfloat16_accumulates_in_float32():
    leaf = jnp.ones((1, 4096), jnp.bfloat16) * jnp.asarray(1 + 2**-7, jnp.bfloat16)
    value = float(leaf[0, 0].astype(jnp.float32)) ** 2 * 4096
    product = mtl.gram(leaf)
    assert product.dtype == jnp.float32
    # Accumulated in bfloat16 it would be off by 4e-3 and more.
    np.testing.assert_allclose(product, [[value]], rtol=2e-4)


def test_gram_of_float64_stays_float64():
    with jax.enable_x64(True):
        leaf = jnp.asarray(np.random.default_rng(0).normal(size=(3, 50)))
        matrix = np.asarray(leaf)
        product = mtl.gram({"a": leaf, "b": leaf.astype(jnp.float32)})
        assert product.dtype == jnp.float64
        np.testing.assert_allclose(
            product, matrix @ matrix.T + matrix.astype("f4") @ matrix.astype("f4").T, rtol=1e-6
        )


LONG = _gram_on_cpu.LONG + 3  # Whole chains, or blocks, and a rest: it is a prime number.
MANY = _gram_on_cpu.PAIRED_TASKS + 1


def scaled_back(product, scale, factor=1.0):
    """The Gram matrix that is held as `scale_s scale_t product_st`, times `factor` of each task."""
    scale = np.asarray(scale, np.float64) * factor
    return np.asarray(product, np.float64) * np.outer(scale, scale)


@pytest.mark.parametrize("exponent", [-100, -60, 0, 60, 120])
def test_scaled_gram_is_the_gram_at_any_scale(exponent):
    tree = random_tree()
    matrix = flat(tree, tasks=True)
    scaled = jax.tree.map(lambda g: jnp.ldexp(g, exponent), tree)
    product, scale = _gram.scaled_gram(scaled, jnp.ones(4, bool))
    assert np.all((np.diagonal(product) >= 1) & (np.diagonal(product) < 4))
    assert np.all(np.log2(scale) % 1 == 0)
    got = scaled_back(product, scale, 2.0**-exponent)
    np.testing.assert_allclose(got, matrix @ matrix.T, rtol=1e-5)


@pytest.mark.parametrize("size", [3, LONG])
@pytest.mark.parametrize("num_tasks", [4, MANY])
def test_scaled_gram_keeps_tasks_that_lie_far_apart(size, num_tasks):
    """Down to 1e-33 of the largest: their own products, and those with the others."""
    matrix = np.random.default_rng(0).normal(size=(num_tasks, size)).astype(np.float32)
    exponents = np.array([0, -110, 60, -30] + [0] * (num_tasks - 4))
    rows = jnp.ldexp(jnp.asarray(matrix), jnp.expand_dims(exponents, 1))
    product, scale = _gram.scaled_gram({"w": rows}, jnp.ones(num_tasks, bool))
    got = scaled_back(product, scale, 2.0**-exponents)
    matrix = matrix.astype(np.float64)
    np.testing.assert_allclose(got, matrix @ matrix.T, rtol=1e-5, atol=1e-5 * size)


def test_a_zero_gradient_beside_others_costs_no_second_pass():
    """Nor does it change the products of the others."""
    tree = jax.tree.map(lambda g: g.at[2].set(0), random_tree())
    product, scale = _gram.scaled_gram(tree, jnp.ones(4, bool))
    assert scale[2] == 1
    assert not np.any(product[2])
    matrix = flat(tree, tasks=True)
    np.testing.assert_allclose(scaled_back(product, scale), matrix @ matrix.T, rtol=1e-5)


def test_scaled_gram_leaves_absent_tasks_out_of_matrix_and_scale():
    tree = random_tree()
    spoiled = jax.tree.map(lambda g: g.at[1].set(jnp.inf), tree)
    mask = jnp.array([True, False, True, True])
    product, scale = _gram.scaled_gram(spoiled, mask)
    wanted, wanted_scale = _gram.scaled_gram(jax.tree.map(lambda g: g.at[1].set(0), tree), mask)
    np.testing.assert_array_equal(product, wanted)
    np.testing.assert_array_equal(scale, wanted_scale)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_norms_do_not_overflow_or_underflow(scale):
    tree = jax.tree.map(lambda g: g * jnp.float32(scale), random_tree())
    wanted = np.linalg.norm(flat(random_tree(), tasks=True), axis=1) * scale
    np.testing.assert_allclose(_gram.norms(tree), wanted, rtol=1e-5)


def test_a_leaf_without_entries_adds_nothing():
    tree, empty = random_tree(), jnp.zeros((4, 0), jnp.float32)
    np.testing.assert_array_equal(_gram.norms([tree, empty]), _gram.norms(tree))
    np.testing.assert_array_equal(_gram.gram([tree, empty]), _gram.gram(tree))


@pytest.mark.parametrize("exponents", [(0, 0), (-100, 120), (-40, -40), (60, 60)])
def test_cross_gram_holds_the_products_of_two_stacks(exponents):
    left, right = random_tree(seed=0), random_tree(seed=1)
    matrix = flat(left, tasks=True) @ flat(right, tasks=True).T
    mask = jnp.array([True, False, True, True])
    spoiled = jax.tree.map(lambda g: g.at[1].set(jnp.inf), right)
    scaled = [
        jax.tree.map(lambda g, e=e: jnp.ldexp(g, e), tree)
        for e, tree in zip(exponents, (left, spoiled), strict=True)
    ]
    product, scale, unit = _gram.cross_gram(*scaled, mask)
    assert np.max(np.asarray(scale)[mask]) == 1
    largest = np.max(np.abs(product), axis=1)[mask]
    assert np.all((largest >= 1) & (largest < 2))
    assert np.all(np.asarray(product)[~np.outer(mask, mask)] == 0)
    factor = np.asarray(scale * unit, np.float64)[:, None] * 2.0 ** -sum(exponents)
    wanted = np.where(np.outer(mask, mask), matrix, 0)
    np.testing.assert_allclose(np.asarray(product) * factor, wanted, rtol=1e-5, atol=1e-5)


def test_zero_gradients():
    zeros = jax.tree.map(jnp.zeros_like, random_tree())
    product, scale = _gram.scaled_gram(zeros, jnp.ones(4, bool))
    assert np.all(np.asarray(product) == 0)
    assert np.all(scale == 1)
    assert np.all(np.asarray(_gram.norms(zeros)) == 0)
    product, scale, unit = _gram.cross_gram(zeros, random_tree(), jnp.ones(4, bool))
    assert np.all(np.asarray(product) == 0)
    assert np.all(scale == 1)
    assert np.isfinite(unit)


def test_the_scales_of_two_stacks_are_known_where_their_products_are_not():
    """At 1e50 the unit is infinite in float32, and the shares of the rows are what they are."""
    left, right = random_tree(seed=0), random_tree(seed=1)
    ones = jnp.ones(4, bool)
    wanted = _gram.cross_gram(left, right, ones)
    large = lambda tree: jax.tree.map(lambda g: jnp.ldexp(g, 84), tree)
    found = _gram.cross_gram(large(left), large(right), ones)
    np.testing.assert_array_equal(found.matrix, wanted.matrix)
    np.testing.assert_array_equal(found.scale, wanted.scale)
    assert np.isinf(found.unit)


@pytest.mark.parametrize("num_tasks", [2, 3, MANY - 1, MANY, 17])
@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f2", "f4"), ("bfloat16", "bfloat16")])
def test_long_leaves_are_contracted_in_parts_to_the_same_products(dtypes, num_tasks):
    rng = np.random.default_rng(0)
    left, right = (jnp.asarray(rng.normal(size=(num_tasks, 5, LONG)), dtype) for dtype in dtypes)
    matrices = [np.asarray(leaf, np.float64).reshape(num_tasks, -1) for leaf in (left, right)]
    mask = jnp.ones(num_tasks, bool)
    product, scale, unit = optimised(_gram.cross_gram)(left, right, mask)
    got = np.asarray(product) * np.asarray(scale * unit)[:, None]
    np.testing.assert_allclose(got, matrices[0] @ matrices[1].T, rtol=1e-5, atol=0.01)
    for size in (1.0, 1e-30):  # The second one takes the pass over divided gradients.
        small = left.astype(jnp.float32) * size
        product, scale = optimised(_gram.scaled_gram)(small, mask)
        got = scaled_back(product, scale, 1 / size)
        np.testing.assert_allclose(got, matrices[0] @ matrices[0].T, rtol=1e-5, atol=0.01)


@pytest.mark.parametrize("spec", [("x", None), (None, "x"), (None, None)])
def test_long_leaves_on_a_mesh_of_one_device_whose_shardings_are_types(spec):
    """A program written for many devices runs on one, by blocks too."""
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Explicit,))
    leaf = np.random.default_rng(0).normal(size=(2, 3, LONG)).astype(np.float32)
    with jax.set_mesh(mesh):
        cut = jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(None, *spec)))
        got = optimised(mtl.gram)(cut)
        summed = optimised(mtl.combine)(jnp.ones(2), cut)
    matrix = leaf.reshape(2, -1).astype(np.float64)
    np.testing.assert_allclose(got, matrix @ matrix.T, rtol=1e-5, atol=0.1)
    assert jax.typeof(summed).sharding.spec == PartitionSpec(*spec)


@pytest.mark.parametrize("leaves", [1, 40])
@pytest.mark.parametrize("num_tasks", [2, MANY - 1, MANY])
def test_products_need_no_memory_but_for_blocks_and_lower_for_every_platform(num_tasks, leaves):
    leaf = jax.ShapeDtypeStruct((num_tasks, 40 // leaves, LONG), jnp.float32)
    tree = [leaf] * leaves
    scaled = optimised(lambda g: _gram.scaled_gram(g, jnp.ones(num_tasks, bool)))
    # Older versions of XLA lay the leaves out anew.
    stack = 4 * leaf.size * leaves if jax.__version_info__ < (0, 10) else 0
    at_once = _gram_on_cpu.BLOCKS_AT_ONCE if num_tasks == MANY else 3
    blocks = 4 * _gram_on_cpu.BLOCK * at_once
    plan = scaled.lower(tree).compile().memory_analysis()
    assert plan.temp_size_in_bytes < stack + blocks + 2**20
    exported = export.export(scaled, platforms=["cpu", "cuda", "tpu"])(tree)
    assert exported.platforms == ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("num_tasks", [3, MANY])
@pytest.mark.parametrize("size", [LONG, 32 * _gram_on_cpu.CHAIN, 8 * LONG])
def test_long_and_short_leaves_of_one_tree(size, num_tasks):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(num_tasks, size + 7)).astype(np.float32)
    tree = {
        "long": matrix[:, :size],
        "short": matrix[:, size:],
        "empty": np.ones((num_tasks, 0), "f4"),
    }
    wanted = matrix.astype(np.float64) @ matrix.T.astype(np.float64)
    np.testing.assert_allclose(optimised(mtl.gram)(tree), wanted, rtol=1e-5, atol=0.02)
    tiny = jax.tree.map(lambda g: g * 2.0**-80, tree)
    product, scale = _gram.scaled_gram(tiny, jnp.ones(num_tasks, bool))
    got = scaled_back(product, scale, 2.0**80)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=0.02)


@pytest.mark.parametrize("num_tasks", [2, MANY])
def test_long_leaves_can_be_differentiated(num_tasks):
    leaf = jnp.asarray(np.random.default_rng(0).normal(size=(num_tasks, LONG)), jnp.float32)
    slopes = optimised(jax.grad(lambda g: mtl.gram(g)[0, 1]))(leaf)
    np.testing.assert_allclose(slopes[:2], leaf[1::-1], rtol=1e-6)
    assert not np.any(slopes[2:])


@pytest.mark.parametrize("num_tasks", [3, MANY])
def test_long_leaves_under_vmap(num_tasks):
    leaves = jnp.asarray(np.random.default_rng(0).normal(size=(2, num_tasks, LONG)), jnp.float32)
    matrices = np.asarray(leaves, np.float64)
    products = optimised(jax.vmap(mtl.gram))(leaves)
    np.testing.assert_allclose(products, matrices @ matrices.swapaxes(1, 2), rtol=1e-5, atol=0.02)


@pytest.mark.nans
@pytest.mark.parametrize("num_tasks", [2, _gram.FEW_TASKS, _gram.FEW_TASKS + 1])
def test_combine_keeps_what_is_not_finite(num_tasks):
    leaf = jnp.ones((num_tasks, 3)).at[0, 0].set(jnp.inf).at[1, 1].set(jnp.nan)
    sums = optimised(mtl.combine)(jnp.ones(num_tasks).at[0].set(0), leaf)
    np.testing.assert_array_equal(sums, [np.nan, np.nan, num_tasks - 1])


def test_sharded_leaves_are_contracted_where_they_lie():
    """On eight devices no gradient is gathered, on whichever axis of a parameter it is cut."""
    program = f"""
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from mtl_optax import _gram
mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
mask, weights = jnp.ones(2, bool), jnp.ones(2)
for axis in (1, 2):
    spec = PartitionSpec(*(["x" if i == axis else None for i in range(3)]))
    leaf = jax.device_put(jnp.ones((2, 16, 8 * {_gram_on_cpu.LONG})), NamedSharding(mesh, spec))
    for f in (
        lambda g: _gram.scaled_gram(g, mask),
        lambda g: _gram.cross_gram(g, g, mask),
        lambda g: _gram.combine(weights, g),
        lambda g: _gram.mix(jnp.eye(2), g),
        _gram.norms,
    ):
        text = jax.jit(f).lower(leaf).compile().as_text()
        assert "all-gather" not in text and "all-to-all" not in text, text
"""
    flags = "--xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=100)


def reductions_over_tasks(jaxpr, size):
    """Those of arrays of at least so many numbers that leave the last axis whole."""
    for equation in jaxpr.eqns:
        axes = (
            equation.params.get("axes", ()) if equation.primitive.name.startswith("reduce") else ()
        )
        operand = equation.invars[0].aval if axes else None
        if 0 in axes and operand.ndim - 1 not in axes and operand.size >= size:
            yield equation
        for inner in inner_programs(equation.params.values()):
            yield from reductions_over_tasks(inner, size)


def test_long_leaves_are_not_reduced_over_tasks():
    """JAX 0.10.2 takes tens of times as long for it on the CPU as for sums that are written out."""
    params = {"kernel": jnp.ones((40, 25))}
    rows = jax.tree.map(lambda p: jnp.ones((3, *p.shape)), params)
    given = Inputs(params, rows, jnp.ones(3), rows)
    programs = {"dominance_ratio": lambda: mtl.dominance_ratio(rows)}
    transforms = {name: make(name, 3) for name in METHODS}
    transforms["split_step"] = mtl.split_step(3, optax.sgd(0.1))
    for name, tx in transforms.items():
        programs[name] = lambda tx=tx: step(tx, tx.init(params), given)

    def losses(params, x):
        return jnp.sum(jnp.tanh(x @ params["kernel"]) @ params["heads"], axis=1)

    gather = mtl.sam_value_and_task_grads(losses, rho=0.1, shared="kernel")
    network = {**params, "heads": jnp.ones((25, 40))}
    programs["sam"] = lambda: gather(network, jnp.ones((3, 40)))
    for name, program in programs.items():
        found = list(reductions_over_tasks(jax.make_jaxpr(program)().jaxpr, 3000))
        assert not found, (name, found)
