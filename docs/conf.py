"""Builds the site: `python -m sphinx -W -c docs . build/site`.

The source is the repository itself, so that a link between documents leads to the same place on the
site and in a clone.
"""

import pathlib
import sys
from importlib import metadata
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import pages  # noqa: E402

project = "mtl_optax"
author = copyright = "the mtl_optax authors"
version = release = metadata.version("mtl_optax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "docs/**.md",
    "notebooks/*.ipynb",
]
nitpicky = True

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"

default_role = "literal"  # Docstrings quote code and formulas as Markdown does.
autodoc_typehints = "none"  # The arguments' text says types and shapes.
napoleon_attr_annotations = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"mtl_optax {release}"
html_css_files = ["site.css"]
html_static_path = ["static"]


def _index(app: Any, error: Exception | None) -> None:
    """Leads from the address of the site to its first page."""
    if error is None and app.builder.format == "html":
        page = '<meta http-equiv="refresh" content="0; url=README.html">\n'
        (pathlib.Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Any) -> None:
    """Writes the pages that are made from the package, and hooks into the build."""
    pages.write()
    app.connect("source-read", pages.read)
    app.connect("build-finished", _index)
