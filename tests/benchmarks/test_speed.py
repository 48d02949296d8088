"""The speed benchmark: its arithmetic, its rows and its errors; and the memory of each way."""

import functools
import json

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks.speed import gathering, limit, shapes, solvers, ways
from benchmarks.speed.gradients import task_gradients
from benchmarks.speed.timing import Times, contest
from tests.common import AS_USERS_HAVE_IT

SMALL = [
    "speed",
    "--no-peers",
    "--tasks",
    "2",
    "--sizes",
    "5000",
    "--methods",
    "mgda",
    "uw",
    "--rounds",
    "1",
]


def test_the_limit_is_the_slower_of_memory_and_products():
    # A stack of 4 x 1000: 16 kB read in 1 s, so 36 kB take 2.25 s.
    times = {limit.READ: [1.0], limit.SUM: [2.0], limit.PRODUCT: [1e-9]}
    times = {name: np.array(seconds) for name, seconds in times.items()}
    assert limit.seconds(Times(times), 4, 1000) == pytest.approx(2.25)
    slow = times | {limit.PRODUCT: np.array([1024.0**3])}
    assert limit.seconds(Times(slow), 4, 1000) == pytest.approx(16_000)
    # Writing an update too, the sum moves 20 kB: in 0.5 s it shows more bandwidth than the read.
    faster = times | {limit.SUM: np.array([0.5])}
    assert limit.seconds(Times(faster), 4, 1000) == pytest.approx(0.9)


def test_contenders_take_turns_and_ratios_pair_them():
    order = []
    contest({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3)
    assert order.index("b") < len(order) - 1 - order[::-1].index("a")
    times = Times({"a": np.array([2.0, 20.0, 6.0]), "b": np.array([1.0, 10.0, 2.0])})
    assert times.ratio("a", "b")[0] == pytest.approx(2.0)


def test_what_the_contender_before_left_behind_does_not_count(monkeypatch):
    clock, last = [0.0], [""]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def work(name):
        clock[0] += 1 if last[0] == name else 10
        last[0] = name

    times = contest({name: lambda name=name: work(name) for name in "ab"}, rounds=3)
    assert times.median("a") == times.median("b") == 1


@pytest.mark.parametrize(("layout", "leaves"), [("leaf", 1), ("tree", 60)])
def test_gradients_are_those_of_the_matrix(layout, leaves):
    tree, matrix = task_gradients(4, 4000, layout)
    assert len(tree) == leaves
    assert abs(matrix.shape[1] - 4000) < 600
    flat = np.concatenate([np.asarray(leaf).reshape(4, -1) for leaf in tree.values()], axis=1)
    np.testing.assert_array_equal(flat, matrix)
    assert (np.corrcoef(matrix) < -0.05).any(), "no conflict"


def test_certificates():
    gram = np.array([[1.0, 0.0], [0.0, 3.0]])
    assert solvers.min_norm_gap(gram, np.array([0.75, 0.25])) == pytest.approx(0)
    # w'Mw = 1, min Mw = 0, mean diagonal 2.
    assert solvers.min_norm_gap(gram, np.array([1.0, 0.0])) == pytest.approx(0.5)
    assert solvers.bargaining_residual(gram, np.array([1.0, 3**-0.5])) == pytest.approx(0)
    assert solvers.bargaining_residual(gram, np.array([1.0, 1.0])) == pytest.approx(0.5)


def test_rows_are_kept_and_measured_once(tmp_path, capsys):
    out = tmp_path / "speed"
    command = [*SMALL, "--parts", "aggregation", "ways", "--out", str(out)]
    assert command_line.main(command) == 0
    table = capsys.readouterr().out
    assert "| mgda | ≤ 2 |" in table
    assert "| rows | ≤ 3, time ≤ 1.3 for T ≥ 10 |" in table
    assert (out / "speed.png").stat().st_size > 0
    first = (out / "rows.jsonl").read_text()
    assert len(first.splitlines()) == 2 * 2 + 1
    # Cut off in the middle of its last line, as by an interruption.
    (out / "rows.jsonl").write_text(first[:-20])
    into = tmp_path / "page.md"
    into.write_text("<!-- speed -->\n<!-- end of speed -->\n")
    assert command_line.main([*command, "--quiet", "--into", str(into)]) == 0
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()[-1:]]
    assert rows[0]["rows"][0]["part"] == "ways"
    assert rows[0]["rows"][-1]["time over stacked"] == 1
    assert first.splitlines()[:4] == (out / "rows.jsonl").read_text().splitlines()[:4]
    assert "| uw |" in into.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "mdga"], "--methods:"),
        (["--tasks", "0"], "--tasks must be at least 1"),
        (["--sizes", "-5"], "--sizes must be at least 1"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--no-times", "--parts", "solvers"], "--no-times leaves nothing of --parts solvers"),
    ],
)
def test_mistakes_are_told_in_one_line(options, message, tmp_path, capsys):
    command = ["speed", "--no-peers", "--out", str(tmp_path), *options]
    assert command_line.main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_memory_alone_is_told_and_times_are_measured_later(tmp_path, capsys, monkeypatch):
    small = functools.partial(shapes.recommender, 8, 50, 2, 2)
    monkeypatch.setattr(gathering, "shapes", lambda: [small, shapes.own_batches])
    command = ["speed", "--no-peers", "--rounds", "1", "--parts", "gathering", "--methods", "uw"]
    command += ["--models", "rec", "--out", str(tmp_path)]

    def line():
        (cells,) = [
            line.split("|")[1:-1]
            for line in capsys.readouterr().out.splitlines()
            if line.startswith("| rec") or line.startswith("| batch")
        ]
        return [[i for i, cell in enumerate(cells) if text in cell] for text in (" MB ", "±")]

    # Equal weighting, the target in between, five ways; and no peers.
    assert command_line.main([*command, "--no-times"]) == 0
    assert line() == [[2, 3, 5, 6, 7, 8], []]
    assert command_line.main(command) == 0
    assert line() == [[2, 3, 5, 6, 7, 8], [3, 5, 6, 7, 8]]
    assert command_line.main([*command, "--models", "reccomender"]) == 2
    error = capsys.readouterr().err
    assert "--models: no name begins with 'reccomender'. Models: 'recommender 50 × 2" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("way", ["taps", "weights kept", "losses only"])
def test_a_step_holds_no_table_of_embeddings_for_each_task(way):
    """One gradient of it, as equal weighting, beside a few copies of the rows that were read."""
    shape = shapes.recommender(4096, 1_000_000, num_tasks=4)
    table, read = shape.params["table"].nbytes, 4 * shape.batch[0].size * 16
    steps = gathering.steps_of(shape)
    memory = {
        name: gathering.planned(steps[name], shape, compiler_options=AS_USERS_HAVE_IT)
        for name in (gathering.EQUAL, way)
    }
    assert table <= memory[gathering.EQUAL] < 1.1 * table
    assert memory[way] < memory[gathering.EQUAL] + 5 * shape.num_tasks * read < 1.5 * table


@pytest.mark.parametrize("num_tasks", [4, 40])
def test_memory_of_each_way(num_tasks):
    """XLA's own plan: exact, and the same on every machine with this version."""
    size = 1_000_000
    plain, losses, features, rows, stacked = (
        ways.cost(ways.ways(num_tasks, size)[way]().compile(AS_USERS_HAVE_IT)).temporaries
        for way in ("equal weighting", "losses only", "features", "rows", "stacked")
    )
    small = 100 * num_tasks**2 + 10_000  # T × T matrices of the inner problem.
    assert losses <= 1.01 * plain + small
    assert rows <= 3 * plain + small
    assert features <= 1.1 * plain + small + num_tasks * ways.ROWS * ways.FEATURES * 4 * 4
    assert 4 * num_tasks * size <= stacked <= 1.2 * 4 * num_tasks * size
