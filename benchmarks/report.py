"""The table of a finished suite."""

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.methods import BASELINES, EQUAL_WEIGHTING, SINGLE_TASK
from benchmarks.summary import (
    Cells,
    change,
    counted,
    first_cell,
    mean_metric,
    mean_ranks,
    spread,
    step_time,
    test_metrics,
)
from benchmarks.writing import spread_over

MOST_COLUMNS = 4  # Where a suite has more metrics, a terminal shows their mean alone.


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
    """One row for each method: metrics, change against single-task, rank, time per step."""
    first = first_cell(cells)
    metrics, columns = first.metrics, counted(cells)
    few = each_metric and len(columns) <= MOST_COLUMNS
    shown = [i for i in range(len(metrics)) if few or i not in columns]
    result = Table(
        title=f"{first.suite}: test split, at the epoch that was best on the validation split",
        caption=(
            f"{spread_over(len(next(iter(cells.values()))))} Δm is the mean drop against "
            f"{SINGLE_TASK} in percent, less is better; rank is the mean place over metrics and "
            f"seeds; rate is the learning rate chosen; time is per step, against "
            f"{EQUAL_WEIGHTING}."
        ),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    result.add_column("method", no_wrap=True)
    for column in (*(metrics[i].name for i in shown), "mean", "Δm %", "rank", "rate", "time"):
        result.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)

    ranks = mean_ranks(cells)
    for method, group in cells.items():
        ratio = step_time(group, cells[EQUAL_WEIGHTING])
        drop = change(cells, method)
        result.add_row(
            method,
            *(spread(test_metrics(group)[:, i]) for i in shown),
            spread(mean_metric(cells, method)),
            "–" if method == SINGLE_TASK or drop is None else spread(drop, sign="+"),
            f"{ranks[method]:.1f}",
            f"{group[0].learning_rate:g}",
            "–" if ratio is None else f"{ratio:.2f}x",
            style="dim" if method in BASELINES else "",
            end_section=method == EQUAL_WEIGHTING,
        )
    return result
