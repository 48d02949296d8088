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
STACKED, ONE_PASS = "stacked", "one pass"
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
            for way, make in ((STACKED, _stacked), (ONE_PASS, _one_pass)):
                if way == STACKED or mtl.method_info(method).reads <= {"losses"}:
                    labels[f"{method}, {way}"] = (method, way)
                    programs[f"{method}, {way}"] = make(method, num_tasks)
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


def _stacked(name: str, num_tasks: int) -> Program:
    """All task gradients to the method, and its update to Adam."""
    chain = with_adam(name, num_tasks)

    def step(params: PyTree, state: PyTree, batch: PyTree, query: PyTree | None) -> Any:
        losses, grads = mtl.value_and_task_grads(_losses)(params, batch)
        extra = {}
        if query is not None:
            extra["query_gradients"] = mtl.value_and_task_grads(_losses)(params, query)[1]
        updates, state = chain.update(grads, state, params, task_losses=losses, **extra)
        return optax.apply_updates(params, updates), state, losses

    params, batch = _params(num_tasks), _batch(num_tasks)
    query = batch if "query gradients" in mtl.method_info(name).reads else None
    return Program(step, (params, chain.init(params), batch, query))


def _one_pass(name: str, num_tasks: int) -> Program:
    """The gradient of the weighted loss, for methods that read losses alone."""
    method = mtl.get(name, num_tasks)
    weighted = mtl.weighted_value_and_grad(_losses, method)

    def step(params: PyTree, state: PyTree, batch: PyTree) -> Any:
        losses, grads, of_method = weighted(params, state[0], batch)
        updates, of_adam = ADAM.update(grads, state[1], params)
        return optax.apply_updates(params, updates), (of_method, of_adam), losses

    params = _params(num_tasks)
    state = method.init(params), ADAM.init(params)
    return Program(step, (params, state, _batch(num_tasks)))


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
