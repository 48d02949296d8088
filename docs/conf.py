"""Builds the site: `python -m sphinx -W -c docs . build/site`.

The source is the repository itself, so that a link between documents leads to the same place on the
site and in a clone.
"""

import pathlib
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes

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
napoleon_custom_sections = ["When not to use"]

html_theme = "furo"
html_title = f"mtl_optax {release}"
html_css_files = ["site.css"]
html_static_path = ["static"]
html_math_renderer = "mathml"  # Without a script from elsewhere.
pygments_dark_style = "monokai"  # The theme's own underlines imports as if they were links.

PUBLIC = {name.rpartition(".")[2]: name for name in pages.public(pages.groups())}


def _link(app: Any, tree: Any) -> None:
    """Makes a link of every public name that stands in code, in Markdown and docstrings alike."""
    inside = (nodes.reference, nodes.title, addnodes.pending_xref, addnodes.download_reference)
    for code in list(tree.findall(nodes.literal)):
        target = PUBLIC.get(re.sub(r"^(mtl|mtl_optax)\.|\(\)$", "", code.astext()))
        if target and not any(isinstance(node, inside) for node in _above(code)):
            link = addnodes.pending_xref(
                refdomain="py", reftype="obj", reftarget=target, refdoc=app.env.docname
            )
            code.replace_self(link)
            link += code


def _above(node: Any) -> Iterator[Any]:
    while node := node.parent:
        yield node


def _skip(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of named tuples, which the docstring of the class tells."""
    return True if isinstance(member, type(pages.mtl.Conflict.cosines)) else None


def _inline(writer: Any, node: Any) -> None:
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(writer: Any, node: Any) -> None:
    writer.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def _index(app: Any, error: Exception | None) -> None:
    """Leads from the address of the site to its first page."""
    if error is None and app.builder.format == "html":
        page = '<meta http-equiv="refresh" content="0; url=README.html">\n'
        (pathlib.Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Any) -> None:
    """Writes the pages that are made from the package, and hooks into the build."""
    pages.write()
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("source-read", pages.read)
    app.connect("doctree-read", _link)
    app.connect("autodoc-skip-member", _skip)
    app.connect("build-finished", _index)
