"""Every method on given task gradients, beside the limit, equal weighting and the peers."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mtl_optax as mtl
from benchmarks.speed import limit, peers
from benchmarks.speed.gradients import LAYOUTS, task_gradients
from benchmarks.speed.timing import Question, Work, contest

EQUAL = "sum_tasks"


def questions(
    methods: Sequence[str],
    tasks: Sequence[int],
    sizes: Sequence[int],
    *,
    rounds: int,
    with_peers: bool,
    most_bytes: int,
) -> Iterator[Question]:
    """Yields one question for each number of tasks, size, layout and method.

    Args:
        methods: names in the registry.
        tasks: values of T.
        sizes: values of N.
        rounds: turns of each contender.
        with_peers: whether TorchJD and LibMTL take part, on the single leaf.
        most_bytes: larger stacks are left out.
    """
    for num_tasks, size, layout in itertools.product(tasks, sizes, LAYOUTS):
        if 4 * num_tasks * size <= most_bytes:
            for method in methods:
                asked = {"method": method, "tasks": num_tasks, "size": size, "layout": layout}
                ask = functools.partial(_answer, asked, rounds, with_peers and layout == "leaf")
                yield Question("aggregation", asked, ask)


def _answer(asked: dict[str, Any], rounds: int, with_peers: bool) -> list[dict[str, Any]]:
    method = asked["method"]
    leaves, matrix = _gradients(asked["tasks"], asked["size"], asked["layout"])
    works = limit.works(leaves) | {EQUAL: update_work(EQUAL, leaves)}
    works[method] = update_work(method, leaves)
    if with_peers:
        works |= peers.aggregation_work(method, matrix)
    times = contest(works, rounds)
    over_equal, spread = times.ratio(method, EQUAL)
    row = {
        "seconds": times.median(method),
        "over limit": times.median(method) / limit.seconds(times, *matrix.shape),
        "over equal": over_equal,
        "over equal spread": spread,
    }
    for peer in ("TorchJD", "LibMTL"):
        if peer in works:
            row[f"{peer} over ours"] = times.ratio(peer, method)[0]
    return [row]


_gradients = functools.lru_cache(maxsize=1)(task_gradients)


def update_work(method: str, leaves: Any) -> Work:
    """Returns the work of one update after the other, given the task gradients."""
    num_tasks = len(next(iter(leaves.values())))
    info = mtl.method_info(method)
    transform = mtl.get(method, num_tasks, **info.arguments(num_tasks))
    params = jax.tree.map(lambda g: jnp.zeros_like(g[0]), leaves)
    losses = jnp.linspace(0.5, 2.0, num_tasks)
    known = {"query_gradients": leaves, "next_losses": losses}
    extra = {key: value for key, value in known.items() if key in info.update_arguments}

    def update(state: Any, gradients: Any, params: Any, losses: Any, extra: Any) -> Any:
        step = optax.with_extra_args_support(transform).update
        return step(gradients, state, params, task_losses=losses, **extra)[::-1]

    return limit.in_turn(update, transform.init(params), leaves, params, losses, extra)
