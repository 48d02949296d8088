"""Which cells are missing, and how they are made: the protocol of all suites, on episodes."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from benchmarks.control.agent import (
    TEST,
    VALIDATION,
    Outcome,
    Policy,
    actor,
    at_random,
    regulated,
    scores,
)
from benchmarks.control.training import Judgement, Trained, begin, evaluate, judge, train
from benchmarks.methods import EQUAL_WEIGHTING, RANDOM, SIMPLE_MODEL, UNTRAINED
from benchmarks.results.cells import Cell, Config, Store, Trial, untrained_cell
from benchmarks.train.experiment import configuration, finished
from benchmarks.train.problem import Problem
from benchmarks.train.protocol import SILENT, Progress, Protocol, Row
from benchmarks.train.recipes import recipe
from benchmarks.train.training import Curves, Member, Timing

POLICIES: dict[str, tuple[Policy, dict[str, str]]] = {
    RANDOM: (at_random, {"what": "noise", "model": "normal, cut at -1 and 1"}),
    SIMPLE_MODEL: (
        regulated,
        {
            "what": "no network, but a controller that knows the dynamics of each task",
            "model": "a linear-quadratic regulator",
        },
    ),
}
AT_ONCE = 2  # Trainings: each keeps one core busy.


class _Training(NamedTuple):
    """A finished one, of ``p`` epochs, before the test episodes are played."""

    member: Member
    trained: Trained
    judgement: Judgement
    score: Float[np.ndarray, " p"]
    """Success on the validation episodes in percent; none where a return is not finite."""
    timing: Timing

    def curves(self) -> Curves:
        """As the other suites record them; a loss on episodes held out is less the return."""
        each = zip(*self.judgement.validation, strict=True)
        weights, cosine = self.trained.weights, self.judgement.cosine
        return Curves(
            loss=np.asarray(self.trained.loss),
            validation_loss=-self.judgement.validation.total,
            query_loss=None,
            validation=np.stack([scores(Outcome(*one)) for one in each]),
            weights=None if weights is None else np.asarray(weights),
            cosine=cosine,
        )


def run_cells(
    problem: Problem,
    store: Store,
    rows: Sequence[Row],
    protocol: Protocol,
    *,
    progress: Progress = SILENT,
) -> dict[str, list[Cell]]:
    """Make the cells that are not in ``store`` yet; every row's cells, in order of seed."""
    configs = {row.label: _configuration(problem, row, protocol) for row in rows}
    seeds = {row.label: row.seeds(protocol) for row in rows}
    found = {
        label: finished(store.find(label, seeds[label], config), protocol)
        for label, config in configs.items()
    }
    progress.plan(sum(map(len, found.values())), 0)
    try:
        for row in rows:
            have = found[row.label]
            if len(have) == len(seeds[row.label]):
                continue
            progress.row(row.label)
            if row.method in UNTRAINED:
                have[0] = _untrained(store, row, configs[row.label])
            else:
                _complete(problem, store, row, protocol, configs[row.label], have)
    except KeyboardInterrupt:
        raise store.interrupted(found, sum(map(len, seeds.values()))) from None
    return {label: [found[label][seed] for seed in seeds[label]] for label in configs}


def _configuration(problem: Problem, row: Row, protocol: Protocol) -> Config:
    if row.method not in UNTRAINED:
        return configuration(problem, row, protocol)
    common = configuration(problem, Row(EQUAL_WEIGHTING), protocol)
    return {**common, "hyperparameters": POLICIES[row.method][1]}


def _untrained(store: Store, row: Row, config: Config) -> Cell:
    began = time.perf_counter()
    policy, _ = POLICIES[row.method]
    validation, test = (
        jax.device_get(jax.jit(evaluate, static_argnums=(0, 1))(policy, episodes))
        for episodes in (VALIDATION, TEST)
    )
    seconds, losses = time.perf_counter() - began, (-validation.total, -test.total)
    cell = untrained_cell(row.label, config, seconds, scores(validation), scores(test), losses)
    store.save(cell)
    return cell


@partial(jax.jit, static_argnums=0)
def _tested(problem: Problem, params: PyTree) -> Outcome:
    return evaluate(actor(problem, params, noisy=False), TEST)


def _complete(
    problem: Problem,
    store: Store,
    row: Row,
    protocol: Protocol,
    config: Config,
    found: dict[int, Cell],
) -> None:
    """Train what ``found`` lacks, first of all the first seed with every rate of the grid."""
    began = time.perf_counter()
    made = recipe(row.method, problem, row.hyperparameters)
    program = train.lower(made, protocol.epochs, jnp.float32(0), *begin(made.problem, 0)).compile()
    waited = time.perf_counter() - began
    steps = protocol.epochs * problem.steps_per_epoch

    def trained(member: Member) -> _Training:
        first = begin(made.problem, member.seed)
        began = time.perf_counter()
        result = jax.block_until_ready(program(jnp.float32(member.learning_rate), *first))
        timing = Timing(waited, (time.perf_counter() - began) / steps)
        judgement = jax.device_get(judge(made.problem, result.params))
        success, total = judgement.validation
        score = np.where(np.isfinite(total).all(axis=1), 100 * success.mean(axis=1), -np.inf)
        return _Training(member, result, judgement, score, timing)

    def save(one: _Training, trials: tuple[Trial, ...]) -> Cell:
        best = int(one.score.argmax())
        params = jax.tree.map(lambda p: p[best], one.trained.params)
        test = jax.device_get(_tested(made.problem, params))
        finite = np.isfinite(one.score[best])
        cell = Cell(
            method=row.label,
            seed=one.member.seed,
            config=config,
            trials=trials,
            learning_rate=one.member.learning_rate,
            epoch=best + 1 if finite else 0,
            test=scores(test) if finite else np.full(len(problem.metrics), np.nan),
            test_loss=-test.total,
            curves=one.curves(),
            timing=one.timing,
        )
        store.save(cell)
        return cell

    threads = ThreadPoolExecutor(AT_ONCE)
    try:
        if 0 not in found:
            members = [Member(0, rate) for rate in protocol.learning_rates]
            tried = list(threads.map(trained, members))

            def reached() -> dict[float, float]:
                return {one.member.learning_rate: float(one.score.max()) for one in tried}

            while (rate := protocol.next_rate(reached())) is not None:
                tried.append(trained(Member(0, rate)))
            trials = tuple(Trial(*each) for each in reached().items())
            found[0] = save(max(tried, key=lambda one: one.score.max()), trials)
        rate, trials = found[0].learning_rate, found[0].trials
        missing = [Member(seed, rate) for seed in range(protocol.seeds) if seed not in found]
        for one in threads.map(trained, missing):
            found[one.member.seed] = save(one, trials)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
