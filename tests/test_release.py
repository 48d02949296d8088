"""What is published beside the code: the citation, the forms, the workflow, the package's data.

And the house: in which direction its rooms import each other.
"""

import ast
import importlib.metadata
import re
import tomllib

import pytest
import yaml

import mtl_optax as mtl
from tests.common import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
# From the ground up: each imports itself and what stands before it.
HOUSE = (
    "_precision",
    "_tracing",
    "_complex",
    "_checks",
    "_trees",
    "_contractions",
    "_unstacked",
    "_gram_on_cpu",
    "_gram",
    "_solvers",
    "_task_gradients",
    "_evidence",
    "_frame",
    "_diagnostics",
    "_around",
    "_registry",
    "_methods",
    "adversarial",
    "metrics",
)
FORMS = sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"))


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_version_is_the_same_wherever_it_stands():
    version = PROJECT["version"]
    assert load(ROOT / "CITATION.cff")["version"] == version
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == version
    # The package has no copy of its own: it asks what is installed.
    assert mtl.__version__ == importlib.metadata.version("mtl_optax")
    assert version not in (ROOT / "mtl_optax" / "__init__.py").read_text("utf-8")


def test_the_citation_agrees_with_the_package():
    citation = load(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert citation["title"].startswith(f"{PROJECT['name']}: ")
    assert citation["message"]


def test_the_workflow_runs_what_contributors_run_and_may_only_read():
    workflow = load(ROOT / ".github" / "workflows" / "ci.yml")
    assert set(workflow[True]) == {"pull_request", "push"}  # YAML 1.1 reads "on" as true.
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]
    assert job["timeout-minutes"] <= 360
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert job["strategy"]["matrix"]["python"] == [lowest, "3.x"]
    assert f"Programming Language :: Python :: {lowest}" in PROJECT["classifiers"]


def test_a_commit_is_checked_by_what_ci_runs_first():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    first = re.findall(r'^"\$work/style/bin/(ruff|mypy)"(.*)$', script, re.MULTILINE)
    # CI keeps its tools apart from what they look at.
    commands = [tool + re.sub(" --python-executable .*", "", options) for tool, options in first]
    (local,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == commands
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert hook["pass_filenames"] is False


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_have_what_a_form_needs(path):
    form = load(path)
    assert all(isinstance(form[key], str) for key in ("name", "description"))
    assert set(form) <= {"name", "description", "labels", "title", "body"}
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids) > 0
    for field in form["body"]:
        assert field["type"] in {"input", "textarea", "dropdown", "checkboxes"}
        assert isinstance(field["attributes"]["label"], str)
        assert isinstance(field["attributes"].get("description", ""), str)
        assert ("options" in field["attributes"]) == (field["type"] in {"dropdown", "checkboxes"})
        assert set(field) <= {"type", "id", "attributes", "validations"}


def test_the_forms_ask_for_what_an_answer_needs():
    assert [path.stem for path in FORMS] == ["bug", "method_request"]
    bug, request = ({field["id"]: field for field in load(path)["body"]} for path in FORMS)
    for form, needed in ((bug, ("code", "versions")), (request, ("source", "formula", "oracle"))):
        for field in needed:
            assert form[field]["validations"]["required"] is True


def test_the_command_for_versions_that_the_bug_form_gives_runs():
    (field,) = (field for field in load(FORMS[0])["body"] if field["id"] == "versions")
    program = re.search(r'python -c "(.*)"', field["attributes"]["description"]).group(1)
    exec(compile(program, "bug.yml", "exec"), {})


def test_the_source_distribution_holds_what_the_tests_read():
    included = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    names = ["tests", "docs", "benchmarks", "README.md", "CITATION.cff", ".ci", ".github"]
    for name in (*names, ".pre-commit-config.yaml"):
        assert f"/{name}" in included
        assert (ROOT / name).exists()


def floor(module):
    """Returns the number of a module's room in the house."""
    rooms = [room for room in HOUSE if f"{module}.".startswith(f"{room}.")]
    assert rooms, f"mtl_optax.{module} stands in no room"
    return HOUSE.index(max(rooms, key=len))


def imported(path):
    """Yields the modules of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name[len("mtl_optax.") :] for name in names if name.startswith("mtl_optax."))


def test_imports_point_downwards():
    package = ROOT / "mtl_optax"
    for path in package.rglob("*.py"):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        if module == "__init__":
            continue
        for name in imported(path):
            assert floor(name) <= floor(module), f"mtl_optax.{module} imports mtl_optax.{name}"
