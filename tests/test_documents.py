"""The README's blocks run, its table is fresh, and the package is what it says."""

import importlib.util
import re

import pytest
import tyro

import mtl_optax as mtl
from benchmarks.__main__ import COMMANDS
from benchmarks.suites import SUITES
from benchmarks.sweep import sweep_of
from tests.common import ROOT, run_on_devices

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_python_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 2
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["weights"].shape == (3,)
    assert namespace["losses"].shape == (3,)


def test_the_blocks_on_performance_run_in_order():
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), "performance.md", "exec"), {})


def test_the_guide_to_devices_runs_in_order_on_eight_of_them():
    text = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == text.count("```") // 2 >= 4
    run_on_devices(8, "-c", "\n".join(blocks))


def test_the_readmes_table_is_fresh():
    spec = importlib.util.spec_from_file_location("table", ROOT / "docs" / "methods_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.rewritten(README) == README, "run: python docs/methods_table.py"
    for name in mtl.list_methods():
        assert f"| `{name}` |" in README


def test_links_between_the_documents_lead_somewhere():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), (document.name, target)


def test_every_guarantee_names_tests_that_exist():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("|") and not row.startswith("| **")]
    for row in rows[2:]:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), (file, test)


def test_the_benchmarks_readme_knows_every_suite_and_its_commands_parse():
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for suite in COMMANDS:
        assert f"| `{suite.name}` |" in text
    sweeps = re.findall(r"^python -m benchmarks sweep (\S+) (.*)$", text, flags=re.MULTILINE)
    assert len(sweeps) >= 3
    suites = {suite.name: suite for suite in SUITES}
    for name, options in sweeps:
        sweep = tyro.cli(sweep_of(suites[name]), args=options.split())
        assert sweep.checked()[1]


def test_the_readmes_commands_are_those_that_ci_runs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = re.search(r"```\n(pip install.*?)```", README, flags=re.DOTALL).group(1)
    for command in re.split(r"\n| && ", commands.strip()):
        assert command in script


def test_get_suggests_and_passes_hyperparameters():
    with pytest.raises(ValueError, match="no method 'pcgard'. Did you mean 'pcgrad'"):
        mtl.get("pcgard", 2)
    with pytest.raises(ValueError, match="cagrad has no hyper-parameter 'C'"):
        mtl.get("cagrad", 2, C=0.5)
    with pytest.raises(ValueError, match="Did you mean 'epsilon'"):
        mtl.get("getmtl", 2, epsilom=0.5)
    with pytest.raises(ValueError, match="cagrad: c must lie"):
        mtl.get("cagrad", 2, c=-1)
    assert "mgda" in mtl.list_methods()
