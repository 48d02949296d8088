"""The names of baselines and methods, for those who cannot wait for jax to be imported."""

import ast
import difflib
import functools
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.errors import UserError

SINGLE_TASK = "single_task"
EQUAL_WEIGHTING = "equal_weighting"
BASELINES = {
    SINGLE_TASK: "One network for each task, trained on its own: the yardstick.",
    EQUAL_WEIGHTING: "One network on the plain sum of the losses: one backward pass, no method.",
}


class Entry(NamedTuple):
    """What the registry says of a method in words."""

    summary: str
    source: str


@functools.cache
def registry() -> dict[str, Entry]:
    """The library's methods, in its order: read from its source, since importing it takes jax."""
    package = importlib.util.find_spec("mtl_optax")
    if package is None or package.origin is None:
        raise UserError('mtl_optax is not installed: pip install -e ".[bench]"')
    tree = ast.parse(Path(package.origin).with_name("_registry.py").read_text(encoding="utf-8"))
    entries = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MethodInfo":
            name, _, summary, source = (getattr(word, "value", "") for word in node.args[:4])
            entries[name] = Entry(summary, source)
    return entries


def check_names(option: str, given: Iterable[str], *, also: Iterable[str] = ()) -> None:
    """Raise for a name that is neither a method's nor in ``also``, and suggest one."""
    known = [*registry(), *also]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            suggestion = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"{option}: there is no method {name!r}.{suggestion} Methods: {', '.join(known)}."
            )
