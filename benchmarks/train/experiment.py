"""The protocol of every suite: which trainings make a cell, and which cells are still missing.

The first seed tries every learning rate of the grid, and further ones where the best is an end of
it; the one with the best mean metric on the validation split serves the other seeds too. A row with
hyper-parameters to choose from tries as many of those as the grid has rates instead, at the
learning rate that equal weighting has chosen. Each training reports
the epoch that was best on the validation split. The test split is read once, by the parameters of
that epoch.
"""

import hashlib
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.methods import ADVERSARIAL, BASELINES, EQUAL_WEIGHTING, SIMPLE_MODEL
from benchmarks.results.cells import Cell, Config, Store, Trial, as_read, untrained_cell
from benchmarks.train.checkpoints import Checkpoint
from benchmarks.train.problem import Problem
from benchmarks.train.protocol import SILENT, Progress, Protocol, Row
from benchmarks.train.recipes import Recipe, default_hyperparameters, recipe
from benchmarks.train.training import (
    Member,
    Program,
    Run,
    compiled,
    evaluate,
    lowered,
    train,
)

AHEAD = 2  # Programs that wait for their training.


class _Made(NamedTuple):
    """How a row is trained, with one choice of what it searches."""

    chosen: Mapping[str, Any]
    recipe: Recipe
    program: Callable[[], Program]


def run_cells(
    problem: Problem,
    store: Store,
    rows: Sequence[Row],
    protocol: Protocol,
    *,
    checkpoint_every: float = 60.0,
    progress: Progress = SILENT,
) -> dict[str, list[Cell]]:
    """Train the cells that are not in ``store`` yet; every row's cells, in order of seed.

    Rows that search stand after equal weighting's.
    """
    configs = {row.label: configuration(problem, row, protocol) for row in rows}
    seeds = {row.label: row.seeds(protocol) for row in rows}
    found: dict[str, dict[int, Cell]] = {}
    for row in rows:
        cells = store.find(row.label, seeds[row.label], configs[row.label])
        equal = found.get(EQUAL_WEIGHTING, {}).get(0)
        found[row.label] = finished(cells, protocol, None if equal is None else equal.learning_rate)
    networks = [row for row in rows if row.method != SIMPLE_MODEL]
    todo = {
        row.label: (0 if 0 in found[row.label] else len(row.searched or protocol.learning_rates))
        + sum(seed not in found[row.label] for seed in range(1, protocol.seeds))
        for row in networks
    }
    progress.plan(sum(map(len, found.values())), protocol.epochs * sum(todo.values()))
    try:
        missing = {
            row.label: (row, _choices(row, found[row.label].get(0)))
            for row in networks
            if todo[row.label]
        }
        with closing(_compiled(missing.values(), problem)) as programs:
            # Once it is asked for, the first program is compiled beside the simple models.
            made = itertools.chain(list(itertools.islice(programs, 1)), programs)
            for row in rows:
                if row not in networks and not found[row.label]:
                    progress.row(row.label)
                    found[row.label][0] = _simple_model(problem, store, row, configs[row.label])
            for row, choices in missing.values():
                progress.row(row.label)
                rates = protocol.learning_rates
                if row.searched:
                    rates = (found[EQUAL_WEIGHTING][0].learning_rate,)
                _Trainer(
                    store,
                    row,
                    rates,
                    protocol,
                    configs[row.label],
                    checkpoint_every,
                    progress,
                ).complete(found[row.label], itertools.islice(made, len(choices)))
    except KeyboardInterrupt:
        raise store.interrupted(found, sum(map(len, seeds.values()))) from None
    return {row.label: [found[row.label][seed] for seed in seeds[row.label]] for row in rows}


def finished(
    found: Mapping[int, Cell], protocol: Protocol, rate: float | None = None
) -> dict[int, Cell]:
    """Those whose learning rate is the one that the protocol would take.

    Args:
        found: cells of one row.
        protocol: which rates it tries.
        rate: equal weighting's, at which hyper-parameters are searched; none if it is not there.
    """

    def is_finished(cell: Cell) -> bool:
        if cell.chosen:
            return cell.learning_rate == rate
        reached = {trial.learning_rate: trial.validation for trial in cell.trials}
        return not reached or protocol.next_rate(reached) is None

    return {seed: cell for seed, cell in found.items() if is_finished(cell)}


def _simple_model(problem: Problem, store: Store, row: Row, config: Config) -> Cell:
    """The cell of the problem's baseline, which has neither losses nor a learning rate."""
    assert problem.baseline is not None
    began = time.perf_counter()
    with threadpool_limits(1):  # Threads that wait for each other are slow on a busy machine.
        answers = problem.baseline.answers()
    validation, test = (
        problem.scores(outputs, split)
        for outputs, split in zip(answers, (problem.validation, problem.test), strict=True)
    )
    seconds = time.perf_counter() - began
    none = np.full(problem.num_tasks, np.nan)
    cell = untrained_cell(row.label, config, seconds, validation, test, (none, none))
    store.save(cell)
    return cell


def _choices(row: Row, first: Cell | None) -> Sequence[Mapping[str, Any]]:
    """What has to be trained: all that is searched, or what the first seed has chosen."""
    if not row.searched:
        return ({},)
    return row.searched if first is None else (first.chosen,)


def _compiled(
    rows: Iterable[tuple[Row, Sequence[Mapping[str, Any]]]], problem: Problem
) -> Generator[_Made]:
    """Recipe and program of each row's choices; the next are compiled while one is trained."""
    compiler = ThreadPoolExecutor(1)
    waiting: deque[_Made] = deque()
    try:
        for row, choices in rows:
            for chosen in choices:
                made = recipe(row.method, problem, {**row.hyperparameters, **chosen})
                program = compiler.submit(compiled, made, lowered(made)).result
                waiting.append(_Made(chosen, made, program))
                if len(waiting) > AHEAD:
                    yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        compiler.shutdown(wait=False, cancel_futures=True)


def configuration(problem: Problem, row: Row, protocol: Protocol) -> Config:
    """Everything that decides a cell's numbers, apart from its seed and the code itself."""
    defaults: Mapping[str, Any]
    if row.method == SIMPLE_MODEL:
        assert problem.baseline is not None
        defaults = {"model": problem.baseline.name}
    elif row.method in ADVERSARIAL:
        assert problem.adversarial is not None
        defaults = problem.adversarial().config
    else:
        defaults = {} if row.method in BASELINES else default_hyperparameters(row.method)
    return as_read(
        {
            **problem.config,
            "tasks": problem.tasks,
            "metrics": [metric._asdict() for metric in problem.metrics],
            "batch_size": problem.batch_size,
            "steps_per_epoch": problem.steps_per_epoch,
            "query_fraction": problem.query_fraction,
            "epochs": protocol.epochs,
            "learning_rates": protocol.learning_rates,
            "hyperparameters": {**defaults, **row.hyperparameters},
            **({"searched": row.searched} if row.searched else {}),
        }
    )


@dataclass(frozen=True)
class _Trainer:
    """Makes the missing cells of one row."""

    store: Store
    row: Row
    learning_rates: tuple[float, ...]
    """What the first seed tries."""
    protocol: Protocol
    config: Config
    checkpoint_every: float
    progress: Progress

    def complete(self, found: dict[int, Cell], choices: Iterable[_Made]) -> None:
        """Train what ``found`` lacks, saving each cell as soon as it is finished."""
        if 0 in found:
            (made,) = choices
        else:
            found[0], made = self._first(choices)
        rate, trials = found[0].learning_rate, found[0].trials
        missing = [s for s in range(1, self.protocol.seeds) if s not in found]
        if missing:
            run = self._train(made, [Member(seed, rate) for seed in missing])
            for number, seed in enumerate(missing):
                found[seed] = self._finish(made, run, number, Member(seed, rate), trials)
        self.store.discard_unfinished(self.row.label)

    def _first(self, choices: Iterable[_Made]) -> tuple[Cell, _Made]:
        """The first seed, with what suits the method best, and how that is trained."""
        members = [Member(0, rate) for rate in self.learning_rates]
        tried: list[tuple[_Made, Run, int, Trial]] = []

        def attempt(made: _Made, members: list[Member]) -> None:
            run = self._train(made, members)
            for number, member in enumerate(members):
                trial = Trial(member.learning_rate, float(run.best[number]), made.chosen)
                tried.append((made, run, number, trial))

        for made in choices:
            attempt(made, members)
        while not made.chosen:
            reached = {trial.learning_rate: trial.validation for *_, trial in tried}
            if (rate := self.protocol.next_rate(reached)) is None:
                break
            self.progress.more(self.protocol.epochs)
            attempt(made, [Member(0, rate)])
        trials = tuple(trial for *_, trial in tried)
        made, run, number, trial = max(tried, key=lambda one: one[-1].validation)
        return self._finish(made, run, number, Member(0, trial.learning_rate), trials), made

    def _train(self, made: _Made, members: list[Member]) -> Run:
        training = [self.row.label, members, self.config]
        if made.chosen:
            training.append(made.chosen)
        name = hashlib.sha256(json.dumps(training, sort_keys=True).encode()).hexdigest()[:16]
        return train(
            made.recipe,
            members,
            epochs=self.protocol.epochs,
            program=made.program,
            checkpoint=Checkpoint(
                self.store.unfinished(self.row.label) / name, every=self.checkpoint_every
            ),
            on_epoch=lambda: self.progress.epoch(len(members)),
        )

    def _finish(
        self, made: _Made, run: Run, number: int, member: Member, trials: tuple[Trial, ...]
    ) -> Cell:
        """Read the test split and save the cell."""
        problem = made.recipe.problem
        params, statistics = jax.tree.map(
            lambda p: p[number : number + 1], (run.params, run.statistics)
        )
        losses, metrics = evaluate(problem, params, problem.test, statistics)
        cell = Cell(
            method=self.row.label,
            seed=member.seed,
            config=self.config,
            trials=trials,
            learning_rate=member.learning_rate,
            epoch=int(run.epoch[number]),
            test=metrics[0],
            test_loss=losses[0],
            curves=jax.tree.map(lambda curve: curve[number], run.curves),
            timing=run.timing,
            chosen=made.chosen,
        )
        self.store.save(cell)
        return cell
