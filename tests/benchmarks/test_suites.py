"""Every suite from its command, on small files in the formats of the real ones."""

import json

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks.cells import read_cell
from benchmarks.data import files
from benchmarks.suites import SUITES
from benchmarks.suites.synthetic import Synthetic, dominance
from benchmarks.training import Member
from tests.benchmarks import small_data

TINY = ["--methods", "mgda", "--seeds", "1", "--epochs", "2", "--batch-size", "8"]
TINY += ["--learning-rates", "0.01", "--quiet"]
READ_FILES = [suite for suite in SUITES if suite.name not in ("digits", "synthetic")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    small_data.write_all(folder)
    return folder


@pytest.mark.parametrize("suite", READ_FILES, ids=lambda suite: suite.name)
def test_a_suite_runs_from_its_command(suite, folder, tmp_path, monkeypatch):
    monkeypatch.setenv(files.VARIABLE, str(folder))
    assert command_line.main([suite.name, *TINY, "--out", str(tmp_path)]) == 0
    for method in ("single_task", "equal_weighting", "mgda"):
        cell = read_cell(tmp_path / f"{method}-seed0.json")
        assert cell.suite == suite.name
        assert np.isfinite(cell.curves.loss).all()
        assert np.isfinite(cell.test).all()
    assert (tmp_path / "summary.png").exists()


@pytest.mark.parametrize("backbone", ["shared_bottom", "ple"])
def test_a_backbone_is_chosen(backbone, folder, tmp_path):
    options = ["--backbone", backbone, "--data-dir", str(folder), "--out", str(tmp_path)]
    assert command_line.main(["census", *TINY, *options]) == 0
    assert read_cell(tmp_path / "mgda-seed0.json").config["backbone"] == backbone


def test_embeddings_are_read(folder, tmp_path, capsys):
    path = tmp_path / "vectors.txt"
    path.write_text("about " + " ".join(["0.5"] * 32) + "\n")
    options = ["--data-dir", str(folder), "--out", str(tmp_path / "out")]
    assert command_line.main(["topic", *TINY, *options, "--embeddings", str(path)]) == 0
    config = read_cell(tmp_path / "out" / "mgda-seed0.json").config
    assert config["data"]["embeddings"] == "vectors.txt"
    path.write_text("about 0.5\n")
    assert command_line.main(["topic", *TINY, *options, "--embeddings", str(path)]) == 2
    assert "line 1: 1 numbers, but the model's embedding has 32" in capsys.readouterr().err


@pytest.mark.parametrize("suite", READ_FILES, ids=lambda suite: suite.name)
def test_a_missing_file_is_one_line(suite, tmp_path, capsys):
    options = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    assert command_line.main([suite.name, *TINY, *options]) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    for part in (str(tmp_path), "no such file", "It comes from", "format: "):
        assert part in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["census", "--backbone", "mmeo"], "--backbone"),
        (["topic", "--methods", "getmlt"], "Did you mean 'getmtl'"),
        (["topics"], "topic"),
    ],
)
def test_an_unknown_choice_is_one_line(arguments, message, tmp_path, capsys):
    assert command_line.main(arguments) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert "\n" not in printed


def test_both_presets_of_every_suite_are_complete():
    for suite in SUITES:
        assert set(suite.presets) == {"quick", "paper"}
        for preset in suite.presets:
            protocol = suite(preset=preset).protocol
            assert protocol.epochs > 0
            assert len(protocol.learning_rates) >= 3


def test_adatask_evens_out_what_one_task_dominates():
    """Of equal weighting's updates nearly all are the larger task's; of AdaTask's, half."""
    problem = Synthetic(batch_size=100).problem()
    member = Member(0, 1e-3)
    plain = dominance("equal_weighting", problem, member, 2)
    even = dominance("adatask", problem, member, 2)
    assert list(plain) == [f"layer {i}" for i in range(1, 5)]
    for layer in plain:
        assert plain[layer][0][0] > 0.9
        assert plain[layer][1][4] > 0.9
        assert even[layer][0][2] > 0.9
        np.testing.assert_allclose(np.sum(plain[layer], axis=1), 1, atol=1e-5)


def test_dominance_is_drawn_and_kept(tmp_path, capsys):
    options = ["--epochs", "1", "--seeds", "1", "--learning-rates", "0.001", "--quiet"]
    options += ["--batch-size", "1000", "--methods", "adatask", "--out", str(tmp_path)]
    assert command_line.main(["synthetic", *options]) == 0
    path = tmp_path / "dominance-adatask.json"
    assert set(json.loads(path.read_text())["histograms"]) == {f"layer {i}" for i in range(1, 5)}
    assert (tmp_path / "dominance.png").read_bytes().startswith(b"\x89PNG")
    before = path.stat().st_mtime_ns
    assert command_line.main(["synthetic", *options]) == 0
    assert path.stat().st_mtime_ns == before
    path.write_text("[]")
    assert command_line.main(["synthetic", *options]) == 2
    assert "dominance-adatask.json: not a finished file" in capsys.readouterr().err
