"""Every method where JAX is told to be strict: no NaN on the way, no promotion, no leak."""

import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify

from tests.common import (
    METHODS,
    ROOT,
    flat,
    from_matrix,
    inputs,
    make,
    optimised,
    step,
)
from tests.every_method.test_eager import OPTIONS
from tests.matrices import hard

T = 3
# Options that take another path through the arithmetic than a method's defaults.
VARIANTS = [
    ("mgda", {"solver": "frank_wolfe"}),
    ("mgda", {"solver": "projected_gradient"}),
    ("getmtl", {"variant": "exact"}),
    ("getmtl", {"variant": "official"}),
    ("tchebycheff", {"smooth": 0.1}),
    ("layerwise_adatask", {"eps": 0.0}),
]


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in METHODS), *VARIANTS], ids=str
)
def test_no_operation_inside_a_step_makes_a_nan(name, options):
    """Else `jax_debug_nans` would blame this library for the NaN of somebody else."""
    tx = make(name, T, **options)
    masks = jnp.array([[True, True, True], [True, False, True], [False, False, False]])
    cases = [
        (from_matrix(matrix, scale), mask)
        for matrix in hard(T, 17).values()
        for scale in (1e-25, 1.0, 1e9 if name == "meta_weighting" else 1e15)
        for mask in masks
    ]

    def two_steps(case):
        given, mask = case
        take = lambda state, _: (step(tx, state, given, task_mask=mask)[1], None)
        return jax.lax.scan(take, tx.init(given.params), length=2)

    checked = checkify.checkify(
        lambda cases: jax.lax.map(two_steps, cases), errors=checkify.nan_checks
    )
    error, _ = jax.jit(checked)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases))
    assert error.get() is None


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_strict_jax(name, x64):
    """Eager and compiled, in the strictest settings that a user's program may run in."""
    with (
        jax.enable_x64(x64),
        jax.debug_nans(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        given = inputs(T, dtype=jnp.float64 if x64 else jnp.float32)
        # An optimiser of the user's is as strict as it is: optax's Adam promotes dtypes.
        tx = make(name, T, **({"optimizer": optax.sgd(0.1)} if name == "adatask" else {}))
        start = tx.init(given.params)
        compiled, state = jax.jit(lambda state, given: step(tx, state, given))(start, given)
        assert np.all(np.isfinite(flat(compiled)))
        if x64:  # What is left to see without compilation is seen in float32.
            return
        eager, after = step(tx, start, given)
        with jax.check_tracer_leaks(True):
            jax.eval_shape(lambda given: step(tx, tx.init(given.params), given), given)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    np.testing.assert_allclose(flat(compiled), flat(eager), rtol=1e-4, atol=1e-6)


ALL = [*((name, {}) for name in METHODS), *OPTIONS]


@pytest.mark.parametrize(
    ("name", "options"), ALL, ids=[f"{at}-{'-'.join([n, *o])}" for at, (n, o) in enumerate(ALL)]
)
def test_a_state_keeps_its_dtypes_where_jax_has_64_bits(name, options):
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            given = inputs(T, dtype=dtype)
            tx = make(name, T, **options)
            start = jax.eval_shape(tx.init, given.params)
            _, after = jax.eval_shape(functools.partial(step, tx), start, given)
            assert after == start, (dtype, start, after)


def program_of(jit):
    """The instructions of a compiled program, without where in which file they come from."""
    fun = lambda x: jnp.sum(jnp.tanh(x) * x + 1)
    lines = jit(fun).lower(np.ones(1000, np.float32)).compile().as_text().splitlines()
    return [re.sub(r", metadata=\{.*?\}", "", line) for line in lines if " = " in line]


def test_optimised_programs_are_those_of_a_process_without_flags():
    script = (
        "import jax, tests.every_method.test_strict as t; print(*t.program_of(jax.jit), sep='\\n')"
    )
    plain = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program_of(optimised) == plain.stdout.splitlines()
