"""Writes the README's table of methods from the registry: `python docs/methods_table.py`."""

import pathlib

import mtl_optax as mtl

README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- methods: written by docs/methods_table.py -->\n"
END = "<!-- end of methods -->"


def cited(source: str) -> str:
    """Returns a link to the paper of a registry's row, and nothing where it has none."""
    paper, _, address = source.partition(", https")
    return f"[{paper}](https{address})" if address else ""


def table() -> str:
    """Returns the table of methods in Markdown."""
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


def rewritten(readme: str) -> str:
    """Returns the README's text with the table brought up to date."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
