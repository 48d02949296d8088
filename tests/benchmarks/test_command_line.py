"""`python -m benchmarks` as a user meets it: output, files, resuming, mistakes."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import mtl_optax as mtl
from benchmarks import __main__ as command_line
from benchmarks.__main__ import COMMANDS
from benchmarks.methods import registry
from benchmarks.show.command import Claims, Report
from benchmarks.speed.command import Speed
from benchmarks.speed.compiling.command import Compile
from benchmarks.suites import SUITES, digits
from benchmarks.train import experiment
from tests.common import ROOT, stamps

TINY = ["--methods", "pcgrad", "adatask", "--seeds", "2", "--epochs", "2"]
TINY += ["--batch-size", "100", "--learning-rates", "0.01"]
NETWORKS = ("single_task", "equal_weighting", "pcgrad", "adatask")
ROWS = ("baseline", *NETWORKS)
PICTURES = {"summary", "tasks", "curves", "losses", "variance", "weights", "cosine"}
PICTURES = {f"{name}.png" for name in PICTURES}


def run(*arguments):
    return command_line.main(["digits", *arguments])


@pytest.fixture(scope="module", autouse=True)
def _few_canvases():
    with pytest.MonkeyPatch.context() as patch:
        for split, size in (("train", 400), ("validation", 100), ("test", 100)):
            patch.setitem(digits.DATA, split, size)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one finished tiny run."""
    folder = tmp_path_factory.mktemp("digits")
    assert run(*TINY, "--quiet", "--out", str(folder)) == 0
    return folder


@pytest.mark.parametrize(
    "command", [*COMMANDS, Claims, Compile, Report, Speed], ids=lambda c: c.__name__
)
def test_every_command_computes_in_float32(command, monkeypatch):
    dtypes = []
    monkeypatch.setattr(command, "check", lambda _: None)
    monkeypatch.setattr(command, "work", lambda _: dtypes.append(jnp.array(0.5).dtype))
    with jax.enable_x64(True):
        command().run()
    assert dtypes == [jnp.float32]


SLOW = {"flax", "jax", "matplotlib", "mtl_optax", "optax", "orbax", "scipy", "sklearn"}
SWIFT = """
import sys
from benchmarks.__main__ import main

for code, *arguments in {cases}:
    try:
        found = main(arguments)
    except SystemExit as exit:
        found = exit.code
    assert found == code, (arguments, found)
    assert not {slow} & set(sys.modules), (arguments, {slow} & set(sys.modules))

import benchmarks.train.experiment, benchmarks.show.pictures, benchmarks.problems.networks

assert {slow} <= set(sys.modules)
"""


def test_help_lists_and_mistakes_import_nothing_slow(tmp_path):
    (tmp_path / "file").write_text("")
    out, nowhere = str(tmp_path / "file"), str(tmp_path / "nowhere")
    commands = [suite.name for suite in COMMANDS] + ["compile", "speed", "report", "claims"]
    cases = [(0, *command, "--help") for command in ([], *([name] for name in commands))]
    cases += [(0, "sweep", "--help"), (0, "sweep", "digits", "--help"), (0, "list")]
    cases += [(2, "digtis"), (2, "digits", "--epcohs", "3"), (2, "sweep", "digits", "--over", "c")]
    cases += [(2, "digits", "--epochs", "0"), (2, "sweep", "digits", "--method", "cagard")]
    cases += [(2, name, "--methods", "x") for name in commands if name != "report"]
    cases += [(2, name, "--out", out) for name in commands if name not in ("report", "claims")]
    cases += [(2, "report", "--into", nowhere), (2, "speed", "--into", nowhere)]
    cases += [
        (2, suite.name, "--data-dir", nowhere, "--out", str(tmp_path / "out"))
        for suite in SUITES
        if suite.name not in ("digits", "synthetic", "ranking", "scenes")
    ]
    script = SWIFT.format(cases=cases, slow=SLOW)
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_a_run_without_data_leaves_no_folder(tmp_path):
    folder = tmp_path / "results" / "reviews"
    arguments = ["--data-dir", str(tmp_path / "nowhere"), "--out", str(folder)]
    assert command_line.main(["reviews", *arguments]) == 2
    assert not list(tmp_path.iterdir())


def test_the_usage_line_names_every_command(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    named = re.search(r"\{(\w+(,\w+)*)\}", re.sub(r"\s", "", capsys.readouterr().out)).group(1)
    assert {"digits", "toy", "sweep", "grid", "speed", "compile", "report", "claims", "list"} <= {
        *named.split(",")
    }


def test_the_list_knows_what_the_registry_knows():
    known = {name: (entry.summary, entry.source) for name, entry in registry().items()}
    infos = map(mtl.method_info, mtl.list_methods())
    assert list(known.items()) == [(info.name, (info.summary, info.source)) for info in infos]


def test_a_run_leaves_one_file_per_method_and_seed_and_the_pictures(finished):
    names = {file.name for file in finished.iterdir()}
    cells = {f"{m}-seed{s}.json" for m in NETWORKS for s in range(2)} | {"baseline-seed0.json"}
    assert names == cells | PICTURES
    cell = json.loads((finished / "pcgrad-seed1.json").read_text())
    assert cell["config"]["epochs"] == 2
    assert len(cell["test"]) == 3
    assert {"jax", "optax", "flax", "mtl_optax"} <= set(cell["versions"])
    assert len(cell["curves"]["weights"]) == 2
    assert json.loads((finished / "adatask-seed0.json").read_text())["curves"]["weights"] is None


def test_the_table_names_every_method_and_task(folder, capsys):
    assert run(*TINY, "--out", str(folder)) == 0
    printed = capsys.readouterr().out
    for word in (*ROWS, "upper", "lower", "mean", "Δm", "rank", "time", "±"):
        assert word in printed


def test_without_a_baseline(folder, capsys):
    (folder / "baseline-seed0.json").unlink()
    assert run(*TINY, "--no-baseline", "--out", str(folder)) == 0
    assert not (folder / "baseline-seed0.json").exists()
    assert "baseline " not in capsys.readouterr().out


def test_finished_cells_are_kept_and_missing_ones_are_trained(folder):
    before = stamps(folder)
    (folder / "pcgrad-seed0.json").unlink()
    assert run(*TINY, "--quiet", "--resume", "--out", str(folder)) == 0
    after = stamps(folder)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == ["pcgrad-seed0"]


def test_a_resumed_cell_equals_the_one_that_was_lost(folder):
    lost = json.loads((folder / "pcgrad-seed0.json").read_text())
    (folder / "pcgrad-seed0.json").unlink()
    assert run(*TINY, "--quiet", "--out", str(folder)) == 0
    again = json.loads((folder / "pcgrad-seed0.json").read_text())
    assert again["test"] == lost["test"]
    assert again["config"] == lost["config"]


def test_other_options_and_fresh_train_again_what_is_asked_for(folder):
    asked = ["--methods", "adatask", "--seeds", "1", *TINY[5:], "--learning-rates", "0.02"]
    rows = {f"{method}-seed0" for method in ROWS if method != "pcgrad"}
    for options in ([], ["--fresh"]):
        before = stamps(folder)
        assert run(*asked, *options, "--quiet", "--out", str(folder)) == 0
        after = stamps(folder)
        assert {name for name in after if after[name] != before[name]} == rows


FIRST = ("baseline-seed0", "single_task-seed0", "single_task-seed1")


def test_an_interrupted_run_keeps_what_is_finished_and_goes_on(tmp_path, monkeypatch, capsys):
    train, asked = experiment.train, ["--methods", "pcgrad", *TINY[3:]]

    def interrupted(recipe, *args, **kwargs):
        if (tmp_path / "single_task-seed1.json").exists():
            raise KeyboardInterrupt
        return train(recipe, *args, **kwargs)

    monkeypatch.setattr(experiment, "train", interrupted)
    assert run(*asked, "--quiet", "--out", str(tmp_path)) == 130
    message = capsys.readouterr().err.strip()
    assert "3 of 7 cells are kept" in message
    assert "\n" not in message
    before = stamps(tmp_path)
    assert set(before) == {*FIRST}
    monkeypatch.undo()
    assert run(*asked, "--quiet", "--out", str(tmp_path)) == 0
    after = stamps(tmp_path)
    assert len(after) == 7
    assert all(after[name] == before[name] for name in before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "pcgard"], "no method 'pcgard'. Did you mean 'pcgrad'"),
        (["--epochs", "0"], "--epochs must be at least 1, not 0"),
        (["--seeds", "-1"], "--seeds must be at least 1, not -1"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--learning-rates", "0.1", "0"], "--learning-rates must be positive, not 0.0"),
        (["--learning-rates", "nan"], "--learning-rates must be positive, not nan"),
        (["--query-fraction", "1"], "--query-fraction must lie between 0 and 1, not 1.0"),
        (["--checkpoint-every", "-1"], "--checkpoint-every must be at least 0 seconds, not -1.0"),
        (["--preset", "huge"], "--preset"),
        (["--epochs", "many"], "--epochs"),
        (["--epcohs", "3"], "--epcohs"),
        (["--resume", "--fresh"], "--fresh"),
    ],
)
def test_mistakes_are_one_clear_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    assert run(*arguments, "--out", str(tmp_path)) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert "\n" not in printed
    assert printed.startswith("benchmarks: ")


def test_an_out_that_is_a_file_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("--out", str(tmp_path / "file")) == 2
    assert f"--out {tmp_path / 'file'}: cannot write there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda text: text[: len(text) // 2], "not a finished cell"),
        (lambda text: "[]", "not a finished cell"),
        (lambda text: text.replace('"pcgrad"', '"mgda"', 1), "it is of mgda"),
        (
            lambda text: text.replace('"test": [', '"test": [1, ', 1),
            "metrics have the wrong length",
        ),
    ],
)
def test_a_damaged_cell_is_named(folder, capsys, spoil, reason):
    file = folder / "pcgrad-seed0.json"
    file.write_text(spoil(file.read_text()))
    assert run(*TINY, "--quiet", "--out", str(folder)) == 2
    printed = capsys.readouterr().err.strip()
    assert str(file) in printed
    assert reason in printed
    assert "--fresh" in printed


def test_list_shows_suites_and_methods(capsys):
    assert command_line.main(["list"]) == 0
    printed = capsys.readouterr().out
    for word in ("digits", "single_task", "equal_weighting", "pcgrad", "adatask", "adv_mtl"):
        assert word in printed


def test_help_shows_the_options(capsys):
    with pytest.raises(SystemExit) as exit:
        command_line.main(["digits", "--help"])
    assert exit.value.code == 0
    printed = capsys.readouterr().out
    for option in ("--methods", "--seeds", "--preset", "--learning-rates", "--out", "--quiet"):
        assert option in printed


@pytest.mark.parametrize(
    ("over", "rates"), [("c=0.1,0.9", [0.01, 0.01]), ("learning_rate=0.001,0.01", [0.001, 0.01])]
)
def test_a_sweep_varies_one_number(tmp_path, capsys, over, rates):
    options = [*TINY[3:], "--out", str(tmp_path)]
    assert (
        command_line.main(["sweep", "digits", "--method", "cagrad", "--over", over, *options]) == 0
    )
    name, _, values = over.partition("=")
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "±" in line]
    assert [row[0] for row in rows[:2]] == values.split(",")
    folder = tmp_path / f"sweep-cagrad-{name}"
    told = json.loads((folder / "sweep.json").read_text())
    assert [row[0] for row in told] == [name, *values.split(",")]
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    found = [json.loads(path.read_text()) for path in sorted(folder.rglob("cagrad*-seed0.json"))]
    assert [cell["learning_rate"] for cell in found] == rates
    if name == "c":
        assert [cell["config"]["hyperparameters"]["c"] for cell in found] == [0.1, 0.9]
        assert found[0]["test"] != found[1]["test"]


def test_a_grid_trains_its_points_and_shows_the_best(tmp_path, capsys):
    options = [*TINY[3:], "--parts", "4", "--out", str(tmp_path)]
    assert command_line.main(["grid", "digits", *options]) == 0
    printed = capsys.readouterr().out
    told = json.loads((tmp_path / "grid" / "grid.json").read_text())
    points = {tuple(line[:3]): line[3] for line in told["validation"]}
    assert points.keys() == {(0.75, 0.75, 1.5), (0.75, 1.5, 0.75), (1.5, 0.75, 0.75)}
    best = max(points, key=points.get)
    assert [line[0] for line in told["test"]] == ["equal_weighting", f"constant[weights={best}]"]
    assert "best of 3 choices of weights" in " ".join(printed.split())
    cells = [json.loads(path.read_text()) for path in (tmp_path / "grid").glob("constant*.json")]
    of_best = [cell for cell in cells if cell["config"]["hyperparameters"]["weights"] == [*best]]
    assert {cell["seed"] for cell in of_best} == {0, 1}
    assert len(cells) == 4


@pytest.mark.parametrize(
    ("parts", "message"),
    [("2", "--parts must be at least 3, one for each task, not 2"), ("50", "makes 1176 points")],
)
def test_a_grid_without_points_or_with_too_many_is_refused(parts, message, tmp_path, capsys):
    arguments = ["grid", "digits", "--parts", parts, "--out", str(tmp_path)]
    assert command_line.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "cagard", "--over", "c=1"], "no method 'cagard'. Did you mean 'cagrad'"),
        (["--method", "cagrad", "--over", "d=1"], "cagrad has no number 'd' to vary; it has c, "),
        (["--method", "cagrad", "--over", "c"], "--over must be NAME=VALUE,VALUE,..., not 'c'"),
        (["--method", "cagrad", "--over", "c=a"], "--over c: the values must be numbers, not 'a'"),
        (["--method", "cagrad", "--over", "c=inf"], "--over c: the values must be finite"),
        (["--method", "cagrad", "--over", "c=-1"], "--over c: cagrad: c"),
        (["--method", "rlw", "--over", "key=0.5"], "the values must be whole numbers"),
        (["--method", "bandit_mtl", "--over", "rho=-1"], "--over rho: bandit_mtl: rho"),
        (["--method", "cagrad"], "--over"),
    ],
)
def test_mistakes_in_a_sweep_are_one_line(arguments, message, tmp_path, capsys):
    assert command_line.main(["sweep", "digits", *arguments, "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert "\n" not in printed
