"""The notebooks are stored as they ran: whole, clean, small, and leading somewhere."""

import json
import re

import pytest

from tests.common import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

INSTALL = """\
try:
    import mtl_optax
except ModuleNotFoundError:  # On Colab, say; the address is the one this notebook came from.
    repository = input("Address of the repository (git+https://... or file:///a/clone): ")
    %pip install --quiet "mtl_optax[bench] @ {repository}"
"""


def text(lines):
    """A field of a cell, which is stored as one string or as lines."""
    return lines if isinstance(lines, str) else "".join(lines)


def cells(path, kind):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def outputs(path):
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def printed(output):
    """What an output shows as text."""
    data = output.get("data", {})
    shown = [text(part) for kind, part in data.items() if kind.startswith("text/")]
    return "\n".join([text(output.get("text", "")), *shown])


def test_they_are_numbered_in_the_order_of_reading():
    assert len(NOTEBOOKS) >= 3
    assert [path.stem[0] for path in NOTEBOOKS] == [str(n + 1) for n in range(len(NOTEBOOKS))]


@each_notebook
def test_it_is_a_notebook_of_python_without_traces_of_its_run(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["metadata"].keys() <= {"kernelspec", "language_info"}
    assert [cell["metadata"] for cell in notebook["cells"]] == [{}] * len(notebook["cells"])
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)


@each_notebook
def test_it_begins_with_a_title_and_the_install_cell(path):
    assert text(cells(path, "markdown")[0]["source"]).startswith("# ")
    assert text(cells(path, "code")[0]["source"]).strip() == INSTALL.strip()


@each_notebook
def test_it_was_run_once_from_top_to_bottom(path):
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]


@each_notebook
def test_what_prints_or_plots_has_its_output(path):
    for cell in cells(path, "code"):
        source = text(cell["source"])
        if re.search(r"\bprint\(", source):
            assert any(printed(output).strip() for output in cell["outputs"]), source
        if "plt.show()" in source:
            assert any("image/png" in output.get("data", {}) for output in cell["outputs"]), source


@each_notebook
def test_nothing_went_wrong_or_was_warned_of(path):
    for output in outputs(path):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", printed(output)
        assert "Warning" not in printed(output)
        assert not any("widget" in kind for kind in output.get("data", {}))


@each_notebook
def test_it_tells_nothing_of_the_machine_it_ran_on(path):
    for output in outputs(path):
        shown = printed(output)
        assert not re.search(r"(?<![\w.:/])(/\w|~/|[A-Z]:\\)|\bfile://", shown), shown
        assert "\r" not in shown, "a progress bar"
        assert "\x1b" not in shown, "colours of a terminal"
        assert not re.search(r" at 0x[0-9a-f]+", shown), "the address of an object"


@each_notebook
def test_it_is_small(path):
    assert path.stat().st_size < 400_000


@each_notebook
def test_every_code_cell_compiles(path):
    first, *rest = cells(path, "code")
    for cell in rest:
        compile(text(cell["source"]), path.name, "exec")
    compile(text(first["source"]).replace("%pip", "pass  #"), path.name, "exec")


@each_notebook
def test_its_links_lead_somewhere(path):
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#:]+)\)", text(cell["source"])):
            assert (path.parent / target).exists(), target
