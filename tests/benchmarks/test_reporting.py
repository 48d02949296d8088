"""`python -m benchmarks report`, on cells made by hand."""

import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import digits
import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks.results.cells import Store, Trial
from benchmarks.show import heatmap, pictures, tell
from benchmarks.show.papers import PaperResult
from benchmarks.train.problem import Metric
from benchmarks.train.training import Timing
from tests.benchmarks.test_summary import CELLS

PROTOCOL = {"epochs": 2, "steps_per_epoch": 4, "batch_size": 8, "learning_rates": [0.1, 0.2]}


def save(folder: Path, cells=CELLS, **config) -> None:
    for group in cells.values():
        for cell in group:
            Store(folder).save(
                dataclasses.replace(cell, config={**cell.config, **PROTOCOL, **config})
            )


def report(folder: Path) -> tuple[str, str]:
    assert command_line.main(["report", "--results", str(folder)]) == 0
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


def rows(text: str) -> dict[str, list[str]]:
    """The cells of Markdown tables by their first one."""
    lines = [re.split(r" *\| *", line.strip("| ")) for line in text.splitlines() if "|" in line]
    return {line[0]: line[1:] for line in lines}


def test_the_numbers_are_those_of_the_cells(tmp_path: Path) -> None:
    save(tmp_path / "toy")
    page, text = report(tmp_path)
    table = rows(text)
    assert table["pcgrad"] == [
        *("60.0 ± 28.3", "55.0 ± 7.1", "57.5 ± 17.7", "+7.5 ± 24.7", "1.8"),
        *("+12.5 ± 158.8", "0.1", "2", "2.00x"),
    ]
    assert table["single_task"][3] == "–"
    assert "2 epochs of 4 steps, batches of 8" in text
    assert "the best of 0.1, 0.2 on the validation split" in text
    assert "better than equal weighting: none; worse: none" in text
    for word in ("+12.5 ± 158.8", "2.00x", "pcgrad"):
        assert word in page


def with_baseline(mean: float, *, errors: bool = False):
    """`CELLS`, whose equal weighting has 45, beside simple models."""
    simple = dataclasses.replace(
        CELLS["single_task"][0],
        method="baseline",
        test=np.array([mean, mean]),
        test_loss=np.full(2, np.nan),
        learning_rate=np.nan,
        epoch=1,
        timing=Timing(1.0, None),
        trials=(),
        curves=CELLS["single_task"][0].curves._replace(
            loss=np.full((1, 2), np.nan), validation=np.ones((1, 2))
        ),
    )
    config = {**simple.config, "hyperparameters": {"model": "trees"}}
    cells = {"baseline": [dataclasses.replace(simple, config=config)], **CELLS}
    if not errors:
        return cells
    metrics = [{**metric, "higher_is_better": False} for metric in simple.config["metrics"]]
    return {
        method: [
            dataclasses.replace(cell, config={**cell.config, "metrics": metrics}) for cell in group
        ]
        for method, group in cells.items()
    }


def test_the_baseline_is_the_first_line_and_has_no_rank(tmp_path: Path) -> None:
    save(tmp_path / "toy", with_baseline(90.0))
    page, text = report(tmp_path)
    table = rows(text)
    assert next(name for name in table if name in {"baseline", *CELLS}) == "baseline"
    assert table["baseline"] == ["90.0", "90.0", "90.0", "-46.2", *"–––––"]
    assert table["pcgrad"][4] == "1.8"  # As without it.
    lines = text.splitlines()
    assert lines[2].startswith("**Equal weighting is below the baseline**, 45 against 90 in the")
    assert "trees" in lines[2]
    assert "Equal weighting is below the baseline, 45 against 90" in page
    save(tmp_path / "other", with_baseline(40.0), suite="other")
    (tmp_path / "both.md").write_text(report(tmp_path)[1])
    overview = rows((tmp_path / "both.md").read_text().partition("### All suites")[2])
    assert "baseline" not in overview
    assert overview["pcgrad"][2] == "1.8"


@pytest.mark.parametrize("errors", [False, True])
@pytest.mark.parametrize(("mean", "below"), [(40.0, False), (45.0, False), (50.0, True)])
def test_below_the_baseline_is_worse_than_it(mean: float, below: bool, errors: bool) -> None:
    said = tell.baseline(with_baseline(mean, errors=errors))
    assert ("is below" in said) == (below != errors if mean != 45 else False)
    assert "trees" in said
    assert tell.baseline(CELLS) is None


def test_baselines_have_no_caveats_and_a_place_in_one_picture(tmp_path: Path) -> None:
    cells = with_baseline(90.0)
    cells = {
        method: [dataclasses.replace(cell, config={**cell.config, **PROTOCOL}) for cell in group]
        for method, group in cells.items()
    }
    networks = {method: group for method, group in cells.items() if method != "baseline"}
    assert tell.caveats(cells) == tell.caveats(networks)
    assert tell.verdict(cells) == tell.verdict(networks)
    pictures.draw(cells, tmp_path)
    assert (tmp_path / "summary.png").exists()


def test_the_readme_tells_of_its_first_command_between_its_markers() -> None:
    better = [dataclasses.replace(c, method="uw", test=c.test + 1) for c in CELLS["pcgrad"]]
    text = digits.told({**with_baseline(90.0), "uw": better}, 83.4, 151.2, 2)
    words = " ".join(text.split())
    assert "over 2 seeds, written by the first command in 83 s (151 CPU seconds) on 2 CPU" in words
    assert "came first, of 2:" in words
    assert "better than equal weighting: none; worse: none" in words
    assert "Equal weighting is below the baseline" in words
    assert "reads 40.0 and 50.0 % of the digits, a network for each task 80.0 and 50.0 %" in words
    assert "reach a network for each task in the mean: none." in words
    table = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    order = ["method", "---", "baseline", "single_task", "equal_weighting", "uw", "pcgrad"]
    assert table == [f"| {name}" for name in order]
    assert rows(text)["uw"] == ["61.0 ± 28.3", "56.0 ± 7.1", "58.5 ± 17.7"]
    readme = digits.README.read_text(encoding="utf-8")
    before, _, after = digits.rewritten(readme, "new\n").partition(
        f"{digits.BEGIN}new\n{digits.END}"
    )
    assert readme.startswith(before)
    assert readme.endswith(after)
    assert after


def test_many_metrics_are_folded_away(tmp_path: Path) -> None:
    metrics = [Metric(f"m{number}", 0)._asdict() for number in range(10)]
    wide = {
        method: [
            dataclasses.replace(
                cell,
                test=np.arange(10.0),
                curves=cell.curves._replace(validation=np.ones((2, 10))),
            )
            for cell in group
        ]
        for method, group in CELLS.items()
    }
    save(tmp_path / "toy", wide, metrics=metrics)
    page, text = report(tmp_path)
    before, after = page.split("<details><summary>Each metric</summary>")
    assert "m9" not in before + text
    assert "<th>mean</th>" in before
    assert "<th>m9</th>" in after


def test_a_sentence_names_who_differs() -> None:
    better = {
        **CELLS,
        "mgda": [
            dataclasses.replace(cell, method="mgda", test=cell.test + 10 + 1e-4 * cell.seed)
            for cell in CELLS["equal_weighting"]
        ],
        "uw": [
            dataclasses.replace(cell, method="uw", test=cell.test - 10 + 1e-4 * cell.seed)
            for cell in CELLS["equal_weighting"]
        ],
    }
    sentence = tell.verdict(better)
    assert "better than equal weighting: mgda; worse: uw; the other 1 cannot be told" in sentence
    assert "Over 2 seeds" in sentence
    assert "correction for 3 comparisons" in sentence
    assert re.search(r"A difference of \S+ in the mean would have been found", sentence)
    assert "No method was compared" in tell.verdict({"mgda": better["mgda"]})


def test_caveats() -> None:
    def cells(learning_rate: float, epoch: int, **more):
        return {
            method: [
                dataclasses.replace(
                    cell,
                    learning_rate=learning_rate,
                    epoch=epoch,
                    config={**cell.config, **PROTOCOL, "learning_rates": [0.1, 0.2, 0.4]},
                )
                for cell in group
            ]
            for method, group in {**CELLS, **more}.items()
        }

    assert tell.caveats(cells(0.2, 1)) == []
    (edge,) = tell.caveats(cells(0.4, 1))
    assert (
        "smallest or the largest that was tried for single_task, equal_weighting, pcgrad:" in edge
    )
    (late,) = tell.caveats(cells(0.2, 2))
    assert late.startswith("In 6 of 6 trainings the last epoch was the best")
    (gone,) = tell.caveats(cells(0.2, 0))[:1]
    assert gone.startswith("Without a finite result: single_task (seed 0), single_task (seed 1), ")
    alone, ranks = tell.caveats(cells(0.2, 1, pcgrad=CELLS["pcgrad"][1:]))
    assert alone == "Not compared, for want of two finite seeds in common: pcgrad."
    assert ranks == "Ranks are over the seeds that every method has: 1."
    missing = {"pcgrad": cells(0.2, 1)["pcgrad"]}
    assert ["equal_weighting" in missing for missing in tell.caveats(missing)] == [True, False]


def test_what_was_chosen_is_told(tmp_path: Path) -> None:
    """In a column of its own, and what it was chosen from; the rate was no choice of the row's."""
    tried = [{"rho": None}, {"rho": 0.1}, {"rho": 1.2}, {"rho": 0.3}]

    def searched(value: float | None, rate: float = 0.2):
        group = [
            dataclasses.replace(
                cell,
                learning_rate=rate,
                trials=tuple(Trial(rate, 1.0, each) for each in tried),
                chosen={"rho": value},
                config={**cell.config, "searched": tried},
                epoch=1,
            )
            for cell in CELLS["pcgrad"]
        ]
        others = {m: [dataclasses.replace(c, epoch=1) for c in CELLS[m]] for m in CELLS}
        return {**others, "pcgrad": group}

    save(tmp_path / "toy", searched(1.2))
    page, text = report(tmp_path)
    assert "| rate | chosen | epoch |" in text
    assert rows(text)["pcgrad"][6:9] == ["0.2", "rho=1.2", "1"]
    assert rows(text)["equal_weighting"][6:9] == ["0.1", "–", "1"]
    told = "choose for pcgrad from rho=None; rho=0.1; rho=1.2; rho=0.3."
    assert told in text
    assert told in page
    save(tmp_path / "plain" / "toy")
    assert "| chosen |" not in report(tmp_path / "plain")[1]

    def edges(cells) -> list[str]:
        grid = {**PROTOCOL, "learning_rates": [0.01, 0.1, 0.2]}
        return tell.caveats(
            {
                method: [
                    dataclasses.replace(cell, config={**cell.config, **grid}) for cell in group
                ]
                for method, group in cells.items()
            }
        )

    (edge,) = edges(searched(1.2))
    assert "hyper-parameter chosen is the smallest or the largest that was tried for pcgrad" in edge
    assert edges(searched(0.3)) == []
    assert edges(searched(None)) == []


def test_several_suites_and_missing_baselines(tmp_path: Path) -> None:
    save(tmp_path / "one", suite="one")
    save(tmp_path / "two", {"pcgrad": CELLS["pcgrad"][:1]}, suite="two")
    page, text = report(tmp_path)
    assert text.index("### one") < text.index("### two") < text.index("### All suites")
    assert rows(text[text.index("### All suites") :])["pcgrad"] == ["1.8 (+7.5)", "1.0", "1.4"]
    assert rows(text[text.index("### two") : text.index("### All")])["pcgrad"][3:6] == [
        "–",
        "1.0",
        "–",
    ]
    assert '<a href="#suite-1">two</a>' in page


def test_two_folders_of_one_suite_are_told_apart(tmp_path: Path) -> None:
    save(tmp_path / "long", suite="digits")
    save(tmp_path / "short", {"pcgrad": CELLS["pcgrad"]}, suite="digits")
    _, text = report(tmp_path)
    assert text.index("### digits (long)") < text.index("### digits (short)")
    overview = rows(text[text.index("### All suites") :])
    assert overview["method"] == ["digits (long)", "digits (short)", "mean rank"]
    assert overview["pcgrad"] == ["1.8 (+7.5)", "1.0", "1.4"]


def test_the_papers_numbers_stand_beside_ours(tmp_path: Path, monkeypatch) -> None:
    mine = PaperResult("toy", "pcgrad", "mean", 91.5, "Yu et al.", "other data")
    other = dataclasses.replace(mine, suite="census", value=12.25)
    more = [
        dataclasses.replace(mine, metric=name, value=value)
        for name, value in (("Δm %", 3), ("time", 1.25), ("first fit", 7), ("fame", 8))
    ]
    lone = dataclasses.replace(mine, method="equal_weighting", value=80)
    monkeypatch.setattr(tell, "PAPER_RESULTS", (mine, other, *more, lone))
    save(tmp_path / "toy")
    page, text = report(tmp_path)
    beside = rows(text[text.index("mean: paper") - 20 :])
    assert beside["method"][:2] == ["mean: paper", "mean: here"]
    assert beside["pcgrad"] == [
        *("91.5", "57.5 ± 17.7", "3", "+7.5 ± 24.7", "1.25", "2.00", "7", "55.0 ± 7.1", "8", "–"),
    ]
    assert beside["equal_weighting"][:3] == ["80", "45.0 ± 0.0", "–"]
    assert "Yu et al.: other data." in text
    assert "12.25" not in page + text


@pytest.mark.parametrize(
    "config", [{"backbone": "mmoe", "model": {"tower": [4]}}, {"model": {"name": "mmoe"}}]
)
def test_only_numbers_of_the_same_network_stand_beside_ours(config, monkeypatch) -> None:
    cells = {
        "pcgrad": [
            dataclasses.replace(cell, config={**cell.config, **config}) for cell in CELLS["pcgrad"]
        ]
    }
    alone = PaperResult("toy", "pcgrad", "mean", 1, "Yu et al.", "alone", model="mmoe")
    of_spain = dataclasses.replace(alone, value=2, setting="Spain", model="")
    other = dataclasses.replace(alone, value=3, setting="France", protocol="else", model="ple")
    monkeypatch.setattr(tell, "PAPER_RESULTS", (alone, of_spain, other))
    (_, rows), notes = tell.papers_table(cells)
    assert [row[:2] for row in rows] == [["pcgrad", "1"], ["pcgrad (Spain)", "2"]]
    assert notes == ["Yu et al.: alone."]


def test_what_is_damaged_is_named_and_the_rest_reported(tmp_path: Path, capsys) -> None:
    save(tmp_path / "toy")
    whole = tmp_path / "toy" / "pcgrad-seed1.json"
    whole.write_text(whole.read_text()[:100])
    extra = Store(tmp_path / "toy")
    strange = dataclasses.replace(
        CELLS["pcgrad"][0], method="uw", config={**CELLS["pcgrad"][0].config}
    )
    extra.save(strange)
    page, text = report(tmp_path)
    message = capsys.readouterr().err
    for part in ("pcgrad-seed1.json: not a finished cell", "uw-seed0.json: left out"):
        assert part in message
        assert part in page
    assert rows(text)["pcgrad"][-1] == "1"
    assert "uw" not in rows(text)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda content: content["config"].pop("suite"), "its suite is None"),
        (lambda content: content["config"].update(epochs="many"), "its epochs is 'many'"),
        (lambda content: content["config"].update(learning_rates=["a"]), "its learning_rates are"),
        (lambda content: content["config"]["metrics"][0].update(name=3), "its metrics are"),
        (lambda content: content.update(versions=[1]), "its versions"),
        (lambda content: content.update(device=None), "device"),
        (lambda content: content["timing"].update(seconds_per_step="x"), "not a finished cell"),
        (lambda content: content.update(seed=float("inf")), "not a finished cell"),
        (lambda content: content.update(seed=7), "it is a copy of pcgrad, seed 7"),
        (lambda content: content["config"].update(hyperparameters={"c": 1}), "its configuration"),
    ],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_no_damage_stops_the_report(tmp_path: Path, capsys, change, found, seeds) -> None:
    """With one damaged seed of three, and with nothing but damaged cells of the method."""
    many = [dataclasses.replace(CELLS["pcgrad"][0], seed=seed) for seed in range(3)]
    save(tmp_path / "toy", {**CELLS, "pcgrad": many[:seeds]})
    path = tmp_path / "toy" / "pcgrad-seed0.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    page, text = report(tmp_path)
    if seeds == 1 and found == "its configuration":
        return  # There is nothing that it could differ from.
    message = capsys.readouterr().err
    assert f"{path}: " in message
    assert found in message
    assert "pcgrad-seed0.json" in page
    assert ("pcgrad" in rows(text)) == (seeds == 3)


def test_a_file_of_nothing_but_brackets(tmp_path: Path, capsys) -> None:
    save(tmp_path / "toy")
    (tmp_path / "toy" / "uw-seed0.json").write_text("[" * 100_000)
    report(tmp_path)
    assert "uw-seed0.json: not a finished cell" in capsys.readouterr().err


def test_sweeps_and_checkpoints_are_no_suites(tmp_path: Path) -> None:
    save(tmp_path / "toy")
    save(tmp_path / "toy" / "sweep-cagrad-c", suite="swept")
    (tmp_path / "toy" / "sweep-cagrad-c" / "sweep.png").write_bytes(b"picture")
    swept = [["c", "cagrad", "equal_weighting", "rate"], ["0.5", "81.2 ± 0.3", "80.1", "0.01"]]
    (tmp_path / "toy" / "sweep-cagrad-c" / "sweep.json").write_text(json.dumps(swept))
    page, text = report(tmp_path)
    assert "swept" not in text
    assert rows(text)["0.5"] == swept[1][1:]
    assert "<td>81.2 ± 0.3</td>" in page
    assert 'title="sweep-cagrad-c" src="data:image/png;base64,cGljdHVyZQ=="' in page


@pytest.mark.parametrize("text", ["[", "3", "[[1]]", '[["a", "b"], ["c"]]', "[]"])
def test_a_damaged_table_of_a_sweep_is_named(tmp_path: Path, capsys, text) -> None:
    save(tmp_path / "toy")
    (tmp_path / "toy" / "sweep-cagrad-c").mkdir()
    (tmp_path / "toy" / "sweep-cagrad-c" / "sweep.json").write_text(text)
    report(tmp_path)
    assert "sweep.json: left out, it is no table" in capsys.readouterr().err


def test_one_of_something_is_in_the_singular(tmp_path: Path) -> None:
    save(tmp_path / "toy", {"pcgrad": CELLS["pcgrad"][:1]}, epochs=1, steps_per_epoch=1)
    _, text = report(tmp_path)
    assert "1 epoch of 1 step, batches of 8" in text
    assert "(1 cell)" in text


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    save(tmp_path / "toy", suite=hostile)
    page, _ = report(tmp_path)
    assert hostile not in page
    assert "&lt;script&gt;" in page

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "link", "iframe")
            for name, value in attrs:
                if name in ("href", "src"):
                    assert value.startswith(("#", "data:"))

    Links().feed(page)


def test_names_from_files_are_text_in_tables_and_pictures(tmp_path: Path) -> None:
    """Neither tags nor, in the map of ranks, broken formulas."""
    hostile = "<b>$\\frac{|$"
    save(tmp_path / "one", suite=hostile)
    cell = CELLS["pcgrad"][0]
    metrics = [{**metric, "name": hostile} for metric in cell.config["metrics"]]
    strange = dataclasses.replace(cell, method=hostile)
    save(tmp_path / "two", {hostile: [strange]}, metrics=metrics)
    page, text = report(tmp_path)
    assert "<b>" not in page
    table = page[page.index('id="suite-1"') :]
    assert table.count("<th>&lt;b&gt;$\\frac{|$</th>") == 2
    assert "<td>&lt;b&gt;$\\frac{|$</td>" in table
    assert "| <b>$\\frac{\\|$ |" in text


def test_the_map_of_ranks_has_the_best_on_top(monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(
        heatmap.Figure, "savefig", lambda figure, file, **_: drawn.append(figure.axes[0])
    )
    heatmap.heatmap(
        {
            "one": {"uw": 3.0, "mgda": 1.5, "lost": math.nan},
            "two": {"uw": 1.0, "mgda": 1.5, "pcgrad": 1.75},
        }
    )
    (axes,) = drawn
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "mgda",
        "pcgrad",
        "uw",
        "lost",
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["one", "two"]
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert [shown[0, row] for row in range(4)] == ["1.5", "–", "3.0", "–"]
    assert [shown[1, row] for row in range(4)] == ["1.5", "1.8", "1.0", "–"]
    shades = axes.images[0].get_array()
    assert shades[2, 0] == 1  # The last of three.
    assert shades[2, 1] == 0  # The first.


def test_the_same_results_make_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "toy")
    save(tmp_path / "other", suite="other")
    page, text = report(tmp_path)
    assert 'alt="ranks" title="ranks" src="data:image/png;base64,' in page
    assert (page, text) == report(tmp_path)


def test_tables_go_between_the_markers_of_a_file(tmp_path: Path, capsys) -> None:
    save(tmp_path / "toy")
    into = tmp_path / "README.md"
    into.write_text("before\n<!-- results -->\nstale words\n<!-- end of results -->\nafter\n")
    command = ["report", "--results", str(tmp_path), "--into", str(into)]
    assert command_line.main(command) == 0
    first = into.read_text()
    assert first.startswith("before\n<!-- results -->\n\n### toy\n")
    assert first.endswith("\n\n<!-- end of results -->\nafter\n")
    assert "stale words" not in first
    assert command_line.main(command) == 0
    assert into.read_text() == first
    into.write_text("no markers")
    assert command_line.main(command) == 2
    assert f"--into {into}: needs a line <!-- results -->" in capsys.readouterr().err
    assert into.read_text() == "no markers"


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_to_report_is_one_line(tmp_path: Path, capsys, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "none"
    assert command_line.main(["report", "--results", str(folder)]) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    assert str(folder) in message
