"""The site holds every document, and what it makes from the package covers the package."""

import re
import types

import pages
import pytest

import mtl_optax as mtl
from tests.common import METHODS, ROOT


def test_every_document_is_in_the_contents():
    listed = {f"{document}.md" for documents in pages.CONTENTS.values() for document in documents}
    written = {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md")}
    made = {str(page.relative_to(ROOT)) for page in [*pages.METHODS.glob("*.md"), pages.REFERENCE]}
    assert written - made <= listed
    assert listed - {"docs/methods/index.md", "docs/reference.md"} - written == {
        "benchmarks/README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    }


def test_the_reference_names_everything_public():
    text = pages.reference_page()
    for name, value in vars(mtl).items():
        if not name.startswith("_") and not isinstance(value, types.ModuleType):
            shown = rf"\.\. (auto\w+:: mtl_optax\.|py:data:: ){name}$"
            if name in METHODS:
                shown = rf"- \[`{name}`\]\(methods/{name}\.md\)"
            assert len(re.findall(f"^{shown}", text, flags=re.M)) == 1, name
    members = "cost, has_task_weights, is_weighting, update_arguments"
    assert f".. autoclass:: mtl_optax.MethodInfo\n   :members: {members}\n" in text
    assert ".. automodule:: mtl_optax.metrics\n" in text


def test_a_public_name_without_a_docstring_fails_the_build(monkeypatch):
    monkeypatch.setattr(mtl, "extra", lambda: None, raising=False)
    with pytest.raises(ValueError, match=r"extra has no docstring"):
        pages.check(pages.groups() | {"More": ["extra"]})


def test_a_function_without_a_docstring_in_a_public_module_does_too(monkeypatch):
    monkeypatch.setattr(mtl.metrics.delta_m, "__doc__", "")
    with pytest.raises(ValueError, match=r"metrics.delta_m has no docstring"):
        pages.check(pages.groups())


def test_links_lead_to_the_functions_of_public_modules_and_not_to_what_they_import():
    names = pages.public(pages.groups())
    assert names["mtl_optax.metrics.delta_m"] is mtl.metrics.delta_m
    assert names["mtl_optax.PROPERTIES"] is mtl.PROPERTIES
    assert "mtl_optax.metrics.at_least_float32" not in names


def test_a_public_name_in_no_group_fails_the_build(monkeypatch):
    monkeypatch.setattr(mtl, "extra", len, raising=False)
    with pytest.raises(ValueError, match=r"\['extra'\] stand in no group"):
        pages.check(pages.groups())


def test_a_methods_page_shows_what_the_registry_knows():
    page = pages.method_page("mgda")
    for shown in (
        "[Sener and Koltun 2018](https://arxiv.org/abs/1810.04650)",
        "**Reads:** gram.",
        "**Scale of the update:** mean.",
        "![Update on two task gradients](mgda_2.svg)",
        ".. autofunction:: mtl_optax.mgda\n",
        "- *convex*: the weights are non-negative and sum to one",
    ):
        assert shown in page


def test_the_first_page_leads_to_the_methods_and_the_contents():
    source = [(ROOT / "README.md").read_text(encoding="utf-8")]
    pages.read(None, "README", source)
    for name in METHODS:
        assert f"[`{name}`](docs/methods/{name}.md)" in source[0]
    assert source[0].count("```{toctree}") == len(pages.CONTENTS)
