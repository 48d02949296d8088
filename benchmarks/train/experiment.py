"""The protocol of every suite: which trainings make a cell, and which cells are still missing.

The first seed tries every learning rate of the grid; the one with the best mean metric on the
validation split serves the other seeds too. Each training reports the epoch that was best on the
validation split. The test split is read once, by the parameters of that epoch.
"""

import hashlib
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.errors import InterruptedRunError
from benchmarks.methods import BASELINES, SIMPLE_MODEL
from benchmarks.results.cells import Cell, Config, Store, Trial, as_read
from benchmarks.train.checkpoints import Checkpoint
from benchmarks.train.problem import Problem
from benchmarks.train.protocol import SILENT, Progress, Protocol, Row
from benchmarks.train.recipes import Recipe, default_hyperparameters, recipe
from benchmarks.train.training import (
    Curves,
    Member,
    Program,
    Run,
    Timing,
    compiled,
    evaluate,
    lowered,
    train,
)

AHEAD = 2  # Programs that wait for their row.


def run_cells(
    problem: Problem,
    store: Store,
    rows: Sequence[Row],
    protocol: Protocol,
    *,
    checkpoint_every: float = 60.0,
    progress: Progress = SILENT,
) -> dict[str, list[Cell]]:
    """Train the cells that are not in ``store`` yet; every row's cells, in order of seed."""
    configs = {row.label: configuration(problem, row, protocol) for row in rows}
    seeds = {row.label: row.seeds(protocol) for row in rows}
    found = {
        row.label: {
            seed: cell
            for seed in seeds[row.label]
            if (cell := store.load(row.label, seed, configs[row.label])) is not None
        }
        for row in rows
    }
    networks = [row for row in rows if row.method != SIMPLE_MODEL]
    todo = {
        row.label: (0 if 0 in found[row.label] else len(protocol.learning_rates))
        + sum(seed not in found[row.label] for seed in range(1, protocol.seeds))
        for row in networks
    }
    progress.plan(sum(map(len, found.values())), protocol.epochs * sum(todo.values()))
    try:
        missing = [row for row in networks if todo[row.label]]
        with closing(_compiled(missing, problem)) as recipes:
            # Once it is asked for, the first program is compiled beside the simple models.
            first = list(itertools.islice(recipes, 1))
            for row in rows:
                if row not in networks and not found[row.label]:
                    progress.row(row.label)
                    found[row.label][0] = _simple_model(problem, store, row, configs[row.label])
            for row, made, program in itertools.chain(first, recipes):
                progress.row(row.label)
                _Trainer(
                    made,
                    program,
                    store,
                    row,
                    protocol,
                    configs[row.label],
                    checkpoint_every,
                    progress,
                ).complete(found[row.label])
    except KeyboardInterrupt:
        kept = sum(map(len, found.values()))
        raise InterruptedRunError(
            f"interrupted: {kept} of {sum(map(len, seeds.values()))} cells are kept in "
            f"{store.folder}; the same command (without --fresh) goes on from there"
        ) from None
    return {row.label: [found[row.label][seed] for seed in seeds[row.label]] for row in rows}


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
    none = np.full((1, problem.num_tasks), np.nan)
    cell = Cell(
        method=row.label,
        seed=0,
        config=config,
        trials=(),
        learning_rate=np.nan,
        epoch=1,
        test=test,
        test_loss=none[0],
        curves=Curves(none, none, None, validation[None], None, None),
        timing=Timing(seconds, None),
    )
    store.save(cell)
    return cell


def _compiled(
    rows: Sequence[Row], problem: Problem
) -> Generator[tuple[Row, Recipe, Callable[[], Program]]]:
    """Each row's recipe and program; those that follow are compiled while it is trained."""
    compiler = ThreadPoolExecutor(1)
    waiting: deque[tuple[Row, Recipe, Callable[[], Program]]] = deque()
    try:
        for row in rows:
            made = recipe(row.method, problem, row.hyperparameters)
            waiting.append((row, made, compiler.submit(compiled, made, lowered(made)).result))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        compiler.shutdown(wait=False, cancel_futures=True)


def configuration(problem: Problem, row: Row, protocol: Protocol) -> Config:
    """Everything that decides a cell's numbers, apart from its seed and the code itself."""
    if row.method == SIMPLE_MODEL:
        assert problem.baseline is not None
        defaults: Mapping[str, Any] = {"model": problem.baseline.name}
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
        }
    )


@dataclass(frozen=True)
class _Trainer:
    """Makes the missing cells of one row."""

    recipe: Recipe
    program: Callable[[], Program]
    store: Store
    row: Row
    protocol: Protocol
    config: Config
    checkpoint_every: float
    progress: Progress

    def complete(self, found: dict[int, Cell]) -> None:
        """Train what ``found`` lacks, saving each cell as soon as it is finished."""
        if 0 not in found:
            found[0] = self._first()
        rate, trials = found[0].learning_rate, found[0].trials
        missing = [s for s in range(1, self.protocol.seeds) if s not in found]
        if missing:
            run = self._train([Member(seed, rate) for seed in missing])
            for number, seed in enumerate(missing):
                found[seed] = self._finish(run, number, Member(seed, rate), trials)
        self.store.discard_unfinished()

    def _first(self) -> Cell:
        """The first seed, with the learning rate that suits the method best."""
        members = [Member(0, rate) for rate in self.protocol.learning_rates]
        run = self._train(members)
        trials = tuple(
            Trial(member.learning_rate, float(best))
            for member, best in zip(members, run.best, strict=True)
        )
        chosen = int(np.argmax([trial.validation for trial in trials]))
        return self._finish(run, chosen, members[chosen], trials)

    def _train(self, members: list[Member]) -> Run:
        training = json.dumps([self.row.label, members, self.config], sort_keys=True)
        name = hashlib.sha256(training.encode()).hexdigest()[:16]
        return train(
            self.recipe,
            members,
            epochs=self.protocol.epochs,
            program=self.program,
            checkpoint=Checkpoint(self.store.unfinished / name, every=self.checkpoint_every),
            on_epoch=lambda: self.progress.epoch(len(members)),
        )

    def _finish(self, run: Run, number: int, member: Member, trials: tuple[Trial, ...]) -> Cell:
        """Read the test split and save the cell."""
        problem = self.recipe.problem
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
        )
        self.store.save(cell)
        return cell
