"""Writes the README's table of methods from the registry: `python docs/methods_table.py`."""

import pathlib

import mtl_optax as mtl

README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- methods: written by docs/methods_table.py -->\n"
END = "<!-- end of methods -->"


def table() -> str:
    """Returns the table of methods in Markdown."""
    lines = [
        "| method | what it does | reads | scale | cost |",
        "|---|---|---|---|---|",
    ]
    for name in mtl.list_methods():
        info = mtl.method_info(name)
        paper, _, address = info.source.partition(", https")
        source = f" ([{paper}](https{address}))" if address else ""
        lines.append(
            f"| `{name}` | {info.summary}{source} | {', '.join(sorted(info.reads)) or 'nothing'} "
            f"| {info.scale} | {info.cost} |"
        )
    return "\n".join(lines) + "\n"


def rewritten(readme: str) -> str:
    """Returns the README's text with the table brought up to date."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
