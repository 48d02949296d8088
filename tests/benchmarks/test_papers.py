"""The papers' numbers: each has a place beside ours and a source."""

import math

import mtl_optax as mtl
from benchmarks.methods import BASELINES
from benchmarks.problems.canvases import TASKS as DIGITS
from benchmarks.show.papers import PAPER_RESULTS
from benchmarks.suites import SUITES
from benchmarks.suites.tiktok import TikTok


def test_every_row_is_of_a_suite_and_a_method_and_says_where_it_is_from():
    shown = {"mean", "Δm %", "time", *(f"{task} %" for task in DIGITS)}
    shown |= {f"{task} AUC %" for task in TikTok.tasks}
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
