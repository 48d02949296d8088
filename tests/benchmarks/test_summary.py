"""The figures of tables and pictures, against figures worked out by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from benchmarks.results import summary
from benchmarks.results.cells import Cell, Trial, as_read
from benchmarks.show.pictures import _gaps, _line, _searched, _tasks, band, boxes, draw
from benchmarks.show.table import table
from benchmarks.train.problem import Metric
from benchmarks.train.training import Curves, Timing
from tests.benchmarks.problems import METRICS

EXTRA = Metric("without repeats", 0, counts=False)


def cell(
    method: str,
    seed: int,
    test: list[float],
    pace: float | None = 0.01,
    metrics: tuple[Metric, ...] = METRICS,
) -> Cell:
    tasks = ["sum", "first"]
    return Cell(
        method=method,
        seed=seed,
        config=as_read(
            {
                "suite": "toy",
                "tasks": tasks,
                "metrics": [metric._asdict() for metric in metrics],
                "epochs": 2,
                "steps_per_epoch": 10,
            }
        ),
        trials=(Trial(0.1, 1.0),),
        learning_rate=0.1,
        epoch=2,
        test=np.array(test),
        test_loss=np.ones(2),
        curves=Curves(
            loss=np.ones((2, 2)),
            validation_loss=np.ones((2, 2)),
            query_loss=np.ones((2, 2)) if method == "pcgrad" else None,
            validation=np.array([[0.1] * len(metrics), test]),
            weights=np.array([[0.5, 0.5], [0.9, 0.1]]) if method == "pcgrad" else None,
            cosine=None if method == "single_task" else np.array([0.5, -0.5]),
        ),
        timing=Timing(1.0, pace),
    )


CELLS = {
    "single_task": [cell("single_task", 0, [80, 50]), cell("single_task", 1, [80, 50])],
    "equal_weighting": [cell("equal_weighting", s, [40, 50]) for s in (0, 1)],
    "pcgrad": [cell("pcgrad", 0, [80, 60], 0.02), cell("pcgrad", 1, [40, 50], 0.02)],
}


def test_change_is_relative_paired_and_a_mean_over_metrics() -> None:
    np.testing.assert_allclose(summary.change(CELLS, "pcgrad"), [-10, 25])
    assert summary.change({"pcgrad": CELLS["pcgrad"]}, "pcgrad") is None


def test_a_metric_that_does_not_count_is_left_out() -> None:
    cells = {
        method: [
            cell(method, c.seed, [*c.test, extra], metrics=(*METRICS, EXTRA))
            for c, extra in zip(group, (1.0, 99.0), strict=True)
        ]
        for method, group in CELLS.items()
    }
    np.testing.assert_allclose(summary.change(cells, "pcgrad"), [-10, 25])
    np.testing.assert_allclose(summary.mean_metric(cells, "pcgrad"), [70, 45])
    assert summary.mean_ranks(cells) == summary.mean_ranks(CELLS)


def test_ranks_by_hand() -> None:
    # Sum: seed 0 ties single and pcgrad, seed 1 ties the two others. First: 60 wins, 50s tie.
    expected = {
        "single_task": (1.5 + 1 + 2.5 + 2) / 4,
        "equal_weighting": (3 + 2.5 + 2.5 + 2) / 4,
        "pcgrad": (1.5 + 2.5 + 1 + 2) / 4,
    }
    assert summary.mean_ranks(CELLS) == pytest.approx(expected)


def test_ranks_turn_where_less_is_better_and_put_what_diverged_last() -> None:
    errors = tuple(Metric(name, task, higher_is_better=False) for name, task, *_ in METRICS)
    cells = {
        "single_task": [cell("single_task", 0, [2, 2], metrics=errors)],
        "equal_weighting": [cell("equal_weighting", 0, [1, 1], metrics=errors)],
        "pcgrad": [cell("pcgrad", 0, [np.nan, np.nan], metrics=errors)],
    }
    assert summary.mean_ranks(cells) == {"single_task": 2, "equal_weighting": 1, "pcgrad": 3}
    np.testing.assert_allclose(summary.change(cells, "equal_weighting"), [-50])
    assert not summary.higher_is_better(cells)


def test_a_comparison_has_students_interval() -> None:
    found = summary.compare(CELLS, "equal_weighting")["pcgrad"]
    interval = stats.ttest_rel([70, 45], [45, 45]).confidence_interval(0.95)
    np.testing.assert_allclose(
        [found.mean - found.margin, found.mean + found.margin], [interval.low, interval.high]
    )
    assert not found.certain
    one = {method: group[:1] for method, group in CELLS.items()}
    assert summary.compare(one, "equal_weighting") == {}
    assert summary.compare(CELLS, "mgda") == {}


def test_seeds_are_paired_by_number_and_not_by_place() -> None:
    """Where a seed is missing, the second of one method is not the second of another."""
    cells = {
        "single_task": [cell("single_task", s, [v, v]) for s, v in ((0, 10), (1, 50), (2, 80))],
        "equal_weighting": [cell("equal_weighting", s, [v, v]) for s, v in ((0, 9), (1, 40))],
        "uw": [cell("uw", s, [v, v]) for s, v in ((2, 84), (1, 45))],
    }
    np.testing.assert_allclose(summary.change(cells, "uw"), [10, -5])
    np.testing.assert_allclose(summary.change(cells, "equal_weighting"), [10, 20])
    assert summary.mean_ranks(cells) == {"single_task": 1, "equal_weighting": 3, "uw": 2}
    found = summary.compare(cells, "single_task")
    assert found.keys() == {"equal_weighting", "uw"}
    assert (found["uw"].mean, found["uw"].seeds) == (-0.5, 2)
    assert found["equal_weighting"].mean == -5.5


def test_without_a_common_seed_there_is_nothing_to_compare() -> None:
    cells = {name: [cell(name, s, [50, 50])] for s, name in enumerate(("single_task", "uw"))}
    assert summary.change(cells, "uw") is None
    assert summary.compare(cells, "single_task") == {}
    assert all(map(np.isnan, summary.mean_ranks(cells).values()))


def test_certain_is_what_holms_procedure_rejects() -> None:
    """With p = 0.0001, 0.03 and 0.3, the second falls at 0.05 / 2."""
    rng = np.random.default_rng(0)
    means = {"equal_weighting": 0.0, "mgda": 5.0, "pcgrad": 1.0, "uw": 0.3}
    cells = {
        name: [cell(name, s, [mean + rng.normal(), mean + rng.normal()]) for s in range(6)]
        for name, mean in means.items()
    }
    plain = summary.mean_metric(cells, "equal_weighting")
    chances = {
        name: stats.ttest_rel(summary.mean_metric(cells, name), plain).pvalue
        for name in ("mgda", "pcgrad", "uw")
    }
    rejected, left = set(), sorted(chances, key=chances.get)
    while left and chances[left[0]] <= 0.05 / len(left):
        rejected.add(left.pop(0))
    found = summary.compare(cells, "equal_weighting")
    assert {name for name, one in found.items() if one.certain} == rejected
    assert 0 < len(rejected) < 3
    for name in rejected:
        assert chances[name] < 0.05


def spreading(**means: float) -> dict[str, list[Cell]]:
    """Six seeds of each method, that spread alike."""
    rng = np.random.default_rng(0)
    return {
        name: [cell(name, s, [mean + rng.normal(), mean + rng.normal()]) for s in range(6)]
        for name, mean in {"equal_weighting": 0.0, **means}.items()
    }


def test_baselines_are_no_part_of_holms_family() -> None:
    """A method that is certain in a family of one is so beside a baseline, too."""
    alone = spreading(pcgrad=1.65)
    beside = {**alone, "single_task": [cell("single_task", s, [1e3, 1e3]) for s in range(6)]}
    (one,) = summary.compare(alone, "equal_weighting").values()
    assert 0.025 < chance(alone, "pcgrad") < 0.05
    found = summary.compare(beside, "equal_weighting")
    assert one.certain
    assert found["pcgrad"] == one
    assert found["single_task"].mean > 900
    assert not found["single_task"].certain


def chance(cells: dict[str, list[Cell]], method: str) -> float:
    ours, plain = (summary.mean_metric(cells, m) for m in (method, "equal_weighting"))
    return float(stats.ttest_rel(ours, plain).pvalue)


@pytest.mark.parametrize("others", [{}, {"mgda": 1.0, "uw": 2.0}])
def test_the_smallest_difference_is_found_four_times_out_of_five(others: dict[str, float]) -> None:
    """By integration over what the spread of six seeds may be."""
    cells = {**spreading(pcgrad=1.0, **others)}
    found = summary.smallest_difference(cells, "equal_weighting")
    names = ["pcgrad", *others]
    plain = summary.mean_metric(cells, "equal_weighting")
    differences = [summary.mean_metric(cells, name) - plain for name in names]
    error = np.median([np.std(d, ddof=1) for d in differences]) / np.sqrt(6)
    critical = stats.t.ppf(1 - 0.05 / (2 * len(names)), 5)
    squares = np.linspace(1e-6, 60, 200_001)
    power = np.trapezoid(
        stats.norm.cdf(found / error - critical * np.sqrt(squares / 5))
        * stats.chi2.pdf(squares, 5),
        squares,
    )
    np.testing.assert_allclose(power, 0.8, atol=1e-4)
    assert summary.smallest_difference({"pcgrad": cells["pcgrad"]}, "equal_weighting") is None


def test_time_is_that_of_the_fastest_epochs() -> None:
    slow, fast, unknown = (cell("pcgrad", 0, [50, 50], pace=pace) for pace in (0.03, 0.02, None))
    for group in ([slow, fast], [fast, unknown]):
        assert summary.step_time(group, CELLS["equal_weighting"]) == pytest.approx(2)
    assert summary.step_time([unknown], CELLS["equal_weighting"]) is None


def test_training_seconds_count_the_grid_once() -> None:
    first = dataclasses.replace(cell("uw", 0, [50, 50]), trials=(Trial(0.1, 1.0),) * 3)
    assert summary.training_seconds({"uw": [first]}) == pytest.approx(3 * 2 * 10 * 0.01)
    second = dataclasses.replace(first, seed=1)
    assert summary.training_seconds({"uw": [first, second]}) == pytest.approx(4 * 2 * 10 * 0.01)
    unknown = cell("uw", 1, [50, 50], pace=None)
    assert summary.training_seconds({"uw": [unknown]}) == 2
    simple = cell("baseline", 0, [50, 50])
    assert summary.training_seconds({"baseline": [simple]}) == 0


@pytest.mark.parametrize(
    ("chances", "rejected"),
    [
        ({"a": 0.3, "b": 0.001, "c": 0.02}, {"b", "c"}),  # 0.02 lies between 0.05 / 3 and 0.05 / 2.
        ({"a": 0.03, "b": 0.02, "c": 0.04}, set()),  # Where the first falls, so do the others.
    ],
)
def test_holms_procedure_by_hand(chances: dict[str, float], rejected: set[str]) -> None:
    assert summary._holm(chances) == rejected


def test_table() -> None:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table(CELLS))
    rows = {
        line.split()[0]: line.split()[1:] for line in capture.get().splitlines() if line.split()
    }
    expected = {
        "single_task": "80.0 ± 0.0 50.0 ± 0.0 65.0 ± 0.0 – 1.8 0.1 1.00x",
        "equal_weighting": "40.0 ± 0.0 50.0 ± 0.0 45.0 ± 0.0 +25.0 ± 0.0 2.5 0.1 1.00x",
        "pcgrad": "60.0 ± 28.3 55.0 ± 7.1 57.5 ± 17.7 +7.5 ± 24.7 1.8 0.1 2.00x",
    }
    for method, cells in expected.items():
        assert rows[method] == cells.split()


@pytest.mark.parametrize("epochs", [1, 2, 12])
def test_a_curve_of_few_epochs_has_marks(epochs):
    """A line through one point is not drawn at all."""
    axes = Figure().subplots()
    _line(axes, np.arange(epochs), np.zeros(epochs))
    band(axes, np.arange(epochs), np.zeros((2, epochs)), "black", "label")
    assert [line.get_marker() == "o" for line in axes.lines] == [epochs < 4] * 2


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def test_each_task_has_a_panel_of_points() -> None:
    """The mean of the metrics too; equal weighting's median is dotted."""
    shown = panels(_tasks(CELLS))
    assert [*shown] == ["mean", "sum fit", "first fit"]
    for name, reached in (("mean", [70, 45]), ("sum fit", [80, 40]), ("first fit", [60, 50])):
        values, bar = (shown[name].lines[k].get_xdata() for k in (0, 1))
        np.testing.assert_allclose(values, reached)  # The lowest row: pcgrad, the last of all.
        np.testing.assert_allclose(bar, np.mean(reached))
    assert [text.get_text() for text in shown["mean"].get_yticklabels()] == [*CELLS][::-1]


def test_gaps_are_told_task_by_task() -> None:
    """Of the one method that reads a query split."""
    group = [
        dataclasses.replace(
            one,
            test_loss=np.array([3.0, 5.0]) + one.seed,
            epoch=1,
            curves=one.curves._replace(query_loss=np.array([[1.0, 2.0], [3.0, 4.0]])),
        )
        for one in CELLS["pcgrad"]
    ]
    figure = _gaps({**CELLS, "pcgrad": group})
    assert figure is not None
    for number, (task, axes) in enumerate(panels(figure).items()):
        assert task == ("sum", "first")[number]
        lines = {line.get_label(): line for line in axes.lines}
        np.testing.assert_array_equal(lines["query"].get_ydata(), [1 + number, 3 + number])
        test = lines["test, at the epoch reported"]
        np.testing.assert_array_equal(test.get_xdata(), [1, 1])
        np.testing.assert_array_equal(test.get_ydata(), [3 + 2 * number, 4 + 2 * number])
    assert _gaps({"single_task": CELLS["single_task"]}) is None


def test_what_was_tried_is_drawn_and_what_was_chosen_filled() -> None:
    trials = tuple(Trial(0.1, good, {"c": c}) for c, good in ((0.5, 4.0), (0.2, 6.0), (0.8, 5.0)))
    group = [dataclasses.replace(one, trials=trials, chosen={"c": 0.2}) for one in CELLS["pcgrad"]]
    figure = _searched({**CELLS, "pcgrad": group})
    assert figure is not None
    (axes,) = figure.axes
    points = axes.lines[:3]
    assert [float(point.get_ydata()[0]) for point in points] == [4, 6, 5]
    assert [point.get_markerfacecolor() != "white" for point in points] == [False, True, False]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["c=0.5", "c=0.2", "c=0.8"]
    assert _searched(CELLS) is None
    errors = [metric._replace(higher_is_better=False)._asdict() for metric in METRICS]
    config = {**group[0].config, "metrics": errors}
    figure = _searched({"pcgrad": [dataclasses.replace(one, config=config) for one in group]})
    assert figure is not None
    assert [float(point.get_ydata()[0]) for point in figure.axes[0].lines] == [-4, -6, -5]


def test_boxes_show_quartiles_and_points() -> None:
    axes = Figure().subplots()
    boxes(axes, [np.array([1.0, 2.0, 3.0, 4.0, 8.0, np.nan])], [7.0], "black")
    box, _, _, median, points = axes.lines
    assert sorted(set(box.get_ydata())) == [2, 4]
    assert set(median.get_ydata()) == {3}
    np.testing.assert_array_equal(points.get_ydata(), [1, 2, 3, 4, 8])
    assert set(points.get_xdata()) == {7}
    ends = [y for line in axes.lines[1:3] for y in line.get_ydata()]
    assert (min(ends), max(ends)) == (1, 8)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("methods", [[], ["pcgrad"]])
def test_pictures(tmp_path: Path, seeds: int, methods: list[str]) -> None:
    names = ["single_task", "equal_weighting", *methods]
    draw({name: CELLS[name][:seeds] for name in names}, tmp_path)
    expected = {"summary", "tasks", "curves", "losses", "variance", "cosine"}
    expected |= {"weights", "gaps"} if methods else set()
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png" for name in expected}
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_figures_of_both_directions_by_hand() -> None:
    """Two metrics of the first task, of which one is an error, and one of the second."""
    metrics = (Metric("accuracy", 0), Metric("error", 0, False), Metric("fit", 1))
    cells = {
        name: [cell(name, 0, test, metrics=metrics)]
        for name, test in (("single_task", [50.0, 20.0, 10.0]), ("pcgrad", [60.0, 25.0, 9.0]))
    }
    assert summary.higher_is_better(cells)
    np.testing.assert_allclose(summary.mean_metric(cells, "pcgrad"), [(60 - 25 + 9) / 3])
    # Gains of 20, -25 and -10 percent.
    np.testing.assert_allclose(summary.change(cells, "pcgrad"), [5], rtol=1e-5)
    np.testing.assert_allclose(summary.improvement(cells, "pcgrad"), [-6.25], rtol=1e-5)
    assert summary.several_metrics(cells)
    assert not summary.several_metrics(CELLS)
