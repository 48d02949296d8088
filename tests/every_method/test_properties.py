"""The properties that the registry declares, on matrices of every kind and scale."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import mtl_optax as mtl
from tests.common import (
    LINEAR,
    METHODS,
    WEIGHTED,
    first_update,
    flat,
    inputs,
    make,
    optimised,
    relative_error,
    step,
    tree_gradients,
    weights_of,
    with_property,
)
from tests.matrices import KINDS as ALL
from tests.matrices import hard

# All kinds of three tasks, and of other numbers what those do not show.
CHOSEN = {
    1: ["gaussian"],
    2: ["gaussian", "opposite"],
    3: ALL,
    4: ["gaussian", "half rank", "duplicated"],
}
KINDS = {f"{kind}, {t}": hard(t, 17)[kind] for t, kinds in CHOSEN.items() for kind in kinds}
SCALES = (1e-12, 1e-6, 1.0, 1e6, 1e12)
SUMS = ("sum", "mean")
BLOCK = 16  # Cases that a program takes at a time, one after the other.


class Case(NamedTuple):
    matrix: np.ndarray  # Task gradients, (T, 17).
    losses: np.ndarray
    query: np.ndarray


class First(NamedTuple):
    """What a method makes of a case in its first step."""

    update: np.ndarray  # (17,), in float64.
    state: list[np.ndarray]  # Its floating leaves.
    weights: np.ndarray | None


def case_of(matrix: np.ndarray, scale: float = 1.0) -> Case:
    losses, query = drawn(len(matrix))
    return Case(np.float32(matrix * scale), losses, query)


@functools.cache
def drawn(num_tasks: int) -> tuple[np.ndarray, np.ndarray]:
    given = inputs(num_tasks)
    return np.asarray(given.losses), np.float32(flat(given.query_gradients, tasks=True))


@functools.cache
def program(name: str, num_tasks: int) -> Any:
    """One for each number of tasks, compiled as users compile it."""
    tx, params = make(name, num_tasks), inputs(num_tasks).params

    def first(case: Case) -> Any:
        given = inputs(num_tasks)._replace(
            params=params,
            gradients=tree_gradients(case.matrix),
            losses=case.losses,
            query_gradients=tree_gradients(case.query),
        )
        return step(tx, tx.init(params), given)

    return optimised(functools.partial(jax.lax.map, first))


def first_updates(name: str, cases: Sequence[Case]) -> list[First]:
    """The first step of each case, in order; they may differ in their number of tasks."""
    found: dict[int, First] = {}
    for num_tasks in {len(case.matrix) for case in cases}:
        where = [i for i, case in enumerate(cases) if len(case.matrix) == num_tasks]
        for start in range(0, len(where), BLOCK):
            block = where[start : start + BLOCK]
            padded = block + block[-1:] * (BLOCK - len(block))
            stacked = Case(*map(np.stack, zip(*(cases[i] for i in padded), strict=True)))
            updates, state = program(name, num_tasks)(stacked)
            moves, floats = flat(updates, tasks=True), [np.asarray(x) for x in numbers(state)]
            weights = weights_of(state) if name in WEIGHTED else None
            for row, i in enumerate(block):
                own = None if weights is None else weights[row]
                found[i] = First(moves[row], [leaf[row] for leaf in floats], own)
    return [found[i] for i in range(len(cases))]


@functools.cache
def of_kinds(name: str) -> dict[str, First]:
    """The first step on each kind of matrix as it is."""
    return dict(zip(KINDS, first_updates(name, list(map(case_of, KINDS.values()))), strict=True))


def properties(name: str) -> frozenset[str]:
    return mtl.method_info(name).properties


def numbers(tree: Any) -> list[Any]:
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


@pytest.mark.parametrize("name", METHODS)
def test_every_update_is_finite(name):
    at = [(kind, scale) for kind in KINDS for scale in SCALES]
    firsts = first_updates(name, [case_of(KINDS[kind], scale) for kind, scale in at])
    for where, first in zip(at, firsts, strict=True):
        assert np.all(np.isfinite(first.update)), where
        assert all(np.all(np.isfinite(leaf)) for leaf in first.state), where


@pytest.mark.parametrize("name", with_property("one task"))
def test_one_task_is_its_gradient(name):
    matrix = np.random.default_rng(0).normal(size=(1, 17))
    firsts = first_updates(name, [case_of(matrix, scale) for scale in SCALES])
    for first, scale in zip(firsts, SCALES, strict=True):
        assert relative_error(first.update, matrix[0] * scale) < 1e-6


@pytest.mark.parametrize("name", [n for n in METHODS if mtl.method_info(n).scale in SUMS])
def test_equal_gradients_show_the_declared_scale(name):
    """T equal gradients give T times what one gives ("sum"), or the same ("mean")."""
    row = np.random.default_rng(0).normal(size=(1, 17)) / 17
    ones = lambda case: case._replace(losses=np.ones_like(case.losses))
    cases = [ones(case_of(np.repeat(row, num_tasks, axis=0))) for num_tasks in (1, 2, 3, 4)]
    single, *several = first_updates(name, cases)
    for num_tasks, many in enumerate(several, 2):
        factor = num_tasks if mtl.method_info(name).scale == "sum" else 1
        assert relative_error(many.update, factor * single.update) < 1e-4, num_tasks


@pytest.mark.parametrize("name", with_property("homogeneous"))
def test_scaling_all_gradients_scales_the_update(name):
    for scale in (2.0**-30, 2.0**20):
        scaled = first_updates(name, [case_of(matrix, scale) for matrix in KINDS.values()])
        for (kind, base), got in zip(of_kinds(name).items(), scaled, strict=True):
            np.testing.assert_allclose(
                got.update, scale * base.update, rtol=1e-4, atol=1e-6 * scale, err_msg=kind
            )


@pytest.mark.parametrize("name", with_property("equivariant"))
def test_permuting_the_tasks_leaves_the_update_alone(name):
    full = lambda matrix: np.linalg.matrix_rank(matrix) == len(matrix)
    independent = {kind: full(matrix) for kind, matrix in KINDS.items()}
    affinely = {
        kind: full(np.pad(m, ((0, 0), (0, 1)), constant_values=1)) for kind, m in KINDS.items()
    }
    clear = {"linearly dependent": independent, "affinely dependent": affinely}
    ambiguous = mtl.method_info(name).ambiguous
    kinds = [kind for kind in KINDS if ambiguous is None or clear[ambiguous][kind]]
    orders = [np.random.default_rng(3).permutation(len(KINDS[kind])) for kind in kinds]
    permuted = [
        Case(*(part[order] for part in case_of(KINDS[kind])))
        for kind, order in zip(kinds, orders, strict=True)
    ]
    for kind, order, moved in zip(kinds, orders, first_updates(name, permuted), strict=True):
        base, size = of_kinds(name)[kind], np.max(np.abs(KINDS[kind]))
        np.testing.assert_allclose(
            moved.update, base.update, rtol=1e-3, atol=1e-4 * size, err_msg=kind
        )
        if independent[kind] and base.weights is not None:
            np.testing.assert_allclose(
                moved.weights, base.weights[order], rtol=1e-3, atol=1e-5, err_msg=kind
            )


@pytest.mark.parametrize("name", with_property("non-conflicting"))
def test_the_update_conflicts_with_no_task(name):
    for kind, matrix in KINDS.items():
        lengths = np.linalg.norm(matrix, axis=1)
        # In float32, an inner product is known to the rounding of its largest terms.
        least = -2e-6 * lengths * np.max(lengths)
        assert np.all(matrix @ of_kinds(name)[kind].update >= least), kind


@pytest.mark.parametrize("name", with_property("conic"))
def test_weights_are_not_negative(name):
    for kind, first in of_kinds(name).items():
        assert np.all(first.weights >= 0), kind


@pytest.mark.parametrize("name", with_property("convex"))
def test_weights_lie_on_the_simplex(name):
    for kind, first in of_kinds(name).items():
        assert np.all(first.weights >= 0), kind
        np.testing.assert_allclose(first.weights.sum(), 1, rtol=1e-6, err_msg=kind)


@pytest.mark.parametrize("name", with_property("rotation"))
def test_rotating_the_gradients_rotates_the_update(name):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(17, 17)))[0]
    turn = lambda rows: np.float32(np.float64(rows) @ rotation)
    cases = map(case_of, KINDS.values())
    turned = [c._replace(matrix=turn(c.matrix), query=turn(c.query)) for c in cases]
    for kind, got in zip(KINDS, first_updates(name, turned), strict=True):
        size, wanted = np.max(np.abs(KINDS[kind])), of_kinds(name)[kind].update @ rotation
        np.testing.assert_allclose(got.update, wanted, rtol=1e-3, atol=3e-4 * size, err_msg=kind)


def test_every_declared_property_is_known():
    for name in METHODS:
        assert mtl.method_info(name).properties <= set(mtl.PROPERTIES)


@pytest.mark.parametrize("name", METHODS)
def test_undeclared_determinism_is_real(name):
    """A method that keeps a random key is not declared deterministic, and the other way round."""
    state = make(name, 3).init(inputs(3).params)
    keyed = bool(optax.tree_utils.tree_get_all_with_path(state, "key"))
    assert keyed == ("deterministic" not in mtl.method_info(name).properties)


def test_a_case_in_a_block_is_a_step_alone():
    for name in METHODS:
        given = inputs(3)
        case = Case(np.float32(flat(given.gradients, tasks=True)), *drawn(3))
        wanted, _ = first_update(make(name, 3), given)
        np.testing.assert_allclose(
            first_updates(name, [case])[0].update, flat(wanted), rtol=1e-4, atol=1e-6, err_msg=name
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
def test_fuzz(name, example):
    """`--fuzz N` draws N examples for each method."""
    rng = np.random.default_rng(example["seed"])
    matrix = rng.normal(size=(3, example["rank"])) @ rng.normal(size=(example["rank"], 17))
    matrix = matrix[list(example["copies"])] * np.array(example["signs"])[:, None]
    matrix = matrix * 10.0 ** np.array(example["apart"])[:, None]
    scale = 10.0 ** example["exponent"]
    case = case_of(matrix, scale)._replace(losses=np.float32(example["losses"]))
    (first,) = first_updates(name, [case])
    assert np.all(np.isfinite(first.update))
    assert all(np.all(np.isfinite(leaf)) for leaf in first.state)
    direction = first.update / (1 if mtl.method_info(name).scale == "unit" else scale)
    if "non-conflicting" in properties(name):
        lengths = np.linalg.norm(matrix, axis=1)
        longest = max(np.max(lengths), np.linalg.norm(direction), 1)
        assert np.all(matrix @ direction >= -2e-6 * lengths * longest)
    if first.weights is not None:
        weights = first.weights.astype(np.float64)
        size = np.abs(weights) @ np.abs(matrix)
        if name in LINEAR:
            np.testing.assert_allclose(
                first.update,
                weights @ matrix * scale,
                rtol=0,
                atol=1e-5 * scale * np.max(size) + 1e-37,
            )
        if "conic" in properties(name):
            assert np.all(weights >= 0)
        if "convex" in properties(name):
            np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
