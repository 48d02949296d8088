"""The properties that the registry declares, on matrices of every kind and scale."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import mtl_optax as mtl
from tests.common import (
    METHODS,
    first_update,
    flat,
    from_matrix,
    inputs,
    make,
    matrices,
    relative_error,
    tree_gradients,
    weights_of,
    with_property,
)

KINDS = matrices()
every_kind = pytest.mark.parametrize("kind", KINDS)
# Methods that build on weights which are unique only for linearly independent gradients.
AMBIGUOUS = {"getmtl"}
SCALES = (1e-12, 1e-6, 1.0, 1e6, 1e12)

_cache: dict[tuple[str, int], object] = {}


def update(name, given):
    """The first update and its state, with one compilation per method and number of tasks."""
    num_tasks = given.losses.shape[0]
    if (name, num_tasks) not in _cache:
        tx = make(name, num_tasks)
        _cache[name, num_tasks] = jax.jit(
            lambda g: tx.update(
                g.gradients,
                tx.init(g.params),
                g.params,
                task_losses=g.losses,
                query_gradients=g.query_gradients,
            )
        )
    return _cache[name, num_tasks](given)


@pytest.mark.parametrize("name", METHODS)
def test_every_update_is_finite(name):
    for kind, matrix in KINDS.items():
        for scale in SCALES:
            updates, state = update(name, from_matrix(matrix, scale))
            assert np.all(np.isfinite(flat(updates))), (kind, scale)
            assert all(np.all(np.isfinite(leaf)) for leaf in numbers(state)), (kind, scale)


def numbers(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


@pytest.mark.parametrize("name", with_property("one task"))
def test_one_task_is_its_gradient(name):
    matrix = np.random.default_rng(0).normal(size=(1, 17))
    for scale in SCALES:
        updates, _ = update(name, from_matrix(matrix, scale))
        assert relative_error(flat(updates), matrix[0] * scale) < 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_equal_gradients_show_the_declared_scale(name):
    """T equal gradients give T times what one gives ("sum"), or the same ("mean")."""
    info = mtl.method_info(name)
    if info.scale not in ("sum", "mean"):
        pytest.skip("declares neither sum nor mean")
    row = np.random.default_rng(0).normal(size=(1, 17)) / 17
    ones = lambda given: given._replace(losses=jnp.ones_like(given.losses))
    single, _ = update(name, ones(from_matrix(row)))
    many, _ = update(name, ones(from_matrix(np.repeat(row, 3, axis=0))))
    factor = 3.0 if info.scale == "sum" else 1.0
    assert relative_error(flat(many), factor * flat(single)) < 1e-4


@every_kind
@pytest.mark.parametrize("name", with_property("homogeneous"))
def test_scaling_all_gradients_scales_the_update(name, kind):
    matrix = KINDS[kind]
    base, _ = update(name, from_matrix(matrix))
    for scale in (2.0**-30, 2.0**20):
        scaled, _ = update(name, from_matrix(matrix, scale))
        np.testing.assert_allclose(flat(scaled), scale * flat(base), rtol=1e-4, atol=1e-6 * scale)


@every_kind
@pytest.mark.parametrize("name", with_property("equivariant"))
def test_permuting_the_tasks_leaves_the_update_alone(name, kind):
    matrix = KINDS[kind]
    independent = np.linalg.matrix_rank(matrix) == matrix.shape[0]
    if name in AMBIGUOUS and not independent:
        pytest.skip("the weights of stage one are not unique, and stage two depends on them")
    given = from_matrix(matrix)
    order = np.random.default_rng(3).permutation(matrix.shape[0])
    permuted = from_matrix(matrix[order])._replace(
        losses=given.losses[order],
        query_gradients=jax.tree.map(lambda g: g[order], given.query_gradients),
    )
    base, state = update(name, given)
    moved, moved_state = update(name, permuted)
    size = np.max(np.abs(flat(given.gradients, tasks=True)))
    np.testing.assert_allclose(flat(moved), flat(base), rtol=1e-3, atol=1e-4 * size)
    if independent and "linear" in mtl.method_info(name).properties:
        np.testing.assert_allclose(
            weights_of(moved_state), weights_of(state)[order], rtol=1e-3, atol=1e-5
        )


@every_kind
@pytest.mark.parametrize("name", with_property("non-conflicting"))
def test_the_update_conflicts_with_no_task(name, kind):
    matrix = KINDS[kind]
    direction = flat(update(name, from_matrix(matrix))[0])
    lengths = np.linalg.norm(matrix, axis=1)
    # In float32, an inner product is known to the rounding of its largest terms.
    assert np.all(matrix @ direction >= -2e-6 * lengths * np.max(lengths))


@every_kind
@pytest.mark.parametrize("name", with_property("conic"))
def test_weights_are_not_negative(name, kind):
    weights = weights_of(update(name, from_matrix(KINDS[kind]))[1])
    assert np.all(weights >= 0)


@every_kind
@pytest.mark.parametrize("name", with_property("convex"))
def test_weights_lie_on_the_simplex(name, kind):
    weights = weights_of(update(name, from_matrix(KINDS[kind]))[1])
    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)


@every_kind
@pytest.mark.parametrize("name", with_property("rotation"))
def test_rotating_the_gradients_rotates_the_update(name, kind):
    matrix = KINDS[kind]
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(17, 17)))[0]
    turn = lambda tree: tree_gradients(jnp.asarray(flat(tree, tasks=True) @ rotation, jnp.float32))
    given = from_matrix(matrix)
    base, _ = update(name, given)
    turned, _ = update(
        name,
        given._replace(
            gradients=turn(given.gradients), query_gradients=turn(given.query_gradients)
        ),
    )
    size = np.max(np.abs(matrix))
    np.testing.assert_allclose(flat(turned), flat(base) @ rotation, rtol=1e-3, atol=3e-4 * size)


def test_every_declared_property_is_known():
    for name in METHODS:
        assert mtl.method_info(name).properties <= set(mtl.PROPERTIES)


@pytest.mark.parametrize("name", METHODS)
def test_undeclared_determinism_is_real(name):
    """A method that keeps a random key is not declared deterministic, and the other way round."""
    state = make(name, 3).init(inputs(3).params)
    keyed = any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(state))
    assert keyed == ("deterministic" not in mtl.method_info(name).properties)


def test_first_update_and_cached_update_agree():
    given = inputs(3)
    np.testing.assert_array_equal(
        flat(first_update(make("mgda", 3), given)[0]), flat(update("mgda", given)[0])
    )


# Any finite task gradients, at any scale and as far apart as float32 can weigh them.
fuzzed = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "rank": st.integers(0, 3),
        "exponent": st.integers(-25, 15),
        "apart": st.lists(st.integers(-3, 3), min_size=3, max_size=3),
        "copies": st.sampled_from([(0, 1, 2), (0, 0, 2), (1, 1, 1)]),
        "signs": st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=3, max_size=3),
        "losses": st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3),
    }
)


@pytest.mark.parametrize("name", METHODS)
@hypothesis.given(fuzzed)
def test_fuzz(name, drawn):
    """`--fuzz N` draws N examples for each method."""
    rng = np.random.default_rng(drawn["seed"])
    matrix = rng.normal(size=(3, drawn["rank"])) @ rng.normal(size=(drawn["rank"], 17))
    matrix = matrix[list(drawn["copies"])] * np.array(drawn["signs"])[:, None]
    matrix = matrix * 10.0 ** np.array(drawn["apart"])[:, None]
    scale = 10.0 ** drawn["exponent"]
    losses = jnp.array(drawn["losses"], jnp.float32)
    updates, state = update(name, from_matrix(matrix, scale)._replace(losses=losses))
    assert np.all(np.isfinite(flat(updates)))
    assert all(np.all(np.isfinite(leaf)) for leaf in numbers(state))
    properties = mtl.method_info(name).properties
    direction = flat(updates) / (1 if mtl.method_info(name).scale == "unit" else scale)
    if "non-conflicting" in properties:
        lengths = np.linalg.norm(matrix, axis=1)
        assert np.all(matrix @ direction >= -2e-6 * lengths * max(np.max(lengths), 1))
    if "linear" in properties:
        weights = weights_of(state).astype(np.float64)
        size = np.abs(weights) @ np.abs(matrix)
        np.testing.assert_allclose(
            flat(updates),
            weights @ matrix * scale,
            rtol=0,
            atol=1e-5 * scale * np.max(size) + 1e-37,
        )
        if "conic" in properties:
            assert np.all(weights >= 0)
        if "convex" in properties:
            np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
