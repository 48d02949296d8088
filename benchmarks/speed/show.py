"""What was measured, as Markdown tables with their targets, and as one picture."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

import mtl_optax as mtl

Row = Mapping[str, Any]
Table = tuple[str, list[str], list[list[str]]]  # Its legend, its head, its body.
GRAM_LIMIT, LOSSES_LIMIT, FASTER = 2.0, 1.05, 10.0
ROWS_LIMIT, ROWS_TIME, TAPS_LIMIT = 3.0, 1.3, 1.08
SOLVE_LIMIT = 5.0  # per cent
_LEAVES_DEVICE = ("nash_mtl", "graddrop")  # TorchJD solves these on the host, or one by one.


def tables(rows: Sequence[Row], made: Mapping[str, Any]) -> str:
    """Returns all tables."""
    parts = [
        title_and_table(part, make([row for row in rows if row["part"] == part], rows))
        for part, make in PARTS.items()
        if any(row["part"] == part for row in rows)
    ]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    device = made["device"]
    parts.append(f"{device['platform']} ({device['kind']}), {made['threads']} threads; {versions}.")
    return "\n\n".join(parts)


def title_and_table(part: str, table: Table) -> str:
    """Returns one part: its legend, and its table."""
    legend, head, body = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(
        [f"**{part.capitalize()}.** {legend}", "", *("| " + " | ".join(c) + " |" for c in lines)]
    )


def _aggregation(rows: Sequence[Row], _: Sequence[Row]) -> Table:
    places = sorted({(row["tasks"], row["size"], row["layout"]) for row in _of_large_models(rows)})
    body = []
    for method in _in_order(rows, "method"):
        cells = [method, _target(method)]
        for place in places:
            found = [
                r
                for r in rows
                if (r["method"], r["tasks"], r["size"], r["layout"]) == (method, *place)
            ]
            cells.append(_aggregate(found[0]) if found else "")
        body.append(cells)
    head = ["method", "target", *(f"{t} × {n:.0e} {layout}" for t, n, layout in places)]
    return (
        "One update of given task gradients, T × N, as one leaf or a tree of 60: its time over the "
        "limit / over equal weighting's; in brackets the time of TorchJD, and after a comma of "
        f"LibMTL, over ours. Targets: methods of the Gram matrix at most {GRAM_LIMIT:g} times the "
        "limit for N ≥ 1e6 and T ≤ 14; no method slower than TorchJD, and nash_mtl and graddrop "
        f"{FASTER:g} times faster.",
        head,
        body,
    )


def _target(method: str) -> str:
    targets = []
    if mtl.method_info(method).reads == {"gram"}:
        targets.append(f"≤ {GRAM_LIMIT:g}")
    if method in _LEAVES_DEVICE:
        targets.append(f"(≥ {FASTER:g})")
    return " ".join(targets)


def _aggregate(row: Row) -> str:
    peers = [f"{row[k]:.1f}" for k in ("TorchJD over ours", "LibMTL over ours") if k in row]
    ratio = f"{row['over limit']:.1f} / {row['over equal']:.1f}"
    return f"{ratio} ({', '.join(peers)})" if peers else ratio


def _solvers(rows: Sequence[Row], all_rows: Sequence[Row]) -> Table:
    steps = [r for r in all_rows if (r["part"], r.get("model")) == ("steps", "mlp")]
    step = next((r["milliseconds"] for r in steps if r["method"] == "sum_tasks"), None)
    body = [
        [
            row["problem"],
            row["solver"],
            str(row["tasks"]),
            f"{row['microseconds']:.0f}",
            f"{row['microseconds'] / step / 10:.1f}" if step and "iterations" in row else "",
            _or_empty(row, "microseconds each of 256", ".1f"),
            f"{row['iterations']:.1f} / {row['most iterations']}" if "iterations" in row else "",
            f"{row['worst gap']:.0e}",
        ]
        for row in rows
    ]
    head = [
        "problem",
        "solver",
        "T",
        "µs",
        "% of a step",
        "µs each of 256",
        "iterations, mean / most",
        "gap",
    ]
    return (
        "The inner problem alone; its time also as a share of a step with equal weighting of the "
        f"MLP below, of 1e6 parameters, target ≤ {SOLVE_LIMIT:g} %. The gap is the largest over "
        "256 problems (16 for TorchJD), computed in float64 from the weights: for min_norm the "
        "duality gap over the mean squared norm, for bargaining the residual max |a (Ma) - 1|.",
        head,
        body,
    )


def _steps(rows: Sequence[Row], _: Sequence[Row]) -> Table:
    models = _in_order(rows, "model")
    body = []
    for method in _in_order(rows, "method"):
        reads_losses = mtl.method_info(method).reads <= {"losses"}
        cells = [method, f"≤ {LOSSES_LIMIT:g}" if reads_losses else ""]
        for model in models:
            found = [row for row in rows if (row["model"], row["method"]) == (model, method)]
            cells.append(_step(found[0]) if found else "")
        body.append(cells)
    return (
        "A whole training step with four tasks, SGD: its time over that of equal weighting ± half "
        "the quartiles' distance; in brackets the same of TorchJD's mtl_backward over torch's own "
        "equal weighting, and TorchJD's time over ours.",
        ["method", "target", *models],
        body,
    )


def _step(row: Row) -> str:
    text = f"{row['over equal']:.2f} ± {row['over equal spread']:.2f}"
    if "TorchJD over ours" in row:
        text += f" ({row['TorchJD over its equal']:.2f}, {row['TorchJD over ours']:.1f})"
    return text


def _ways(rows: Sequence[Row], _: Sequence[Row]) -> Table:
    places = sorted({(row["tasks"], row["size"]) for row in _of_large_models(rows)})
    targets = {
        "losses only": f"1, time ≤ {LOSSES_LIMIT:g} of the first row",
        "taps": f"operations ≤ {TAPS_LIMIT:g} (T + 2)/3",
        "rows": f"≤ {ROWS_LIMIT:g}, time ≤ {ROWS_TIME:g} for T ≥ 10",
    }
    body = []
    for way in _in_order(rows, "way"):
        cells = [way, targets.get(way, "")]
        for place in places:
            row = next(r for r in rows if (r["way"], r["tasks"], r["size"]) == (way, *place))
            text = f"{row['over equal']:.1f} / {row['flops over equal']:.1f}"
            time = "time over stacked"
            cells.append(f"{text}, {row[time]:.2f}" if time in row else text)
        body.append(cells)
    return (
        "One step of an MLP with 32 rows: temporaries over those of equal weighting / "
        "floating-point operations likewise, as XLA plans them, and after a comma time over that "
        "of the stacked way. (XLA counts the body of a loop once: by rows, about T times as many "
        "operations run.)",
        ["way", "target", *(f"{t} × {n:.0e}" for t, n in places)],
        body,
    )


def _gathering(rows: Sequence[Row], _: Sequence[Row]) -> Table:
    body = []
    for model, num_tasks in dict.fromkeys((row["model"], row["tasks"]) for row in rows):
        of_model = [row for row in rows if (row["model"], row["tasks"]) == (model, num_tasks)]
        found = {row["way"]: row for row in of_model}
        equal = found["equal weighting"]
        time = [f"{equal['milliseconds']:.1f}"] if "milliseconds" in equal else []
        cells = [model, str(num_tasks), ", ".join([*time, f"{equal['megabytes']:.0f} MB"])]
        for way in ("stacked", "taps", "rows", "weights kept", "losses only"):
            told = found.get(way, {})
            time = [_over_equal(told)] if "over equal" in told else []
            memory = [f"{told['megabytes']:.0f} MB"] if told else []
            cells.append(", ".join([*time, *memory]))
        cells.insert(4, f"≤ {equal['target']:g}")
        for peer in ("mtl_backward", "autogram"):
            row = found.get(peer)
            cells.append(f"{_over_equal(row)}, {row['milliseconds']:.0f} ms" if row else "")
        body.append(cells)
    return (
        "A whole step of MGDA and SGD by each way of gathering task gradients: its time over that "
        "of equal weighting written by hand ± half the quartiles' distance, and its temporaries as "
        "XLA plans them; a step in which `every` keeps the weights; by losses only, UW. TorchJD's "
        "MGDA over torch's own equal weighting, and its milliseconds.",
        [
            "model",
            "T",
            "equal weighting, ms",
            "stacked",
            "target of taps",
            "taps",
            "rows",
            "weights kept",
            "losses only",
            "TorchJD mtl_backward",
            "TorchJD autogram",
        ],
        body,
    )


def _over_equal(row: Row) -> str:
    return f"{row['over equal']:.2f} ± {row['over equal spread']:.2f}"


PARTS: dict[str, Callable[[Sequence[Row], Sequence[Row]], Table]] = {
    "aggregation": _aggregation,
    "solvers": _solvers,
    "steps": _steps,
    "ways": _ways,
    "gathering": _gathering,
}


def _of_large_models(rows: Sequence[Row]) -> Sequence[Row]:
    """Those of a million parameters or more, to which the targets apply, if there are any."""
    return [row for row in rows if row["size"] >= 1e6] or rows


def _in_order(rows: Iterable[Row], column: str) -> list[Any]:
    return list(dict.fromkeys(row[column] for row in rows))


def _or_empty(row: Row, column: str, digits: str) -> str:
    return f"{row[column]:{digits}}" if column in row else ""


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws time over the limit against N, one panel for each number of tasks."""
    rows = [row for row in rows if row["part"] == "aggregation" and row["layout"] == "leaf"]
    if not rows:
        return
    tasks = sorted({row["tasks"] for row in rows})
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(4 * len(tasks), 4.5), sharey=True, squeeze=False
    )
    methods = _in_order(rows, "method")
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for axis, num_tasks in zip(axes[0], tasks, strict=True):
        for number, method in enumerate(methods):
            line = sorted(
                (row["size"], row["over limit"])
                for row in rows
                if (row["tasks"], row["method"]) == (num_tasks, method)
            )
            axis.plot(
                *zip(*line, strict=True),
                color=colours[number % len(colours)],
                linestyle="-" if number < len(colours) else "--",
                marker=".",
                label=method,
            )
        axis.axhline(1, color="black", linewidth=0.8)
        axis.axhline(GRAM_LIMIT, color="grey", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", yscale="log", title=f"T = {num_tasks}", xlabel="N")
    axes[0, 0].set_ylabel("time over the limit")
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="x-small")
    figure.savefig(path, bbox_inches="tight", dpi=120)
    plt.close(figure)
