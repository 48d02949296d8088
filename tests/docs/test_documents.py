"""The documents' blocks run, their links lead somewhere, and the package is what they say."""

import ast
import contextlib
import doctest
import io
import json
import re
import sys
from importlib.util import find_spec

import jax
import methods_table
import numpy as np
import pytest
import tyro

import mtl_optax as mtl
from benchmarks.__main__ import COMMANDS
from benchmarks.suites import SUITES
from benchmarks.sweep import sweep_of
from tests.common import ROOT, run_on_devices

README = (ROOT / "README.md").read_text(encoding="utf-8")


RUN = sorted(
    {ROOT / "README.md", *ROOT.glob("docs/guides/*.md")}
    | {page for page in ROOT.glob("docs/**/*.md") if "```python\n" in page.read_text("utf-8")}
)
NEEDS = {"docs/guides/frameworks.md": ("equinox", "haiku", "keras")}
ON_EIGHT_DEVICES = {"docs/devices.md", "docs/guides/checkpoints.md"}


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def script_of(text, language="python"):
    """The blocks of a page in one language, at the line numbers that they have there."""
    inside, lines = False, []
    for line in text.splitlines():
        if line.startswith("```"):
            inside, line = line == f"```{language}", ""
        lines.append(line if inside else "")
    return "\n".join(lines)


def run_blocks(name, text):
    """Runs the blocks of a page in order; a failure's traceback names the page and the line."""
    script = script_of(text)
    assert script.strip(), f"{name} has no python blocks"
    namespace = {"__name__": name}
    said = script_of(text, "output")
    if name in ON_EIGHT_DEVICES:
        check_output(run_on_devices(8, "-c", f"exec(compile({script!r}, {name!r}, 'exec'))"), said)
        return namespace
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        # As a user has it, in whatever mode the rest of the tests run.
        jax.numpy_rank_promotion("allow"),
        jax.enable_x64(False),
        jax.debug_nans(False),
    ):
        exec(compile(script, name, "exec"), namespace)
    check_output(printed.getvalue(), said)
    return namespace


def examples():
    """The Python that users read, by where it stands: pages, notebooks, docstrings."""
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        yield name_of(page), script_of(page.read_text("utf-8"))
    for notebook in ROOT.glob("notebooks/*.ipynb"):
        for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield (
                    name_of(notebook),
                    re.sub(r"(?m)^( *)[%!].*", r"\1pass", "".join(cell["source"])),
                )
    finder = doctest.DocTestFinder()
    for module in [m for name, m in sys.modules.items() if name.startswith("mtl_optax")]:
        for test in finder.find(module):
            for example in test.examples:
                yield test.name, example.source


def test_examples_give_params_to_update():
    """`nnx.update`, and the optimiser of NNX, which knows its parameters, are others."""
    calls = 0
    for where, script in examples():
        for node in ast.walk(ast.parse(script)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called, given = ast.unparse(node.func), len(node.args)
                if re.search(r"(?<!nnx)(?<!config)(?<!optimizer)\.update$", called) and given > 1:
                    calls += 1
                    assert given == 3, (where, ast.unparse(node))
    assert calls > 60


ANSWERS = {
    "docs/faq.md": [
        "LoRA",
        "L-BFGS",
        "copy=True",
        "Complex",
        "shard_map",
        "save a state",
        "`params`",
    ],
    "docs/guides/missing-tasks.md": ["`0/0`"],
    "docs/guides/heads.md": ["track_conflict"],
    "docs/guides/logging.md": ["on_shared"],
    "docs/guides/frameworks.md": ["## Equinox", "## Haiku", "## Keras", "list"],
    "docs/guides/physics-informed.md": ["scale_invariant", "nash_mtl", "uw"],
    "docs/glossary.md": [
        "**Gram matrix.**",
        "**Reads.**",
        "**Scale.**",
        "**Shared.**",
        "**Heads.**",
    ],
    "docs/devices.md": ["## Inside shard_map"],
}


@pytest.mark.parametrize("page", ANSWERS)
def test_what_users_ask_stands_where_they_look(page):
    text = (ROOT / page).read_text("utf-8")
    assert [word for word in ANSWERS[page] if word not in text] == []


def test_examples_read_weights_by_type():
    """By its name alone `tree_get` fails where a parameter is called so, and for two methods."""
    for where, script in examples():
        assert not re.search(r"tree_get\([^)]*[\"'](weights|gap|residual|norms)", script), where


# With a point or an exponent; whole numbers are words, and printed as said.
NUMBER = re.compile(r"-?\b\d+(?:\.\d*(?:e[-+]?\d+)?|e[-+]?\d+)")


def check_output(printed, said):
    """What a page says its blocks print, they print, but for digits that machines differ in."""
    words = lambda text: "".join(NUMBER.sub("#", text).split())
    assert words(printed) == words(said), printed
    numbers = lambda text: [float(number) for number in NUMBER.findall(text)]
    np.testing.assert_allclose(
        numbers(printed), numbers(said), rtol=0.05, atol=0.02, err_msg=printed
    )


def marked(page):
    lacking = [module for module in NEEDS.get(name_of(page), ()) if not find_spec(module)]
    skip = pytest.mark.skipif(bool(lacking), reason=f"needs the extra frameworks: {lacking}")
    return pytest.param(page, marks=skip)


@pytest.mark.parametrize("page", [marked(page) for page in RUN], ids=name_of)
def test_the_python_blocks_of_a_page_run_in_order(page):
    text = page.read_text("utf-8")
    assert script_of(text, "output").strip(), "blocks whose results a reader does not see"
    namespace = run_blocks(name_of(page), text)
    if page.name == "README.md":
        assert namespace["weights"].shape == (3,)
        assert namespace["losses"].shape == (3,)
    if page.name == "composition.md":
        check_mixed_precision(namespace)


def check_mixed_precision(namespace):
    """The loss scale found its place, and training in half precision went on."""
    state, scale = namespace["state"], float(namespace["scale"])
    assert 1 <= scale < 2**20
    assert int(state.skipped) > 0
    assert int(state.consecutive) == 0
    assert np.all(np.asarray(namespace["losses"]) < 0.1 * np.asarray(namespace["first_losses"]))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(namespace["params"]))


PEERS = {
    "torchjd": "torchjd",
    "libmtl": "LibMTL",
    "conflictfree": "conflictfree",
    "gradnorm-pytorch": "gradnorm_pytorch",
    "torch-rechub": "torch_rechub",
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.filterwarnings("ignore")  # theirs
def test_the_peers_blocks_of_a_guide_run(peer):
    if not find_spec(PEERS[peer]):
        pytest.skip(f"needs {PEERS[peer]}")
    if peer == "libmtl":
        from benchmarks.speed.libmtl import weightings

        weightings()  # LibMTL imports with its vision models left out.
    page = ROOT / "docs" / "guides" / f"from-{peer}.md"
    script = script_of(page.read_text("utf-8"), "py")
    assert "step" in script
    exec(compile(script, name_of(page), "exec"), {})


@pytest.mark.parametrize("name", ["docs/some.md", "docs/devices.md"])
def test_a_block_that_fails_is_named_by_page_and_line(name):
    text = "```python\nx = 1\n```\n\n```\nnot python\n```\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as failure:
        run_blocks(name, text)
    last = failure.traceback[-1]
    if name in ON_EIGHT_DEVICES:
        assert f'File "{name}", line 10' in str(failure.value)
    else:
        assert (str(last.path).endswith(name), last.lineno + 1) == (True, 10)


def test_what_a_page_says_is_printed_is_looked_at():
    text = "```python\nprint('loss', 1.23, [2, 3])\n```\n\n```output\nloss 1.2 [2, 3]\n```\n"
    run_blocks("some.md", text)
    others = (("1.2 ", "1.4 "), ("loss 1.2", "task 1.2"), ("1.2 [2, 3]", "1.2 [2, 4]"))
    for wrong in (*(text.replace(*other) for other in others), text[:-25]):
        with pytest.raises(AssertionError):
            run_blocks("some.md", wrong)


@pytest.mark.parametrize("document", methods_table.TABLES, ids=name_of)
def test_the_tables_of_methods_are_fresh(document):
    text = document.read_text("utf-8")
    assert methods_table.rewritten(document) == text, "run: python docs/methods_table.py"
    for name in mtl.list_methods():
        assert f"`{name}`" in text


def test_a_docstring_that_does_not_say_when_not_to_use_the_method_fails(monkeypatch):
    monkeypatch.setattr(mtl.method_info("mgda").factory, "__doc__", "Does something.")
    with pytest.raises(ValueError, match="mgda does not say When not to use"):
        methods_table.when_not("mgda")


def test_links_between_the_documents_lead_somewhere():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
    for document in documents:
        prose = re.sub(r"```.*?```", "", document.read_text("utf-8"), flags=re.DOTALL)
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", prose):
            found = document.parent / target if target else document
            assert found.exists(), (document.name, target)
            if anchor:
                assert anchor in anchors_of(found), (document.name, target, anchor)


def anchors_of(document):
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text("utf-8"), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_every_guarantee_names_tests_that_exist():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("|") and not row.startswith("| **")]
    for row in rows[2:]:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), (file, test)


# The paper searches further than two tasks can tell apart, which a page says beside its command.
@pytest.mark.filterwarnings("ignore:emtl. the ball is inactive")
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
