"""What cells say to the claims of the papers, against answers worked out by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks.results.claims import best_on, losses, variances
from benchmarks.show.claims import claims_table, place
from tests.benchmarks.test_reporting import rows, save
from tests.benchmarks.test_summary import CELLS, cell


def made(method: str, seed: int, test: list[float], training, of_test, epoch: int = 2):
    """A cell with these losses of its two tasks, after its first and its second epoch."""
    plain = cell(method, seed, test)
    curves = plain.curves._replace(loss=np.array(training))
    return dataclasses.replace(plain, curves=curves, test_loss=np.array(of_test), epoch=epoch)


# Both have five seeds; uw is above getmtl by 2 in every seed but for noise of 0.1.
NOISE = (-0.1, 0.0, 0.1, 0.0, 0.0)
GETMTL = [made("getmtl", s, [50, 70], [[9, 9], [1, 3]], [2, 6]) for s in range(5)]
UW = [
    made("uw", s, [60 + n, 64 + n], [[1, 1], [9, 9]], [1, 2], epoch=1) for s, n in enumerate(NOISE)
]
BOTH = {"equal_weighting": CELLS["equal_weighting"], "getmtl": GETMTL, "uw": UW}


def test_the_best_is_counted_task_by_task() -> None:
    assert best_on(BOTH) == {"equal_weighting": 0, "getmtl": 1, "uw": 1}
    tied = {**BOTH, "mgda": [made("mgda", 0, [60, 10], [[1, 1]] * 2, [1, 1])]}
    assert best_on(tied) == {"equal_weighting": 0, "getmtl": 1, "uw": 1, "mgda": 1}
    gone = {"getmtl": GETMTL, "uw": [made("uw", 0, [np.nan] * 2, [[1, 1]] * 2, [1, 1])]}
    assert best_on(gone) == {"getmtl": 2, "uw": 0}


def test_the_least_error_is_the_best() -> None:
    errors = [metric._replace(higher_is_better=False) for metric in GETMTL[0].metrics]
    config = {**GETMTL[0].config, "metrics": [metric._asdict() for metric in errors]}
    cells = {m: [dataclasses.replace(c, config=config) for c in BOTH[m]] for m in ("getmtl", "uw")}
    assert best_on(cells) == {"getmtl": 1, "uw": 1}
    assert place(cells, "getmtl").startswith(
        "getmtl: 60.0 ± 0.0, number 1 of 2 by the mean, before"
    )


def test_losses_are_those_of_the_epoch_reported() -> None:
    """GetMTL's second, of 1 and 3: mean 2, variance 1. UW's first, of 1 and 1."""
    found, other = losses(GETMTL), losses(UW)
    np.testing.assert_array_equal(found.training, [2] * 5)
    np.testing.assert_array_equal(found.test, [4] * 5)
    np.testing.assert_array_equal(other.training, [1] * 5)
    assert found.query is None
    of_training, of_test = variances(GETMTL)
    np.testing.assert_array_equal(of_training, [1] * 5)
    np.testing.assert_array_equal(of_test, [4] * 5)
    np.testing.assert_array_equal(variances(UW)[0], [0] * 5)
    queried = losses(CELLS["pcgrad"])
    assert queried.query is not None
    np.testing.assert_array_equal(queried.query, [1, 1])
    gone = losses([made("uw", 0, [1, 1], [[1, 1]] * 2, [1, 1], epoch=0)])
    assert np.isnan(gone.training).all()


def test_the_table_says_so() -> None:
    heading, lines = claims_table(BOTH)
    table = {line[0]: dict(zip(heading, line, strict=True)) for line in lines}
    assert table["getmtl"] == {
        "method": "getmtl",
        "mean": "60.0 ± 0.0",
        "best on, of 2": "1",
        "variance, training": "1 ± 0",
        "variance, test": "4 ± 0",
        "loss, training": "2 ± 0",
        "query": "–",
        "test": "4 ± 0",
        "gap": "2 ± 0",
    }
    assert table["uw"]["gap"] == "0.5 ± 0"


def test_a_place_is_told_with_who_can_be_told_apart() -> None:
    assert place(BOTH, "getmtl").startswith(
        "getmtl: 60.0 ± 0.0, number 2 of 3 by the mean, after uw, before equal_weighting. "
    )
    assert place(BOTH, "getmtl").endswith("better than none; worse than uw.")
    assert place(BOTH, "uw").endswith("better than getmtl; worse than none.")


def test_the_command_tells_of_the_suites_asked_for(tmp_path: Path, capsys) -> None:
    save(tmp_path / "one", BOTH, suite="one")
    save(tmp_path / "two", suite="two")
    command = ["claims", "--results", str(tmp_path)]
    assert command_line.main(command) == 0
    printed = capsys.readouterr().out
    assert "### one" in printed
    assert "### two" in printed
    assert place(BOTH, "getmtl") in printed
    assert "uw: 62" not in printed
    assert command_line.main([*command, "--suites", "one", "--methods", "uw"]) == 0
    printed = capsys.readouterr().out
    assert "### two" not in printed
    assert place(BOTH, "uw") in printed
    assert rows(printed)["uw"][1] == "1"
    assert command_line.main([*command, "--suites", "three"]) == 2
    assert "--suites: no results of three" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["getmlt", "adv"])
def test_a_method_that_there_is_not_is_named(method: str, tmp_path: Path, capsys) -> None:
    assert command_line.main(["claims", "--results", str(tmp_path), "--methods", method]) == 2
    assert f"--methods: there is no method '{method}'" in capsys.readouterr().err
