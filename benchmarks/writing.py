"""Folders and files to write: whatever is wrong with one is one clear line."""

import os
from pathlib import Path

from benchmarks.errors import UserError


def writable(folder: Path) -> Path:
    """The folder of --out, which is made where it is not there."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: cannot write there (it is a file)")
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {folder}: cannot write there ({error.strerror})") from error
    return folder


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        unfinished.write_text(text)
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def between_markers(path: Path, name: str, tables: str) -> str:
    """The text of a file with what lies between its markers of that name replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--into {path}: cannot be read ({error.strerror})") from error
    before, begins, rest = text.partition(begin)
    _, ends, after = rest.partition(end)
    if not begins or not ends:
        raise UserError(f"--into {path}: needs a line {begin} and below it a line {end}")
    return f"{before}{begin}\n\n{tables.strip()}\n\n{end}{after}"
