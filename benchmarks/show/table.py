"""The table of a suite's results, as rows of text and for a terminal."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.methods import (
    BASELINES,
    EQUAL_WEIGHTING,
    SIMPLE_MODEL,
    SINGLE_TASK,
    UNTRAINED,
)
from benchmarks.results.gather import Lines
from benchmarks.results.summary import (
    Cells,
    Comparison,
    change,
    compare,
    counted,
    first_cell,
    improvement,
    mean_metric,
    mean_ranks,
    networks,
    several_metrics,
    spread,
    step_time,
    test_metrics,
)
from benchmarks.writing import spread_over

MOST_COLUMNS = 9  # Where a suite has more metrics, their mean alone is shown.
DELTA_P = ", over metrics; Δp the mean gain, over tasks and then their metrics, more is better"
IN_REPORTS = ("against equal weighting", "epoch")  # A terminal has no room for them.


def results_table(cells: Cells, *, each_metric: bool) -> Lines:
    """One row for each method; the counted metrics one by one, or their mean alone."""
    metrics, columns = first_cell(cells).metrics, counted(cells)
    shown = [i for i in range(len(metrics)) if each_metric or i not in columns]
    seeds = {len(group) for group in networks(cells).values()}
    several = several_metrics(cells)
    searched = any(cell.chosen for group in cells.values() for cell in group)
    heading = ["method", *(metrics[i].name for i in shown), "mean", "Δm %"]
    heading += [*(["Δp %"] if several else []), "rank"]
    heading += ["against equal weighting", "rate"]
    heading += [*(["chosen"] if searched else []), "epoch", "time"]
    heading += ["seeds"] if len(seeds) > 1 else []
    ranks = mean_ranks(cells)
    compared = compare(cells, EQUAL_WEIGHTING)
    rows = []
    for method, group in cells.items():
        changes = [change(cells, method), *([improvement(cells, method)] if several else [])]
        time = step_time(group, cells.get(EQUAL_WEIGHTING, []))
        row = [method, *(spread(test_metrics(group)[:, i]) for i in shown)]
        row.append(spread(mean_metric(cells, method)))
        for one in changes:
            if one is None or method == SINGLE_TASK or not np.isfinite(one).all():
                row.append("–")
            else:
                row.append(spread(one, sign="+"))
        row.append(rank_text(ranks.get(method, math.nan)))
        row.append(_against(compared.get(method)))
        rate, epoch = group[0].learning_rate, np.mean([cell.epoch for cell in group])
        row.append("–" if method in UNTRAINED else f"{rate:g}")
        row += [named(group[0].chosen)] if searched else []
        row.append("–" if method in UNTRAINED else f"{epoch:.0f}")
        row.append("–" if time is None else f"{time:.2f}x")
        row += [str(len(group))] if len(seeds) > 1 else []
        rows.append(row)
    return Lines(heading, rows)


def show(console: Console, cells: Cells) -> None:
    """Print the table of a suite, in a narrow terminal without a column for each metric."""
    whole = table(cells)
    wanted = console.measure(whole, options=console.options.update(width=1000)).maximum
    if console.width >= wanted:
        console.print(whole)
    elif console.is_terminal:
        console.print(table(cells, each_metric=False))
    else:
        Console(file=console.file, width=wanted).print(whole)


def table(cells: Cells, *, each_metric: bool = True) -> Table:
    """The table for a terminal."""
    few = each_metric and len(counted(cells)) <= MOST_COLUMNS
    heading, rows = results_table(cells, each_metric=few)
    shown = [i for i, name in enumerate(heading) if name not in IN_REPORTS]
    result = Table(
        title=(
            f"{first_cell(cells).suite}: test split, at the epoch that was best on the validation "
            "split"
        ),
        caption=(
            f"{spread_over(max(map(len, cells.values())))} Δm is the mean drop against "
            f"{SINGLE_TASK} in percent, less is better{DELTA_P * several_metrics(cells)}; rank is "
            "the mean place over metrics and seeds; rate is the learning rate chosen; time is per "
            f"step, against {EQUAL_WEIGHTING}."
        ),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    for i in shown:
        name = heading[i].replace(" ", "\n") if i else heading[i]
        result.add_column(name, justify="right" if i else "left", no_wrap=True)
    for method, row in zip(cells, rows, strict=True):
        result.add_row(
            *(row[i] for i in shown),
            style="dim" if method in (*UNTRAINED, *BASELINES) else "",
            end_section=method in (SIMPLE_MODEL, EQUAL_WEIGHTING),
        )
    return result


def _against(one: Comparison | None) -> str:
    if one is None:
        return "–"
    digits = 1 if abs(one.margin) >= 1 or abs(one.mean) >= 10 else 3
    mark = " *" if one.certain else ""
    return f"{one.mean:+.{digits}f} ± {one.margin:.{digits}f}{mark}"


def named(hyperparameters: Mapping[str, Any]) -> str:
    """Hyper-parameters with their values, or a dash where there are none."""
    return ", ".join(f"{name}={value}" for name, value in hyperparameters.items()) or "–"


def rank_text(place: float) -> str:
    """Returns a mean rank, or a dash where there is none."""
    return "–" if math.isnan(place) else f"{place:.1f}"
