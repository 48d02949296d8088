"""The numbers that are copied from papers."""

import dataclasses
import math

import pytest

import mtl_optax as mtl
from benchmarks.papers import PAPER_RESULTS
from benchmarks.recipes import BASELINES

SUITES = {
    "toy",
    "synthetic",
    "topic",
    "reviews",
    "paraphrase",
    "multimnist",
    "census",
    "molecules",
    "aliexpress",
}


@pytest.mark.parametrize(
    "result", PAPER_RESULTS, ids=lambda r: f"{r.suite}-{r.method}-{r.metric[:22]}"
)
def test_every_row_is_of_a_suite_and_a_method_and_says_where_it_is_from(result):
    assert result.suite in SUITES
    assert result.method in {*BASELINES, *mtl.list_methods()}
    assert all(getattr(result, name).strip() for name in ("metric", "source", "protocol"))
    assert math.isfinite(result.value)
    assert "%" not in result.metric or "Δm" in result.metric or 0 < result.value < 100


def test_no_cell_of_a_table_is_there_twice():
    keys = [(r.suite, r.method, r.metric, r.source) for r in PAPER_RESULTS]
    assert len(set(keys)) == len(keys)


def test_rows_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAPER_RESULTS[0].value = 0.0
