"""Whole steps by each way of gathering task gradients, over equal weighting written by hand."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mtl_optax as mtl
from benchmarks.speed import limit
from benchmarks.speed.shapes import Shape, shapes
from benchmarks.speed.timing import Question, contest
from benchmarks.speed.ways import cost

EQUAL = "equal weighting"
WAYS: dict[str, dict[str, Any]] = {
    "stacked": {},
    "taps": {"stacked": False, "way": "taps"},
    "rows": {"stacked": False, "way": "rows"},
}
RATE = 1e-3


def questions(methods: Sequence[str], *, rounds: int, with_peers: bool) -> Iterator[Question]:
    """Yields one question for each model: MGDA by each way, kept weights and UW by taps."""
    if not {"mgda", "uw"} & set(methods):
        return
    for make in shapes():
        made = make()
        asked = {"model": made.name, "tasks": made.num_tasks}
        answer = functools.partial(_answer, made, rounds, with_peers)
        yield Question("gathering", asked, answer)


def _answer(shape: Shape, rounds: int, with_peers: bool) -> list[dict[str, Any]]:
    steps = {EQUAL: _equal(shape)}
    for way, how in WAYS.items():
        if not (shape.own and way == "rows"):  # It runs all batches for each task.
            steps[way] = _step(shape, mtl.mgda(shape.num_tasks), how)
    # After the first step, all that is timed are steps in between.
    steps["weights kept"] = _step(shape, mtl.every(mtl.mgda(shape.num_tasks), 10**9), WAYS["taps"])
    steps["losses only"] = _step(shape, mtl.uw(shape.num_tasks), WAYS["taps"])
    params = jax.tree.map(jnp.asarray, shape.params)
    batch = jax.tree.map(jnp.asarray, shape.batch)
    works, temporaries = {}, {}
    for way, (init, step) in steps.items():
        carry = (params, init(params))
        works[way] = limit.in_turn(step, carry, *batch)
        program = jax.jit(step, donate_argnums=0).lower(carry, *batch).compile()
        temporaries[way] = cost(program).temporaries / 2**20
    if with_peers and not shape.own:
        from benchmarks.speed import torch_shapes

        works |= torch_shapes.works(shape)
    times = contest(works, rounds)
    rows = []
    for way in steps:
        over_equal, spread = times.ratio(way, EQUAL)
        row: dict[str, Any] = {
            "way": way,
            "target": shape.target,
            "milliseconds": 1e3 * times.median(way),
            "over equal": over_equal,
            "over equal spread": spread,
            "megabytes": temporaries[way],
        }
        rows.append(row)
    for peer in ("mtl_backward", "autogram"):
        if peer in works:
            over_equal, spread = times.ratio(peer, "torch")
            rows.append(
                {
                    "way": peer,
                    "milliseconds": 1e3 * times.median(peer),
                    "over equal": over_equal,
                    "over equal spread": spread,
                }
            )
    return rows


Step = tuple[Callable[[Any], Any], Callable[..., Any]]


def _equal(shape: Shape) -> Step:
    optimizer = optax.sgd(RATE)

    def losses(params: Any, *batch: Any) -> Any:
        if shape.own:
            return jax.vmap(lambda *one: shape.losses(params, *one))(*batch)
        return shape.losses(params, *batch)

    def step(carry: Any, *batch: Any) -> Any:
        params, state = carry
        value, gradient = jax.value_and_grad(lambda p: jnp.sum(losses(p, *batch)))(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    return optimizer.init, step


def _step(shape: Shape, method: Any, how: dict[str, Any]) -> Step:
    tx = optax.chain(method, optax.sgd(RATE))
    gather = mtl.per_task_value_and_grad if shape.own else mtl.value_and_task_grads

    def step(carry: Any, *batch: Any) -> Any:
        params, state = carry
        losses, gradients = gather(shape.losses, **how)(params, *batch)
        updates, state = tx.update(gradients, state, params, task_losses=losses)
        return (optax.apply_updates(params, updates), state), losses

    return tx.init, step
