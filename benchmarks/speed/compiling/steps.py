"""A training step of a small MLP with every method, against equal weighting by hand."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree
from rich.console import Console

import mtl_optax as mtl
from benchmarks.speed.compiling.costs import ADAM, Program, costs, with_adam

BY_HAND = "equal weighting by hand"
STACKED, TAPS, ONE_PASS = "stacked", "taps", "one pass"
ROWS, INPUTS, WIDTH = 32, 16, 32


def measure(
    methods: Sequence[str], tasks: Sequence[int], *, rounds: int, console: Console
) -> list[dict[str, Any]]:
    """One row for each number of tasks, method and way."""
    rows = []
    for num_tasks in tasks:
        programs = {BY_HAND: _by_hand(num_tasks)}
        labels = {}
        for method in methods:
            for way in ways(method):
                labels[f"{method}, {way}"] = (method, way)
                programs[f"{method}, {way}"] = _step(method, num_tasks, way)
        found = costs(programs, rounds=rounds, title=f"steps, T = {num_tasks}", console=console)
        hand = found[BY_HAND]
        for label, cost in found.items():
            method, way = labels.get(label, (BY_HAND, ""))
            rows.append(
                {
                    "part": "steps",
                    "method": method,
                    "way": way,
                    "tasks": num_tasks,
                    **cost._asdict(),
                    "tracing over equal": cost.tracing / hand.tracing,
                    "compiling over equal": cost.compiling / hand.compiling,
                    "without_emitters over equal": cost.without_emitters / hand.compiling,
                }
            )
    return rows


def _by_hand(num_tasks: int) -> Program:
    """The gradient of the mean loss, without this library."""

    def step(params: PyTree, state: PyTree, batch: PyTree) -> Any:
        grads = jax.grad(lambda p: jnp.mean(_losses(p, batch)))(params)
        updates, state = ADAM.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = _params(num_tasks)
    return Program(step, (params, ADAM.init(params), _batch(num_tasks)))


def _step(name: str, num_tasks: int, way: str) -> Program:
    """Task gradients to the method, and its update to Adam."""
    chain = with_adam(name, num_tasks)
    gather = mtl.value_and_task_grads(_losses, stacked=way == STACKED)

    def step(params: PyTree, state: PyTree, batch: PyTree, query: PyTree | None) -> Any:
        losses, grads = gather(params, batch)
        extra: dict[str, Any] = {}
        if query is not None:
            unseen, held_out = gather(params, query)
            extra = {"query_gradients": held_out, "next_losses": unseen}
        updates, state = chain.update(grads, state, params, task_losses=losses, **extra)
        return optax.apply_updates(params, updates), state, losses

    params, batch = _params(num_tasks), _batch(num_tasks)
    beyond = mtl.method_info(name).update_arguments - {"task_losses"}
    query = batch if beyond else None
    return Program(step, (params, chain.init(params), batch, query))


def ways(method: str) -> tuple[str, ...]:
    """Those that make a difference to the method."""
    info = mtl.method_info(method)
    if not info.is_weighting:
        return (STACKED,)
    return STACKED, ONE_PASS if info.reads <= {"losses", "next_losses"} else TAPS


def _params(num_tasks: int) -> PyTree:
    shapes = {"first": (INPUTS, WIDTH), "second": (WIDTH, WIDTH), "last": (WIDTH, num_tasks)}
    return {
        name: {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[1])}
        for name, shape in shapes.items()
    }


def _batch(num_tasks: int) -> PyTree:
    return {"x": jnp.zeros((ROWS, INPUTS)), "y": jnp.zeros((ROWS, num_tasks))}


def _losses(params: PyTree, batch: PyTree) -> Float[Array, " t"]:
    hidden = batch["x"]
    for name in ("first", "second"):
        hidden = jax.nn.relu(hidden @ params[name]["kernel"] + params[name]["bias"][None])
    outputs = hidden @ params["last"]["kernel"] + params["last"]["bias"][None]
    return jnp.mean((outputs - batch["y"]) ** 2, axis=0)
