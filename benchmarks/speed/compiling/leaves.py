"""An update of many leaves: a method chained with Adam, against Adam alone on the same tree."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import PyTree
from rich.console import Console

import mtl_optax as mtl
from benchmarks.speed.compiling.costs import ADAM, Program, costs, with_adam

TASKS = 3
SHAPES = ((3,), (64, 64))
METHODS = ("mean_tasks", "mgda", "cagrad", "nash_mtl", "graddrop", "gradnorm", "adatask")
ALONE = "adam alone"


def measure(
    methods: Sequence[str], leaves: Sequence[int], *, rounds: int, console: Console
) -> list[dict[str, Any]]:
    """One row for each shape, number of leaves and method."""
    rows = []
    for shape in SHAPES:
        for number in leaves:
            programs = {ALONE: _adam(number, shape)}
            programs |= {method: _chained(method, number, shape) for method in methods}
            title = f"{number} leaves of {shape}"
            found = costs(programs, rounds=rounds, title=title, console=console)
            for method, cost in found.items():
                rows.append(
                    {
                        "part": "leaves",
                        "method": method,
                        "leaves": number,
                        "shape": shape,
                        **cost._asdict(),
                        "tracing over adam": cost.tracing / found[ALONE].tracing,
                        "compiling over adam": cost.compiling / found[ALONE].compiling,
                        "without_emitters over adam": cost.without_emitters
                        / found[ALONE].compiling,
                    }
                )
    return rows


def _tree(number: int, shape: tuple[int, ...]) -> PyTree:
    return {f"leaf {i}": jnp.zeros(shape) for i in range(number)}


def _adam(number: int, shape: tuple[int, ...]) -> Program:
    params = _tree(number, shape)
    return Program(ADAM.update, (params, ADAM.init(params), params))


def _chained(name: str, number: int, shape: tuple[int, ...]) -> Program:
    chain = with_adam(name, TASKS)

    def update(grads: PyTree, state: PyTree, params: PyTree, losses: Any, extra: Any) -> Any:
        return chain.update(grads, state, params, task_losses=losses, **extra)

    params, grads = _tree(number, shape), _tree(number, (TASKS, *shape))
    known = {"query_gradients": grads, "next_losses": jnp.ones(TASKS)}
    read = mtl.method_info(name).update_arguments
    extra = {key: value for key, value in known.items() if key in read}
    return Program(update, (grads, chain.init(params), params, jnp.ones(TASKS), extra))
