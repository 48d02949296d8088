"""Saves every method's state on one mesh, restores it there and elsewhere, and trains on.

`test_checkpoints` runs it in a process that has eight devices.
"""

import pathlib
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import AxisType

from tests.common import relative_error, step
from tests.devices.eight_devices import (
    SPECS_OF_INPUTS,
    draw_inputs,
    place,
    placed_like,
    transformations,
)

# One of each kind of state: a random key, learned scalars, and stacks as large as the gradients.
TRAINED = ("pcgrad", "gradnorm", "adatask", "meta_weighting")


def same(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def descent(tx, given):
    """Compiles a step of descent on losses whose gradients move with the parameters."""

    def descend(given, params, state):
        rows = jax.tree.map(lambda g, p: g + p[None], given.gradients, params)
        updates, state = step(tx, state, given._replace(params=params, gradients=rows))
        return jax.tree.map(lambda p, u: p - 0.1 * u, params, updates), state

    return jax.jit(descend).lower(given, given.params, tx.init(given.params)).compile()


def scrambled(state):
    """Random values, of which each has bits to lose, where a fresh state has zeros and ones."""
    key = jax.random.key(1)

    def scramble(x):
        draw = 100 * jax.random.normal(key, x.shape)
        return jax.device_put(draw.astype(x.dtype), x.sharding)

    return jax.tree.map(scramble, state)


def start(methods, given):
    return {name: (given.params, tx.init(given.params)) for name, tx in methods.items()}


def main(folder):
    given, path = draw_inputs(), folder / "step"
    mesh, other = (
        jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
        for shape in ((4, 2), (2, 4))
    )
    methods = dict(transformations())
    with ocp.StandardCheckpointer() as checkpointer:
        with jax.set_mesh(mesh):
            cut = place(given, SPECS_OF_INPUTS, mesh)
            steps = {name: descent(methods[name], cut) for name in TRAINED}
            saved = {name: scrambled(states) for name, states in start(methods, cut).items()}
            for name, step_on in steps.items():
                saved[name] = step_on(cut, *start(methods, cut)[name])
            wanted = {name: step_on(cut, *saved[name]) for name, step_on in steps.items()}
            checkpointer.save(path, saved)
            checkpointer.wait_until_finished()

            restored = restore(checkpointer, path, methods, cut, saved)
            for name, step_on in steps.items():
                same(step_on(cut, *restored[name]), wanted[name])

        with jax.set_mesh(other):
            moved = place(given, SPECS_OF_INPUTS, other)
            go_on(restore(checkpointer, path, methods, moved, saved), methods, moved, wanted)
        go_on(restore(checkpointer, path, methods, given, saved), methods, given, wanted)


def restore(checkpointer, path, methods, given, saved):
    """Restores to where `given` lies."""
    like = start(methods, given)
    restored = checkpointer.restore(path, like)
    assert placed_like(restored, like)
    same(restored, saved)
    return restored


def go_on(restored, methods, given, wanted):
    """Takes the next step, which rounds differently here."""
    for name in TRAINED:
        params, _ = descent(methods[name], given)(given, *restored[name])
        for leaf, value in params.items():
            assert relative_error(value, wanted[name][0][leaf]) < 1e-5, (name, leaf)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
