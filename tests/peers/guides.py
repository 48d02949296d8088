"""The tables "The same numbers" of docs/guides/from-*.md, which `test_peers` holds."""

import ast
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.common import ROOT

GUIDES = ROOT / "docs" / "guides"
HEADER = re.compile(r"^\| here \| (\S+) \| theirs is ours times \| within \| but for \|$", re.M)


class Agreement(NamedTuple):
    """That our method gives a peer's answer times a factor, to a share, but for some matrices.

    The tolerance is that of the peer's solver. Where the factor is None, it is a length.
    """

    name: str
    hyperparameters: dict[str, Any]
    peer: str
    method: str
    parameters: dict[str, Any]
    factor: float | None
    tolerance: float
    but_for: tuple[str, ...]
    tasks: int | None  # How many they must be.


COUNTS = {"of two": 2, "of three": 3}
LIBRARIES = {"TorchJD": "torchjd"}  # By the name of the distribution, where that is another.


def agreements() -> Iterator[Agreement]:
    """Reads the guides."""
    for guide in sorted(GUIDES.glob("from-*.md")):
        text = guide.read_text("utf-8")
        found = HEADER.search(text)
        if not found:
            raise ValueError(f"{guide} has no table of the same numbers")
        for line in text[found.end() :].lstrip("\n").splitlines()[1:]:
            if not line.startswith("|"):
                break
            here, there, factor, within, but_for = (cell.strip() for cell in line.split("|")[1:-1])
            call, _, only = there.partition(", of")
            yield Agreement(
                *_call(here),
                LIBRARIES.get(found[1], found[1]),
                *_call(call),
                None if factor == "a length" else float(factor),
                float(within),
                tuple(but_for.split("; ")) if but_for else (),
                COUNTS["of" + only] if only else None,
            )


def _call(cell: str) -> tuple[str, dict[str, Any]]:
    node = ast.parse(cell.strip("`"), mode="eval").body
    assert isinstance(node, ast.Call), cell
    assert isinstance(node.func, ast.Name), cell
    return node.func.id, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
