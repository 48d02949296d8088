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


# What a user has to have at hand, and what the kinds of evidence are called in a table's row.
GROUPS: dict[str, frozenset[str]] = {
    "nothing": frozenset(),
    "losses": frozenset({"losses", "next_losses"}),
    "inner products of the task gradients": frozenset({"gram"}),
    "inner products or norms, and losses": frozenset({"gram", "norms", "losses"}),
    "a second batch": frozenset({"cross", "query gradients"}),
    "the gradients, coordinate by coordinate": frozenset({"coordinates", "losses"}),
}


def in_groups() -> str:
    """Returns the README's table of methods in Markdown: a row for each kind of evidence."""
    lines = ["| they read | a step costs | methods |", "|---|---|---|"]
    left = mtl.list_methods()
    for title, reads in GROUPS.items():
        names = [name for name in left if mtl.method_info(name).reads <= reads]
        left = [name for name in left if name not in names]
        costs = {mtl.method_info(name).cost.partition(",")[0]: None for name in names}
        listed = ", ".join(f"`{name}`" for name in names)
        lines.append(f"| {title} | {' or '.join(costs)} | {listed} |")
    assert not left, f"no group of docs/methods_table.py has {left}"
    return "\n".join(lines) + "\n"


def what_they_do() -> str:
    """Returns the site's table of methods in Markdown."""
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
    lines = ["| method | what it does, and when not to use it | scale |", "|---|---|---|"]
    for name in mtl.list_methods():
        info = mtl.method_info(name)
        paper = f" ({cited(info.source)})" if cited(info.source) else ""
        lines.append(f"| `{name}` | {info.summary}{paper} *Not:* {when_not(name)} | {info.scale} |")
    return "\n".join(lines) + "\n"


TABLES: dict[pathlib.Path, Callable[[], str]] = {
    ROOT / "README.md": in_groups,
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
