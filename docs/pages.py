"""The pages of the site that are made from the package: one for each method, and the reference."""

import inspect
import pathlib
import re
from collections.abc import Mapping

import methods_table
import pictures

import mtl_optax as mtl

ROOT = pathlib.Path(__file__).parent.parent
METHODS = ROOT / "docs" / "methods"
REFERENCE = ROOT / "docs" / "reference.md"
PACKAGE = ROOT / "mtl_optax"

CONTENTS = {
    "First steps": ["docs/getting-started", "docs/which-method", "docs/gallery", "docs/notebooks"],
    "How to": [
        "docs/guides/heads",
        "docs/guides/freezing",
        "docs/guides/frameworks",
        "docs/guides/missing-tasks",
        "docs/guides/accumulation",
        "docs/composition",
        "docs/guides/logging",
        "docs/guides/checkpoints",
        "docs/devices",
        "docs/performance",
        "docs/guides/physics-informed",
        "docs/guides/from-torchjd",
        "docs/guides/from-libmtl",
        "docs/guides/from-conflictfree",
        "docs/guides/from-gradnorm-pytorch",
        "docs/guides/from-torch-rechub",
        "docs/guides/from-softadapt",
    ],
    "Methods": ["docs/methods/index"],
    "Evidence": ["docs/reliability", "docs/claims", "docs/peers", "benchmarks/README"],
    "Reference": ["docs/reference", "docs/glossary", "docs/faq", "CONTRIBUTING", "CHANGELOG"],
}


# Members that are for users, of a class that has others too.
MEMBERS = {"TaskGradients": "gram, norms, combine, mix, stack, split"}


def write() -> None:
    """Writes the pages, and the pictures that are older than the package."""
    METHODS.mkdir(exist_ok=True)
    sources = [*PACKAGE.rglob("*.py"), pathlib.Path(pictures.__file__)]
    newest = max(file.stat().st_mtime for file in sources)
    for name in mtl.list_methods():
        drawn = METHODS / f"{name}_3.svg"
        if not drawn.exists() or drawn.stat().st_mtime < newest:
            pictures.draw(name, METHODS)
        _update(METHODS / f"{name}.md", method_page(name))
    _update(METHODS / "index.md", methods_page())
    _update(REFERENCE, reference_page())


def _update(page: pathlib.Path, text: str) -> None:
    """Leaves a page that has not changed its date, so that it is not built again."""
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def toctree(caption: str, documents: list[str], depth: int = 1) -> str:
    """Returns the table of contents of a page, which MyST reads."""
    listed = "\n".join(f"/{document}" for document in documents)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n:maxdepth: {depth}\n\n{listed}\n```\n"


def read(app: object, document: str, source: list[str]) -> None:
    """Adds to the README, as it is read, the contents of the site and links to the methods."""
    del app
    if document == "README":
        text = _linked(source[0], "docs/methods/")
        source[0] = text + "".join(toctree(*entry) for entry in CONTENTS.items())


def _linked(table: str, folder: str = "") -> str:
    """Makes links of the names in tables of methods, to their pages in a folder."""

    def link(found: re.Match[str]) -> str:
        name = found[1]
        return f"[`{name}`]({folder}{name}.md)" if name in mtl.list_methods() else found[0]

    rows = (
        re.sub(r"(?<!\[)`(\w+)`", link, line) if line.startswith("| ") else line
        for line in table.splitlines(keepends=True)
    )
    return "".join(rows)


def method_page(name: str) -> str:
    """Returns the page of a method: what the registry knows, its pictures, its docstring."""
    info = mtl.method_info(name)
    holds = "\n".join(
        f"- *{key}*: {meaning}" for key, meaning in mtl.PROPERTIES.items() if key in info.properties
    )
    heads = "an optimiser of their own" if info.is_optimizer else info.heads
    return f"""# {name}

{info.summary} {methods_table.cited(info.source) or info.source}

- **Reads:** {", ".join(sorted(info.reads)) or "nothing"}.
- **Scale of the update:** {info.scale}.
- **Cost beyond the forward pass:** {info.cost}.
- **Heads:** {heads}, with `on_shared`.

What these words mean stands above [the table of all methods](index.md).

![Update on two task gradients]({name}_2.svg)

![Update on three task gradients]({name}_3.svg)

```{{eval-rst}}
.. autofunction:: mtl_optax.{name}
```

## Properties

Declared in the registry, and held by the tests:

{holds}
"""


def methods_page() -> str:
    """Returns the page that leads to the methods, in the README's table."""
    names = [f"docs/methods/{name}" for name in mtl.list_methods()]
    return f"""# All methods

*Reads* is what the update depends on. *Scale* says what T equal gradients `g` give: about `T g`
(sum), about `g` (mean), an optimiser's step, or something of its own. *Cost* is what a step takes
beyond the forward pass. *Heads* is how the paper treats parameters that belong to one task:
[shared parameters and heads](../guides/heads.md). [Which method?](../which-method.md) leads from
what you see to what to try.

Each page shows the update on the same two and three task gradients, drawn by running the method.

{_linked(methods_table.what_they_do())}
{toctree("Methods", names)}"""


def groups() -> dict[str, list[str]]:
    """Returns the public names in the groups of `mtl_optax/__init__.py`, by their heading."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in (PACKAGE / "__init__.py").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"# (.+)\.$", line):
            heading = match[1]
        elif match := re.match(r"from mtl_optax\S* import \w+ as (\w+)$", line):
            found.setdefault(heading, []).append(match[1])
    return found


def public(found: dict[str, list[str]]) -> dict[str, object]:
    """Returns what the groups hold, the functions of public modules included, by full name."""
    grouped = {name: getattr(mtl, name) for names in found.values() for name in names}
    values = {f"mtl_optax.{name}": value for name, value in grouped.items()}
    for module in filter(inspect.ismodule, grouped.values()):
        for name, value in inspect.getmembers(module, inspect.isfunction):
            if value.__module__ == module.__name__ and not name.startswith("_"):
                values[f"{module.__name__}.{name}"] = value
    return values


def check(found: dict[str, list[str]]) -> None:
    """Raises if a public name stands in no group, or has no documentation of its own."""
    values = public(found)
    missing = {name for name in vars(mtl) if not name.startswith("_")}
    missing -= {name.removeprefix("mtl_optax.") for name in values}
    missing -= {name for name in missing if inspect.ismodule(getattr(mtl, name))}
    if missing:
        raise ValueError(f"mtl_optax/__init__.py: {sorted(missing)} stand in no group.")
    for name, value in values.items():
        if callable(value) and not (value.__doc__ or "").strip():
            raise ValueError(f"{name} has no docstring.")


def reference_page() -> str:
    """Returns the reference of everything public, whose methods have pages of their own."""
    found = groups()
    check(found)
    parts = ["# API reference\n\n`import mtl_optax as mtl`\n"]
    for heading, names in found.items():
        parts.append(f"\n## {heading}\n")
        for name in names:
            value = getattr(mtl, name)
            if name in mtl.list_methods():
                parts.append(f"- [`{name}`](methods/{name}.md): {mtl.method_info(name).summary}")
                continue
            if isinstance(value, Mapping):
                meanings = "\n".join(f"   - *{key}*: {said}" for key, said in value.items())
                directive = f".. py:data:: {name}\n   :module: mtl_optax\n\n{meanings}"
            elif inspect.ismodule(value):
                directive = f".. automodule:: mtl_optax.{name}\n   :members:"
            else:
                kind = "class" if inspect.isclass(value) else "function"
                directive = f".. auto{kind}:: mtl_optax.{name}"
                if name in MEMBERS:
                    directive += f"\n   :members: {MEMBERS[name]}"
                elif properties := inspect.getmembers(value, lambda of: isinstance(of, property)):
                    directive += f"\n   :members: {', '.join(key for key, _ in properties)}"
            parts.append(f"\n```{{eval-rst}}\n{directive}\n```\n")
    return "\n".join(parts) + "\n"
