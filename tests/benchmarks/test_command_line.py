"""`python -m benchmarks` as a user meets it: output, files, resuming, mistakes."""

import json

import pytest

from benchmarks import __main__ as command_line
from benchmarks import cells

TINY = ["--methods", "pcgrad", "adatask", "--seeds", "2", "--steps", "3", "--batch-size", "8"]
ROWS = ("single_task", "equal_weighting", "pcgrad", "adatask")
PICTURES = {"accuracy.png", "curves.png", "weights.png", "cosine.png"}


def run(*arguments):
    return command_line.main(["digits", *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one finished tiny run."""
    folder = tmp_path_factory.mktemp("digits")
    assert run(*TINY, "--quiet", "--out", str(folder)) == 0
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run, to be spoiled."""
    for file in finished.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_run_leaves_one_file_per_method_and_seed_and_the_pictures(finished):
    names = {file.name for file in finished.iterdir()}
    assert names == {f"{m}-seed{s}.json" for m in ROWS for s in range(2)} | PICTURES
    cell = json.loads((finished / "pcgrad-seed1.json").read_text())
    assert cell["config"]["steps"] == 3
    assert len(cell["test"]) == 2
    assert {"jax", "optax", "flax", "mtl_optax"} <= set(cell["versions"])
    assert len(cell["curves"]["weights"]) == len(cell["step"])
    assert json.loads((finished / "adatask-seed0.json").read_text())["curves"]["weights"] is None


def test_the_table_names_every_method_and_task(folder, capsys):
    assert run(*TINY, "--out", str(folder)) == 0
    printed = capsys.readouterr().out
    for word in (*ROWS, "upper left", "lower right", "mean", "vs single %", "time", "±"):
        assert word in printed


def stamps(folder):
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.json")}


def test_finished_cells_are_kept_and_missing_ones_are_trained(folder):
    before = stamps(folder)
    (folder / "pcgrad-seed0.json").unlink()
    assert run(*TINY, "--quiet", "--resume", "--out", str(folder)) == 0
    after = stamps(folder)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == ["pcgrad-seed0.json"]


def test_a_resumed_cell_equals_the_one_that_was_lost(folder):
    lost = json.loads((folder / "pcgrad-seed0.json").read_text())
    (folder / "pcgrad-seed0.json").unlink()
    assert run(*TINY, "--quiet", "--out", str(folder)) == 0
    again = json.loads((folder / "pcgrad-seed0.json").read_text())
    assert again["test"] == lost["test"]
    assert again["config"] == lost["config"]


def test_other_options_and_fresh_train_again(folder):
    before = stamps(folder)
    assert run(*TINY, "--learning-rate", "0.01", "--quiet", "--out", str(folder)) == 0
    after = stamps(folder)
    assert all(after[name] != before[name] for name in before)
    assert run(*TINY, "--learning-rate", "0.01", "--fresh", "--quiet", "--out", str(folder)) == 0
    assert all(stamps(folder)[name] != after[name] for name in after)


def test_an_interrupted_run_keeps_what_is_finished_and_goes_on(tmp_path, monkeypatch, capsys):
    train = cells.train

    def interrupted(recipe, *args, **kwargs):
        if (tmp_path / "single_task-seed1.json").exists():
            raise KeyboardInterrupt
        return train(recipe, *args, **kwargs)

    monkeypatch.setattr(cells, "train", interrupted)
    assert run(*TINY, "--quiet", "--out", str(tmp_path)) == 130
    message = capsys.readouterr().err.strip()
    assert "2 of 8 cells are kept" in message
    assert "\n" not in message
    before = stamps(tmp_path)
    assert set(before) == {"single_task-seed0.json", "single_task-seed1.json"}
    monkeypatch.undo()
    assert run(*TINY, "--quiet", "--out", str(tmp_path)) == 0
    after = stamps(tmp_path)
    assert len(after) == 8
    assert all(after[name] == before[name] for name in before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "pcgard"], "no method 'pcgard'. Did you mean 'pcgrad'"),
        (["--steps", "0"], "--steps must be at least 1, not 0"),
        (["--seeds", "-1"], "--seeds must be at least 1, not -1"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--learning-rate", "0"], "--learning-rate must be positive, not 0.0"),
        (["--learning-rate", "nan"], "--learning-rate must be positive, not nan"),
        (["--steps", "many"], "--steps"),
        (["--setps", "3"], "--setps"),
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
        (lambda text: text.replace('"step": [', '"step": [1, ', 1), "curves have the wrong length"),
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
    for word in ("digits", "single_task", "equal_weighting", "pcgrad", "adatask"):
        assert word in printed


def test_help_shows_the_options(capsys):
    with pytest.raises(SystemExit) as exit:
        command_line.main(["digits", "--help"])
    assert exit.value.code == 0
    printed = capsys.readouterr().out
    for option in ("--methods", "--seeds", "--steps", "--learning-rate", "--out", "--quiet"):
        assert option in printed
