"""Whole steps by each way of gathering task gradients, over equal weighting written by hand."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mtl_optax as mtl
from benchmarks.errors import UserError
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


def questions(
    methods: Sequence[str], *, models: Sequence[str] = (), rounds: int, with_peers: bool
) -> Iterator[Question]:
    """Yields one question for each model: MGDA by each way, kept weights and UW by taps.

    Args:
        methods: nothing is asked unless one of these two is among them.
        models: how the names of those that are asked for begin; none: all.
        rounds: turns of each contender; with 0 nothing runs, and there is no time.
        with_peers: whether TorchJD takes part.
    """
    if not {"mgda", "uw"} & set(methods):
        return
    every = [make() for make in shapes()]
    for name in models:
        if not any(made.name.startswith(name) for made in every):
            known = ", ".join(dict.fromkeys(repr(made.name) for made in every))
            raise UserError(f"--models: no name begins with {name!r}. Models: {known}.")
    for made in every:
        if models and not made.name.startswith(tuple(models)):
            continue
        asked = {"model": made.name, "tasks": made.num_tasks}
        answer = functools.partial(_answer, made, rounds, with_peers)
        yield Question("gathering", asked, answer)


Step = tuple[Callable[[Any], Any], Callable[..., Any]]


def steps_of(shape: Shape) -> dict[str, Step]:
    """Returns, by name, parameters to a first state, and the step from both and a batch."""
    steps = {EQUAL: _equal(shape)}
    for way, how in WAYS.items():
        if not (shape.own and way == "rows"):  # It runs all batches for each task.
            steps[way] = _step(shape, mtl.mgda(shape.num_tasks), how)
    # After the first step, all that is timed are steps in between.
    steps["weights kept"] = _step(shape, mtl.every(mtl.mgda(shape.num_tasks), 10**9), WAYS["taps"])
    steps["losses only"] = _step(shape, mtl.uw(shape.num_tasks), WAYS["taps"])
    return steps


def planned(step: Step, shape: Shape, **options: Any) -> int:
    """Returns the bytes of a step's temporaries, as XLA plans them; nothing runs."""
    params, batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, (shape.params, shape.batch)))
    state = jax.eval_shape(step[0], params)
    program = jax.jit(step[1], donate_argnums=0).lower((params, state), *batch)
    return cost(program.compile(**options)).temporaries


def _answer(shape: Shape, rounds: int, with_peers: bool) -> list[dict[str, Any]]:
    steps = steps_of(shape)
    rows: list[dict[str, Any]] = [
        {"way": way, "target": shape.target, "megabytes": planned(step, shape) / 2**20}
        for way, step in steps.items()
    ]
    if not rounds:
        return rows
    params = jax.tree.map(jnp.asarray, shape.params)
    batch = jax.tree.map(jnp.asarray, shape.batch)
    works = {
        way: limit.in_turn(step, (params, init(params)), *batch)
        for way, (init, step) in steps.items()
    }
    if with_peers and not shape.own:
        from benchmarks.speed import torch_shapes

        works |= torch_shapes.works(shape)
    times = contest(works, rounds)
    rows += [{"way": peer} for peer in ("mtl_backward", "autogram") if peer in works]
    for row in rows:
        way = row["way"]
        row["milliseconds"] = 1e3 * times.median(way)
        over_equal = times.ratio(way, EQUAL if way in steps else "torch")
        row["over equal"], row["over equal spread"] = over_equal
    return rows


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
