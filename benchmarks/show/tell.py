"""What a report says of a suite: a table, sentences, and the papers' numbers beside ours."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.methods import BASELINES, EQUAL_WEIGHTING, SIMPLE_MODEL, SINGLE_TASK
from benchmarks.results.cells import Cell
from benchmarks.results.gather import Lines, SuiteResults
from benchmarks.results.summary import (
    Cells,
    change,
    compare,
    first_cell,
    higher_is_better,
    mean_metric,
    mean_ranks,
    networks,
    smallest_difference,
    spread,
    step_time,
    test_metrics,
    training_seconds,
    with_common_seeds,
)
from benchmarks.show.papers import PAPER_RESULTS
from benchmarks.show.table import named, rank_text
from benchmarks.writing import number_of


def verdict(cells: Cells) -> str:
    """Which methods differ from equal weighting by more than noise."""
    compared = compare(cells, EQUAL_WEIGHTING)
    methods = {name: one for name, one in compared.items() if name not in BASELINES}
    if not methods:
        return "No method was compared with equal weighting."
    better = [name for name, one in methods.items() if one.certain and one.mean > 0]
    worse = [name for name, one in methods.items() if one.certain and one.mean < 0]
    seeds = sorted({one.seeds for one in methods.values()})
    least = smallest_difference(cells, EQUAL_WEIGHTING)
    return (
        f"Over {_range(seeds)} seeds, by paired t-tests at 5 % with Holm's correction for "
        f"{number_of('comparison', len(methods))}: better than equal weighting: {_names(better)}; "
        f"worse: {_names(worse)}; the other {len(methods) - len(better) - len(worse)} cannot be "
        f"told from it. A difference of {least:.2g} in the mean would have been found in four of "
        "five such runs."
    )


def baseline(cells: Cells) -> str | None:
    """What the simple models are, and first of all whether the plain network is worse."""
    if SIMPLE_MODEL not in cells:
        return None
    simple = cells[SIMPLE_MODEL][0]
    told = simple.config["hyperparameters"]
    what = told.get("what", "a model of scikit-learn for each task alone")
    name = f"The baseline is {what}: {told['model']}."
    if EQUAL_WEIGHTING not in cells:
        return name
    ours, theirs = (mean_metric(cells, m).mean() for m in (EQUAL_WEIGHTING, SIMPLE_MODEL))
    if theirs == ours or (theirs < ours) == higher_is_better(cells):
        return name
    return (
        f"**Equal weighting is below the baseline**, {ours:.4g} against {theirs:.4g} in the mean: "
        f"these networks are not what one would use. {name}"
    )


def caveats(cells: Cells) -> list[str]:
    """What limits the comparison, as far as the cells show it."""
    cells = networks(cells)
    if not cells:
        return ["No network was trained."]
    trained = [cell for group in cells.values() for cell in group]
    config, found = trained[0].config, []
    if (gone := _diverged(trained)) is not None:
        found.append(gone)
    compared = {EQUAL_WEIGHTING, *compare(cells, EQUAL_WEIGHTING)}
    if EQUAL_WEIGHTING not in cells:
        found.append(f"Nothing can be compared with {EQUAL_WEIGHTING}, which is not there.")
    elif alone := [method for method in cells if method not in compared]:
        found.append(f"Not compared, for want of two finite seeds in common: {_few(alone, cells)}.")
    if SINGLE_TASK not in cells:
        found.append(f"There is no Δm, for want of {SINGLE_TASK}.")
    if len({frozenset(cell.seed for cell in group) for group in cells.values()}) > 1:
        common = sorted(cell.seed for cell in next(iter(with_common_seeds(cells, cells).values())))
        seeds = ", ".join(map(str, common)) or "none, so that there are no ranks"
        found.append(f"Ranks are over the seeds that every method has: {seeds}.")
    late = sum(cell.epoch == config["epochs"] for cell in trained)
    if 2 * late > len(trained):
        found.append(
            f"In {late} of {len(trained)} trainings the last epoch was the best: longer ones may "
            "end in another order."
        )
    edge = []
    for method, (first, *_) in cells.items():
        rates = {*first.config["learning_rates"], *_tried(first)}
        ends = (min(rates), max(rates)) if len(rates) > 2 else ()
        if not first.chosen and first.learning_rate in ends:
            edge.append(method)
    if edge:
        found.append(
            "The learning rate chosen is the smallest or the largest that was tried for "
            f"{_few(edge, cells)}: another may suit better."
        )
    if edge := [method for method, group in cells.items() if _at_an_edge(group[0])]:
        found.append(
            f"The hyper-parameter chosen is the smallest or the largest that was tried for "
            f"{_few(edge, cells)}: another may suit better."
        )
    return found


def _tried(cell: Cell) -> list[float]:
    return [trial.learning_rate for trial in cell.trials]


def _at_an_edge(cell: Cell) -> bool:
    """Whether a hyper-parameter is the smallest or the largest number of at least three tried."""
    for name, value in cell.chosen.items():
        tried = [trial.hyperparameters.get(name) for trial in cell.trials]
        numbers = [number for number in tried if number is not None]
        if len(numbers) > 2 and value in (min(numbers), max(numbers)):
            return True
    return False


def _diverged(trained: Sequence[Cell]) -> str | None:
    found = [f"{cell.method} (seed {cell.seed})" for cell in trained if not cell.epoch]
    return f"Without a finite result: {', '.join(found)}." if found else None


def protocol(results: SuiteResults) -> str:
    """What was trained, in one sentence."""
    config = first_cell(results.cells).config
    rates = ", ".join(f"{rate:g}" for rate in config["learning_rates"])
    steps = config["steps_per_epoch"]
    further = {
        method: [f"{rate:g}" for rate in _tried(cell) if rate not in config["learning_rates"]]
        for method, (cell, *_) in results.cells.items()
        if not cell.chosen
    }
    beyond = "; ".join(
        f"{', '.join(more)} for {method}" for method, more in further.items() if more
    )
    searched = {
        method: "; ".join(map(named, group[0].config["searched"]))
        for method, group in results.cells.items()
        if "searched" in group[0].config
    }
    instead = (
        f" As many trainings of seed 0, at equal weighting's rate, choose for "
        f"{', '.join(f'{method} from {tried}' for method, tried in searched.items())}."
    )
    return (
        f"{number_of('epoch', config['epochs'])} of {number_of('step', steps)}, batches of "
        f"{config['batch_size']}; the learning rate is the best of {rates} on the validation "
        f"split (tried with seed 0), and so is the epoch."
        f"{f' Where an end of these was the best, also {beyond}.' if beyond else ''}"
        f"{instead if searched else ''}"
    )


def effort(cells: Cells) -> str:
    """How long the trainings took."""
    minutes = number_of("minute", math.ceil(training_seconds(cells) / 60))
    return f"One after the other the trainings take {minutes}, at the pace of the fastest epochs."


def papers_table(cells: Cells) -> tuple[Lines, list[str]] | None:
    """The papers' numbers beside ours, and how their protocols differ."""
    first = first_cell(cells)
    papers = [
        row
        for row in PAPER_RESULTS
        if row.suite == first.suite
        and row.method in cells
        and row.model in ("", _network(first.config))
    ]
    if not papers:
        return None
    notes = list(dict.fromkeys(f"{row.source}: {row.protocol}." for row in papers))
    columns = list(dict.fromkeys(row.metric for row in papers))
    values = {(row.method, row.setting, row.metric): f"{row.value:g}" for row in papers}
    heading = ["method", *(f"{c}: {whose}" for c in columns for whose in ("paper", "here"))]
    rows = []
    for method, setting in dict.fromkeys((row.method, row.setting) for row in papers):
        pairs = [(values.get((method, setting, c), "–"), _ours(cells, method, c)) for c in columns]
        name = f"{method} ({setting})" if setting else method
        rows.append([name, *(cell for pair in pairs for cell in pair)])
    return Lines(heading, rows), notes


def _network(config: Mapping[str, Any]) -> str:
    """The name of the network, where a suite has several."""
    return str(config.get("backbone") or config.get("model", {}).get("name", ""))


def _ours(cells: Cells, method: str, metric: str) -> str:
    """Our figure of that name."""
    names = [m.name for m in first_cell(cells).metrics]
    if metric == "mean":
        return spread(mean_metric(cells, method))
    if metric == "Δm %":
        drop = change(cells, method)
        return "–" if drop is None else spread(drop, sign="+")
    if metric == "time":
        time = step_time(cells[method], cells.get(EQUAL_WEIGHTING, []))
        return "–" if time is None else f"{time:.2f}"
    if metric in names:
        return spread(test_metrics(cells[method])[:, names.index(metric)])
    return "–"


def suite_ranks(suites: Sequence[SuiteResults]) -> dict[str, dict[str, float]]:
    """Suite to method to mean rank."""
    return {results.name: mean_ranks(results.cells) for results in suites}


def overview(suites: Sequence[SuiteResults]) -> Lines:
    """Rank and Δm of every method on every suite."""
    ranks = suite_ranks(suites)
    methods = list(dict.fromkeys(name for places in ranks.values() for name in places))
    rows = []
    for method in methods:
        row, places = [method], []
        for results in suites:
            if method not in ranks[results.name]:
                row.append("–")
                continue
            places.append(ranks[results.name][method])
            drop = change(results.cells, method)
            drop_text = "" if drop is None or method == SINGLE_TASK else f" ({drop.mean():+.1f})"
            row.append(f"{rank_text(places[-1])}{drop_text}")
        rows.append([*row, rank_text(float(np.mean(places)))])
    return Lines(["method", *ranks, "mean rank"], rows)


def _range(numbers: Sequence[int]) -> str:
    low, high = numbers[0], numbers[-1]
    return str(low) if low == high else f"{low} to {high}"


def _few(methods: Sequence[str], cells: Cells) -> str:
    return _names(methods) if len(methods) <= 6 else f"{len(methods)} of {len(cells)} methods"


def _names(methods: Sequence[str]) -> str:
    return ", ".join(methods) if methods else "none"
