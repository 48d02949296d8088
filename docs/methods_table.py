"""Writes the tables of methods into the documents: `python docs/methods_table.py`."""

import inspect
import pathlib
import re
from collections.abc import Callable

import mtl_optax as mtl

ROOT = pathlib.Path(__file__).parent.parent
BEGIN = "<!-- methods: written by docs/methods_table.py -->\n"
END = "<!-- end of methods -->"
AVOID = "When not to use:\n"


def cited(source: str) -> str:
    """Returns a link to the paper of a registry's row, and nothing where it has none."""
    paper, _, address = source.partition(", https")
    return f"[{paper}](https{address})" if address else ""


def what_they_do() -> str:
    """Returns the README's table of methods in Markdown."""
    lines = [
        "| method | what it does | reads | scale | cost |",
        "|---|---|---|---|---|",
    ]
    for name in mtl.list_methods():
        info = mtl.method_info(name)
        paper = cited(info.source)
        does = f"{info.summary} ({paper})" if paper else info.summary
        reads = ", ".join(sorted(info.reads)) or "nothing"
        lines.append(f"| `{name}` | {does} | {reads} | {info.scale} | {info.cost} |")
    return "\n".join(lines) + "\n"


def when_not(name: str) -> str:
    """Returns what a method's docstring says of when not to use it, in one line."""
    _, found, rest = inspect.getdoc(mtl.method_info(name).factory).partition(AVOID)
    if not found:
        raise ValueError(f"the docstring of {name} does not say {AVOID.strip()}")
    section, _, _ = rest.partition("\n\n")
    return re.sub(r"\s+", " ", section).strip()


def when_not_to_use_them() -> str:
    """Returns the table of `docs/which-method.md` in Markdown."""
    lines = ["| method | when not to use it |", "|---|---|"]
    lines += [f"| `{name}` | {when_not(name)} |" for name in mtl.list_methods()]
    return "\n".join(lines) + "\n"


TABLES: dict[pathlib.Path, Callable[[], str]] = {
    ROOT / "README.md": what_they_do,
    ROOT / "docs" / "which-method.md": when_not_to_use_them,
}


def rewritten(document: pathlib.Path) -> str:
    """Returns a document's text with its table brought up to date."""
    before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{TABLES[document]()}{END}{after}"


if __name__ == "__main__":
    for document in TABLES:
        document.write_text(rewritten(document), encoding="utf-8")
