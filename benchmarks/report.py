"""The table of a finished suite, and the list of what there is to run."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from rich import box
from rich.table import Table

import mtl_optax as mtl
from benchmarks.cells import Cell
from benchmarks.training import BASELINES, EQUAL_WEIGHTING, SINGLE_TASK, Problem


def test_scores(cells: Sequence[Cell]) -> Float[np.ndarray, "s t"]:
    """Final test scores in percent, one row for each seed."""
    return 100 * np.stack([cell.test for cell in cells])


def change(
    scores: Float[np.ndarray, "s t"], reference: Float[np.ndarray, "s t"]
) -> Float[np.ndarray, " s"]:
    """Mean over tasks of the relative change in percent, seed against the same seed."""
    return (100 * (scores - reference) / reference).mean(axis=1)


def step_time(cells: Sequence[Cell], reference: Sequence[Cell]) -> float | None:
    """Time per step as a multiple of ``reference``'s; None where they cannot be compared."""
    ours, theirs = (
        {cell.timing.seeds_at_once: cell.timing.seconds_per_step for cell in group}
        for group in (cells, reference)
    )
    alike = max(ours.keys() & theirs.keys(), default=None)
    return None if alike is None else ours[alike] / theirs[alike]


def table(problem: Problem, cells: Mapping[str, Sequence[Cell]]) -> Table:
    """One row for each method: scores, change against single-task, time per step."""
    seeds = len(cells[SINGLE_TASK])
    validation = [cell.curves.validation[-1] for group in cells.values() for cell in group]
    result = Table(
        title=f"{problem.config['suite']}: test {problem.score} in percent after the last step",
        caption=(
            f"± is the standard deviation over {seeds} seeds. Time is per step, against "
            f"{EQUAL_WEIGHTING}. Validation {problem.score}, mean of all rows: "
            f"{100 * np.mean(validation):.2f} %."
        ),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    result.add_column("method", no_wrap=True)
    for column in (*problem.tasks, "mean", "vs single %", "time"):
        result.add_column(column, justify="right", no_wrap=True)

    single = test_scores(cells[SINGLE_TASK])
    for method, group in cells.items():
        scores = test_scores(group)
        ratio = step_time(group, cells[EQUAL_WEIGHTING])
        result.add_row(
            method,
            *(_spread(task) for task in scores.T),
            _spread(scores.mean(axis=1)),
            "–" if method == SINGLE_TASK else _spread(change(scores, single), sign="+"),
            "–" if ratio is None else f"{ratio:.2f}x",
            style="dim" if method in BASELINES else "",
            end_section=method == EQUAL_WEIGHTING,
        )
    return result


def suite_list(summaries: Mapping[str, str]) -> Table:
    """Every suite with its summary."""
    result = Table(box=box.SIMPLE_HEAD)
    result.add_column("suite", no_wrap=True)
    result.add_column("what it trains on")
    for name, summary in summaries.items():
        result.add_row(name, summary)
    return result


def method_list() -> Table:
    """The baselines and every method of the registry."""
    result = Table(box=box.SIMPLE_HEAD)
    result.add_column("method", no_wrap=True)
    result.add_column("what it does")
    result.add_column("source", style="dim", overflow="fold")
    for name, summary in BASELINES.items():
        result.add_row(name, summary, "baseline")
    for name in mtl.list_methods():
        info = mtl.method_info(name)
        result.add_row(name, info.summary, info.source)
    return result


def _spread(values: Float[np.ndarray, " s"], sign: str = "") -> str:
    mean = f"{values.mean():{sign}.1f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.1f}"
