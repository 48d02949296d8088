"""The papers' numbers: each has a place beside ours and a source."""

import math

import mtl_optax as mtl
from benchmarks.data.synthetic import TASKS as REGRESSIONS
from benchmarks.data.tiktok import TASKS as VIDEOS
from benchmarks.methods import BASELINES, COMPOSED
from benchmarks.problems.canvases import TASKS as DIGITS
from benchmarks.show.papers import PAPER_RESULTS
from benchmarks.suites import SUITES


def test_every_row_is_of_a_suite_and_a_method_and_says_where_it_is_from():
    shown = {"mean", "Δm %", "time", *(f"{task} %" for task in DIGITS)}
    shown |= {f"{task} AUC %" for task in VIDEOS}
    shown |= {f"{task} loss %" for task in REGRESSIONS}
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
