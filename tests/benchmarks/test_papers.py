"""The papers' numbers: each has a place beside ours and a source."""

import math

import mtl_optax as mtl
from benchmarks.data.synthetic import TASKS as REGRESSIONS
from benchmarks.data.tiktok import TASKS as VIDEOS
from benchmarks.methods import BASELINES, COMPOSED
from benchmarks.problems.canvases import TASKS as DIGITS
from benchmarks.problems.photographs import OF_STREETS
from benchmarks.problems.pixels import METRICS as OF_ROOMS
from benchmarks.show.papers import PAPER_RESULTS
from benchmarks.suites import SUITES


def test_every_row_is_of_a_suite_and_a_method_and_says_where_it_is_from():
    shown = {"mean", "Δm %", "time", *(f"{task} %" for task in DIGITS)}
    shown |= {f"{task} AUC %" for task in VIDEOS}
    shown |= {f"{task} loss %" for task in REGRESSIONS}
    shown |= {metric.name for metric in (*OF_ROOMS, *OF_STREETS)}
    for result in PAPER_RESULTS:
        assert result.suite in {suite.name for suite in SUITES}
        assert result.method in {*BASELINES, *mtl.list_methods(), *COMPOSED}
        assert result.metric in shown
        assert result.source.strip()
        assert result.protocol.strip()
        assert math.isfinite(result.value)


def test_no_cell_of_a_table_is_there_twice():
    keys = [(r.suite, r.method, r.metric, r.source) for r in PAPER_RESULTS]
    assert len(set(keys)) == len(keys)


def test_the_means_of_the_regressions_are_those_of_their_columns():
    """AdaTask's Tables 2 and 6, where the mean of A and B is cut or rounded at four digits."""
    ours = {(r.method, r.metric): r.value for r in PAPER_RESULTS if r.suite == "synthetic"}
    methods = [method for method, metric in ours if metric == "mean"]
    assert len(methods) == 7
    for method in methods:
        both = (ours[method, "A loss %"] + ours[method, "B loss %"]) / 2
        assert abs(ours[method, "mean"] - both) < 0.011


def test_the_changes_of_the_rooms_follow_from_their_columns():
    """EMTL's Table 2: Δm over the nine metrics against its single-task row.

    The paper averages over seeds what it printed more digits of: off by up to 0.24.
    """
    better = [metric.higher_is_better for metric in OF_ROOMS]
    ours = {(r.method, r.metric): r.value for r in PAPER_RESULTS if r.suite == "nyuv2"}
    rows = {m: [ours[m, metric.name] for metric in OF_ROOMS] for m, _ in ours}
    for method, row in rows.items():
        if method != "single_task":
            change = mtl.metrics.delta_m(row, rows["single_task"], better)
            assert abs(float(change) - ours[method, "Δm %"]) < 0.25, (method, float(change))


def test_the_changes_of_the_streets_are_the_papers():
    """AdaTask's Table 1: Δp over its four metrics against equal weighting; off by up to 0.14."""
    printed = {"mgda": 2.40, "gradnorm": 2.71, "uw": 8.05, "pcgrad": 2.88, "cagrad": 6.50}
    printed |= {"adatask": 9.34, "adatask+pcgrad": 10.52, "adatask+cagrad": 10.59}
    better = [metric.higher_is_better for metric in OF_STREETS]
    ours = {(r.method, r.metric): r.value for r in PAPER_RESULTS if r.suite == "cityscapes"}
    row = lambda method: [ours[method, metric.name] for metric in OF_STREETS]
    for method, value in printed.items():
        found = -float(mtl.metrics.delta_m(row(method), row("equal_weighting"), better))
        assert abs(found - value) < 0.15, (method, found)
