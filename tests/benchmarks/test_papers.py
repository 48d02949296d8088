"""The papers' numbers: each has a place beside ours and a source."""

import math

import mtl_optax as mtl
from benchmarks.data.synthetic import TASKS as REGRESSIONS
from benchmarks.methods import BASELINES
from benchmarks.problems.canvases import TASKS as DIGITS
from benchmarks.show.papers import PAPER_RESULTS
from benchmarks.suites import SUITES
from benchmarks.suites.tiktok import TikTok


def test_every_row_is_of_a_suite_and_a_method_and_says_where_it_is_from():
    shown = {"mean", "Δm %", "time", *(f"{task} %" for task in DIGITS)}
    shown |= {f"{task} AUC %" for task in TikTok.tasks}
    shown |= {f"{task} loss %" for task in REGRESSIONS}
    for result in PAPER_RESULTS:
        assert result.suite in {suite.name for suite in SUITES}
        assert result.method in {*BASELINES, *mtl.list_methods()}
        assert result.metric in shown
        assert result.source.strip()
        assert result.protocol.strip()
        assert math.isfinite(result.value)


def test_no_cell_of_a_table_is_there_twice():
    keys = [(r.suite, r.method, r.metric, r.source) for r in PAPER_RESULTS]
    assert len(set(keys)) == len(keys)


def test_the_means_of_the_regressions_are_those_that_the_paper_prints():
    """AdaTask's Tables 2 and 6, in which the mean of A and B is cut or rounded at four digits."""
    printed = {
        "equal_weighting": 0.1142,
        "gradnorm": 0.0680,
        "uw": 0.1066,
        "pcgrad": 0.1188,
        "cagrad": 0.0817,
        "adatask": 0.0560,
        "layerwise_adatask": 0.0637,
    }
    ours = {
        r.method: r.value for r in PAPER_RESULTS if (r.suite, r.metric) == ("synthetic", "mean")
    }
    assert ours.keys() == printed.keys()
    for method, mean in printed.items():
        assert abs(ours[method] - 100 * mean) < 0.011
