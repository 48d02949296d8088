"""Runs the peers' programs of docs/peers.md, for `record`."""

import contextlib
import importlib.metadata
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.peers.page import Section, sections


def answers() -> Iterator[dict[str, Any]]:
    """Yields a record for each row, in the page's order."""
    for section in sections():
        installed = importlib.metadata.version(section.package)
        if installed != section.version:
            raise RuntimeError(f"{section.package} {installed}, and the page has {section.version}")
        yield from _answers(section)


def _answers(section: Section) -> Iterator[dict[str, Any]]:
    namespace: dict[str, Any] = {}
    exec(compile(section.setup, section.package, "exec"), namespace)
    for row in section.rows:
        with contextlib.redirect_stdout(io.StringIO()):
            value = _run(row.program, namespace)
        yield {
            "package": section.package,
            "version": section.version,
            "situation": row.situation,
            "program": row.program,
            "answer": value,
        }


def _run(program: str, namespace: dict[str, Any]) -> Any:
    """Returns the program's value as numbers, or the error in its place."""
    try:
        return _plain(eval(program, namespace))
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, bool | str | None | int):
        return value
    if hasattr(value, "detach"):
        value = value.detach().double().numpy()
    array = np.asarray(value)
    if array.dtype == bool:
        return array.tolist()
    return np.asarray(array, np.float64).tolist()
