"""The inner problems alone: time, iterations and certified gap, beside the peers' solvers.

All certificates are computed here in float64 from the weights alone, in the same way for every
contender. Of the min-norm problem it is the duality gap `w'Mw - min_t (Mw)_t` as a share of the
mean squared norm; of Nash-MTL's equations the residual `max_t |a_t (Ma)_t - 1|`.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import limit, peers
from benchmarks.speed.timing import Question, Work, contest
from mtl_optax._solvers.bargaining import bargaining
from mtl_optax._solvers.min_norm import SOLVERS

BATCH = 256  # Problems that are solved side by side.
MOST_NASH_TASKS = 14  # TorchJD's Nash-MTL takes seconds for more.
FEW = 16  # Those of them that a peer solves too.
Certificate = Callable[[np.ndarray, np.ndarray], float]


def questions(tasks: Sequence[int], *, rounds: int, with_peers: bool) -> Iterator[Question]:
    """Yields one question for each problem and number of tasks."""
    for num_tasks, problem in itertools.product(tasks, PROBLEMS):
        asked = {"problem": problem, "tasks": num_tasks}
        yield Question(
            "solvers",
            asked,
            functools.partial(_answer, **asked, rounds=rounds, with_peers=with_peers),
        )


def _answer(problem: str, tasks: int, rounds: int, with_peers: bool) -> list[dict[str, Any]]:
    solvers, certificate, peer = PROBLEMS[problem]
    grams = _grams(tasks)
    works: dict[str, Work] = {}
    answers: dict[str, Any] = {}
    for name, solver in solvers.items():
        alone, batched = jax.jit(solver), jax.jit(jax.vmap(solver))
        works[name] = limit.on(alone, jnp.asarray(grams[0]))
        works[f"{name}, batched"] = limit.on(batched, jnp.asarray(grams))
        answers[name] = batched(jnp.asarray(grams))
    with_peers = with_peers and (peer == "MGDA" or tasks <= MOST_NASH_TASKS)
    if with_peers:
        works["TorchJD"] = _peer(peer, grams[0])
    times = contest(works, rounds)
    rows = []
    for name, answer in answers.items():
        gaps = [
            certificate(gram, np.asarray(weights, float))
            for gram, weights in zip(grams, answer.weights, strict=True)
        ]
        rows.append(
            {
                "solver": name,
                "microseconds": 1e6 * times.median(name),
                "microseconds each of 256": 1e6 * times.median(f"{name}, batched") / BATCH,
                "iterations": float(np.mean(answer.iterations)),
                "most iterations": int(np.max(answer.iterations)),
                "worst gap": max(gaps),
            }
        )
    if with_peers:
        gaps = [certificate(gram, np.asarray(_peer(peer, gram)(), float)) for gram in grams[:FEW]]
        seconds = times.median("TorchJD")
        rows.append(
            {"solver": f"TorchJD {peer}", "microseconds": 1e6 * seconds, "worst gap": max(gaps)}
        )
    return rows


def min_norm_gap(gram: np.ndarray, weights: np.ndarray) -> float:
    """Returns the duality gap of `min ½ w'Mw` on the simplex, relative to the mean diagonal."""
    weights = np.maximum(weights, 0) / np.maximum(weights, 0).sum()
    slopes = gram.astype(float) @ weights
    return float((weights @ slopes - slopes.min()) / np.mean(np.diag(gram)))


def bargaining_residual(gram: np.ndarray, weights: np.ndarray) -> float:
    """Returns the residual of `a_t (Ma)_t = 1`, after the best common scaling of `a`."""
    products = weights * (gram.astype(float) @ weights)
    return float(np.max(np.abs(products / products.mean() - 1)))


def _grams(num_tasks: int) -> np.ndarray:
    """Gram matrices of gradients that share half of a direction and differ in scale."""
    rng = np.random.default_rng(num_tasks)
    rows = rng.normal(size=(BATCH, num_tasks, 2 * num_tasks))
    rows *= np.exp(rng.normal(size=(BATCH, num_tasks, 1)))
    return np.einsum("bsn,btn->bst", rows, rows).astype(np.float32)


def _peer(peer: str, gram: np.ndarray) -> Callable[[], Any]:
    """TorchJD's MGDA takes the Gram matrix, its Nash-MTL rows that have it."""
    torch = peers.load()
    import torchjd.aggregation as torchjd

    if peer == "MGDA":
        matrix, weighting = torch.from_numpy(gram), torchjd.MGDAWeighting()
        return lambda: weighting(matrix)
    rows = torch.from_numpy(np.linalg.cholesky(gram.astype(float)).astype(np.float32))
    aggregator = torchjd.NashMTL(n_tasks=len(gram), max_norm=0.0)
    return lambda: aggregator.weighting(rows)


PROBLEMS: dict[str, tuple[dict[str, Callable[..., Any]], Certificate, str]] = {
    "min_norm": ({str(name): solve for name, solve in SOLVERS.items()}, min_norm_gap, "MGDA"),
    "bargaining": ({"newton": bargaining}, bargaining_residual, "NashMTL"),
}
