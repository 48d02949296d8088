"""Each way of gathering a method's evidence: what XLA sets aside for one step, and its time."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import mtl_optax as mtl
from benchmarks.speed import limit
from benchmarks.speed.timing import Question, contest

ROWS = 32
FEATURES = 128
INPUTS = 64
EQUAL, STACKED = "equal weighting", "stacked"
PyTree = Any


class Cost(NamedTuple):
    """What the compiler says of a program."""

    temporaries: int
    """Bytes beside arguments and results."""
    flops: float


def questions(
    tasks: Sequence[int], sizes: Sequence[int], *, rounds: int, most_bytes: int
) -> Iterator[Question]:
    """Yields one question for each number of tasks and of parameters.

    Where the stack of task gradients is larger than `most_bytes`, nothing runs: there is no time.
    """
    for num_tasks, size in itertools.product(tasks, sizes):
        asked = {"tasks": num_tasks, "size": size}
        turns = rounds if 4 * num_tasks * size <= most_bytes else 0
        yield Question("ways", asked, functools.partial(_answer, num_tasks, size, turns))


def _answer(num_tasks: int, size: int, rounds: int) -> list[dict[str, Any]]:
    programs = {way: lower().compile() for way, lower in ways(num_tasks, size).items()}
    costs = {way: cost(program) for way, program in programs.items()}
    plain = costs[EQUAL]
    rows = [
        {
            "way": way,
            "bytes": found.temporaries,
            "over equal": found.temporaries / plain.temporaries,
            "flops over equal": found.flops / plain.flops,
        }
        for way, found in costs.items()
    ]
    if rounds:
        rng = np.random.default_rng(0)
        draw = lambda shape: jnp.asarray(0.1 * rng.normal(size=shape.shape), shape.dtype)
        arguments = jax.tree.map(draw, _shapes(num_tasks, size))
        times = contest(
            {way: limit.on(program, *arguments) for way, program in programs.items()}, rounds
        )
        for row in rows:
            row["time over stacked"] = times.ratio(str(row["way"]), STACKED)[0]
    return rows


def ways(num_tasks: int, size: int) -> dict[str, Callable[[], Any]]:
    """Returns, by name, what lowers one step of MGDA (of UW, where only losses are read)."""
    params, batch = _shapes(num_tasks, size)
    shared = {"trunk": True, "heads": False}
    method = mtl.on_shared(mtl.mgda(num_tasks), shared)

    def summed(params: PyTree, batch: PyTree) -> Any:
        return jnp.sum(_losses(params, batch))

    def one_step(method: Any, **options: Any) -> Callable[..., Any]:
        gather = mtl.value_and_task_grads(_losses, **options)

        def step(params: PyTree, batch: PyTree) -> Any:
            losses, gradients = gather(params, batch)
            return method.update(gradients, method.init(params), params, task_losses=losses)[0]

        return step

    steps = {
        EQUAL: jax.grad(summed),
        "losses only": one_step(mtl.uw(num_tasks), stacked=False),
        "features": one_step(method, shared=shared, stacked=False, way="features"),
        "taps": one_step(method, shared=shared, stacked=False),
        "rows": one_step(method, shared=shared, stacked=False, way="rows"),
        STACKED: one_step(method, shared=shared),
    }
    return {
        name: lambda step=step: jax.jit(step).lower(params, batch)  # type: ignore[misc]
        for name, step in steps.items()
    }


def cost(program: Any) -> Cost:
    """Reads the cost of a compiled program."""
    return Cost(
        program.memory_analysis().temp_size_in_bytes, program.cost_analysis().get("flops", 0.0)
    )


def _shapes(num_tasks: int, size: int) -> tuple[PyTree, PyTree]:
    """A trunk of two layers with about `size` parameters, and a head for each task."""
    width = max(1, round(size / (INPUTS + FEATURES)))
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    params = {
        "trunk": {"first": array(INPUTS, width), "second": array(width, FEATURES)},
        "heads": array(num_tasks, FEATURES),
    }
    return params, {"x": array(ROWS, INPUTS), "y": array(ROWS, num_tasks)}


def _losses(params: PyTree, batch: PyTree) -> Any:
    hidden = jnp.tanh(batch["x"] @ params["trunk"]["first"])
    features = mtl.mark_features(jnp.tanh(hidden @ params["trunk"]["second"]))
    return jnp.mean((features @ params["heads"].T - batch["y"]) ** 2, axis=0)
