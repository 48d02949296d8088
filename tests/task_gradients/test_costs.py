"""What a whole step costs, by XLA's own plan of it: no run, no clock."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest

import mtl_optax as mtl
from tests.common import optimised

BATCH, WIDTH, LAYERS = 128, 1024, 3


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def dense_losses(p, x):
    z = functools.reduce(lambda z, w: jnp.tanh(z @ w), p["layers"], x)
    return jnp.mean((z @ p["heads"]) ** 2, axis=0)


def dense(num_tasks):
    """Three layers of 1024, without their numbers."""
    layers = [shape(WIDTH, WIDTH)] * LAYERS
    return dense_losses, {"layers": layers, "heads": shape(WIDTH, num_tasks)}, shape(BATCH, WIDTH)


def table(num_tasks):
    """A table of 5000 rows."""

    def losses_of(p, tokens):
        z = jnp.tanh(p["table"][tokens].mean(1) @ p["hidden"])
        return jnp.mean((z @ p["heads"]) ** 2, axis=0)

    p = {"table": shape(5000, 16), "hidden": shape(16, 24), "heads": shape(24, num_tasks)}
    return losses_of, p, shape(BATCH, 4, dtype=jnp.int32)


@functools.cache
def compiled(model, num_tasks, method, own=False, **options):
    """The program of a step with SGD; `method` None is equal weighting by hand."""
    losses_of, p, x = model(num_tasks)
    tx = optax.chain(*([method(num_tasks)] if method else []), optax.sgd(0.1))

    def step(p, x):
        if method is None:
            losses, gradients = jax.value_and_grad(lambda p: losses_of(p, x).sum())(p)
        else:
            losses, gradients = mtl.value_and_task_grads(losses_of, **options)(p, x)
        updates, state = tx.update(gradients, tx.init(p), p)
        return losses, optax.apply_updates(p, updates), state

    return optimised(step, donate_argnums=0).lower(p, x).compile()


def flops(program):
    return program.cost_analysis()["flops"]


def temporaries(program):
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("num_tasks", [2, 4])
def test_taps_cost_a_third_of_a_step_for_a_task(num_tasks):
    equal = flops(compiled(dense, num_tasks, None))
    taps = flops(compiled(dense, num_tasks, mtl.mgda, stacked=False))
    assert taps < 1.08 * (num_tasks + 2) / 3 * equal


@pytest.mark.parametrize(
    ("model", "num_tasks", "kernels"), [(dense, 4, ["1024,1024"]), (table, 3, ["5000,16"])]
)
def test_no_task_gradients_of_kernels_and_tables_are_made(model, num_tasks, kernels):
    program = compiled(model, num_tasks, mtl.mgda, stacked=False)
    found = {
        math.prod(map(int, sizes.split(",")))
        for sizes in re.findall(r"f32\[([\d,]+)\]", program.as_text())
    }
    for kernel in kernels:
        size = math.prod(map(int, kernel.split(",")))
        assert size in found  # The parameter itself, and its update.
        assert num_tasks * size not in found


def test_taps_take_less_memory_than_a_stack():
    """And rows less than taps for many tasks."""
    taps, stack = (
        temporaries(compiled(dense, 4, mtl.mgda, **options)) for options in ({"stacked": False}, {})
    )
    assert taps < stack / 2
    few, many = (
        temporaries(compiled(dense, n, mtl.mgda, stacked=False, way="rows")) for n in (4, 24)
    )
    gradient = 4 * LAYERS * WIDTH**2
    assert many < few + gradient / 2


@pytest.mark.parametrize("way", ["taps", "rows", "features"])
def test_methods_that_read_losses_cost_one_backward_pass(way):
    marked = lambda n: (lambda p, x: dense_losses(p, mtl.mark_features(x)), *dense(n)[1:])
    equal = flops(compiled(dense, 3, None))
    assert flops(compiled(marked, 3, mtl.uw, stacked=False, way=way)) < 1.03 * equal


def test_a_batch_for_each_task_costs_what_the_batches_cost():
    """No backward pass of one task runs through the batches of the others."""
    losses_of, p, _ = dense(1)
    x = shape(5, 16, WIDTH)
    tx = mtl.mgda(5)

    def step(p, x):
        fun = lambda p, x: losses_of(p, x)[0]
        _, g = mtl.per_task_value_and_grad(fun, stacked=False)(p, x)
        return tx.update(g, tx.init(p), p)

    equal = jax.grad(lambda p, x: losses_of(p, x.reshape(-1, WIDTH)).sum())
    of = lambda fun: flops(optimised(fun).lower(p, x).compile())
    assert of(step) < 1.5 * of(equal)


def test_passes_uphill_are_as_many_as_are_stated():
    """In forward passes; a backward pass takes two, but for the gradient of the input."""
    p = {"layers": [shape(64, 64)] * LAYERS, "heads": shape(64, 4)}
    count = lambda fun: flops(jax.jit(fun).lower(p, shape(1024, 64)).compile())
    gather = functools.partial(mtl.sam_value_and_task_grads, dense_losses, 0.1, shared="layers")
    one, backward = count(dense_losses), 2 - 1 / LAYERS
    uphill = 4 * (1 + backward)
    assert count(gather()) / one == pytest.approx(1 + 4 * backward + uphill, rel=0.08)
    samo = count(gather(beta=0.5, key=0)) / one
    assert samo == pytest.approx(1 + backward + backward + uphill, rel=0.08)
