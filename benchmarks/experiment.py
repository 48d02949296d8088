"""The protocol of every suite: which trainings make a cell, and which cells are still missing.

The first seed tries every learning rate of the grid; the one with the best mean metric on the
validation split serves the other seeds too. Each training reports the epoch that was best on the
validation split. The test split is read once, by the parameters of that epoch.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from benchmarks.cells import Cell, Config, Store, Trial, as_read
from benchmarks.checkpoints import Checkpoint
from benchmarks.errors import InterruptedRunError
from benchmarks.methods import BASELINES
from benchmarks.problem import Problem
from benchmarks.protocol import SILENT, Progress, Protocol, Row
from benchmarks.recipes import Recipe, default_hyperparameters, recipe
from benchmarks.training import Member, Run, evaluate, train


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
    found = {
        row.label: {
            seed: cell
            for seed in range(protocol.seeds)
            if (cell := store.load(row.label, seed, configs[row.label])) is not None
        }
        for row in rows
    }
    todo = {
        row.label: (0 if 0 in found[row.label] else len(protocol.learning_rates))
        + sum(seed not in found[row.label] for seed in range(1, protocol.seeds))
        for row in rows
    }
    progress.plan(sum(map(len, found.values())), protocol.epochs * sum(todo.values()))
    try:
        for row in rows:
            if todo[row.label]:
                progress.row(row.label)
                _Trainer(
                    problem, store, row, protocol, configs[row.label], checkpoint_every, progress
                ).complete(found[row.label])
    except KeyboardInterrupt:
        kept = sum(map(len, found.values()))
        raise InterruptedRunError(
            f"interrupted: {kept} of {len(rows) * protocol.seeds} cells are kept in "
            f"{store.folder}; the same command (without --fresh) goes on from there"
        ) from None
    return {row.label: [found[row.label][seed] for seed in range(protocol.seeds)] for row in rows}


def configuration(problem: Problem, row: Row, protocol: Protocol) -> Config:
    """Everything that decides a cell's numbers, apart from its seed and the code itself."""
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

    problem: Problem
    store: Store
    row: Row
    protocol: Protocol
    config: Config
    checkpoint_every: float
    progress: Progress

    def complete(self, found: dict[int, Cell]) -> None:
        """Train what ``found`` lacks, saving each cell as soon as it is finished."""
        made = recipe(self.row.method, self.problem, self.row.hyperparameters)
        if 0 not in found:
            found[0] = self._first(made)
        rate, trials = found[0].learning_rate, found[0].trials
        missing = [s for s in range(1, self.protocol.seeds) if s not in found]
        for begin in range(0, len(missing), self.problem.at_once):
            seeds = missing[begin : begin + self.problem.at_once]
            run = self._train(made, [Member(seed, rate) for seed in seeds])
            for number, seed in enumerate(seeds):
                found[seed] = self._finish(made, run, number, Member(seed, rate), trials)
        self.store.discard_unfinished()

    def _first(self, made: Recipe) -> Cell:
        """The first seed, with the learning rate that suits the method best."""
        rates = self.protocol.learning_rates
        candidates = []
        for begin in range(0, len(rates), self.problem.at_once):
            members = [Member(0, rate) for rate in rates[begin : begin + self.problem.at_once]]
            run = self._train(made, members)
            candidates += [(run, number, member) for number, member in enumerate(members)]
        trials = tuple(Trial(m.learning_rate, float(run.best[i])) for run, i, m in candidates)
        chosen = int(np.argmax([trial.validation for trial in trials]))
        return self._finish(made, *candidates[chosen], trials)

    def _train(self, made: Recipe, members: list[Member]) -> Run:
        training = json.dumps([self.row.label, members, self.config], sort_keys=True)
        name = hashlib.sha256(training.encode()).hexdigest()[:16]
        return train(
            made,
            members,
            epochs=self.protocol.epochs,
            checkpoint=Checkpoint(self.store.unfinished / name, every=self.checkpoint_every),
            on_epoch=lambda: self.progress.epoch(len(members)),
        )

    def _finish(
        self, made: Recipe, run: Run, number: int, member: Member, trials: tuple[Trial, ...]
    ) -> Cell:
        """Read the test split and save the cell."""
        params = jax.tree.map(lambda p: p[number : number + 1], run.params)
        losses, metrics = evaluate(made.problem, params, self.problem.test)
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
