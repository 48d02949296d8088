"""Whole training steps of three models, against equal weighting and TorchJD's `mtl_backward`."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.methods import EQUAL_WEIGHTING
from benchmarks.models.mlp import MultiTaskMLP
from benchmarks.models.text_cnn import MultiTaskTextCNN
from benchmarks.models.transformer import MultiTaskPairTransformer
from benchmarks.problems.networks import in_trunk, network
from benchmarks.speed import limit, peers, torch_models
from benchmarks.speed.sizes import (
    MLP,
    MLP_ROWS,
    PAIR_ROWS,
    PAIRS,
    RATE,
    TASKS,
    TEXT,
    TEXT_LENGTH,
    TEXT_ROWS,
)
from benchmarks.speed.timing import Question, Work, contest
from benchmarks.train.problem import Problem
from benchmarks.train.recipes import recipe

MODELS = ("mlp", "text_cnn", "transformer")


def questions(methods: Sequence[str], *, rounds: int, with_peers: bool) -> Iterator[Question]:
    """Yields one question for each model and method."""
    for model, method in itertools.product(MODELS, methods):
        asked = {"model": model, "method": method}
        ask = functools.partial(_answer, **asked, rounds=rounds, with_peers=with_peers)
        yield Question("steps", asked, ask)


def _answer(model: str, method: str, rounds: int, with_peers: bool) -> list[dict[str, Any]]:
    problem = _problem_of(model)
    works = {EQUAL_WEIGHTING: _step_work(EQUAL_WEIGHTING, problem)}
    works[method] = _step_work(method, problem)
    if with_peers and method in peers.TORCHJD:
        of_torch = torch_models.steps(model, problem)
        works["torch"] = of_torch.equal
        aggregator = peers.aggregator(method, TASKS)
        works["TorchJD"] = functools.partial(of_torch.aggregated, aggregator)
    times = contest(works, rounds)
    over_equal, spread = times.ratio(method, EQUAL_WEIGHTING)
    row = {
        "milliseconds": 1e3 * times.median(method),
        "over equal": over_equal,
        "over equal spread": spread,
    }
    if "TorchJD" in works:
        row["TorchJD over its equal"] = times.ratio("TorchJD", "torch")[0]
        row["TorchJD over ours"] = times.ratio("TorchJD", method)[0]
    return [row]


@functools.cache
def _problem_of(model: str) -> Problem:
    """Returns a model on random data: one input for all tasks, or one for each."""
    rng = np.random.default_rng(0)
    if model == "mlp":
        inputs = rng.normal(size=(MLP_ROWS, MLP["inputs"])).astype(np.float32)
        return _problem(
            lambda rngs: MultiTaskMLP(**MLP, num_tasks=TASKS, outputs=1, rngs=rngs), (inputs,)
        )
    if model == "text_cnn":
        texts = rng.integers(1, TEXT["vocabulary"], size=(TASKS, TEXT_ROWS, TEXT_LENGTH))
        return _problem(
            lambda rngs: MultiTaskTextCNN(**TEXT, num_tasks=TASKS, classes=1, rngs=rngs),
            (texts,),
            separate=True,
        )
    shape = (2, TASKS, PAIR_ROWS, PAIRS["length"])
    return _problem(
        lambda rngs: MultiTaskPairTransformer(**PAIRS, num_tasks=TASKS, rngs=rngs),
        tuple(rng.integers(1, PAIRS["vocabulary"], size=shape)),
        separate=True,
    )


def _problem(
    make: Callable[[Any], Any], inputs: tuple[np.ndarray, ...], *, separate: bool = False
) -> Problem:
    """Regression on random targets: what the head says does not matter for the time."""
    made = network(make)
    rows = inputs[0].shape[1 if separate else 0]
    shape = (TASKS, rows) if separate else (rows, TASKS)
    data = {"inputs": inputs, "targets": np.random.default_rng(1).normal(size=shape)}
    data = jax.tree.map(lambda x: x.astype(np.float32) if x.dtype.kind == "f" else x, data)
    return Problem(
        tasks=tuple("abcdefgh"[:TASKS]),
        metrics=(),
        init=made.init,
        shared=in_trunk,
        forward=lambda params, batch: made.apply(params, *batch["inputs"])[..., 0],
        losses=lambda outputs, batch: jnp.mean((outputs - batch["targets"]) ** 2, axis=0),
        scores=lambda outputs, data: np.zeros(0, np.float32),
        train=data,
        validation=data,
        test=data,
        batch_size=rows,
        config={},
        optimizer=optax.sgd,
        sizes=(rows,) * TASKS if separate else None,
    )


def _step_work(method: str, problem: Problem) -> Work:
    """One step after the other on one batch."""
    made = recipe(method, problem)
    params = problem.init(jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, problem.train)
    query = batch if made.query else None

    def step(carry: Any, batch: Any, query: Any) -> Any:
        params, state = carry
        losses, updates, state = made.update(RATE, params, state, batch, query)
        return (optax.apply_updates(params, updates), state), losses

    return limit.in_turn(step, (params, made.init(params)), batch, query)
