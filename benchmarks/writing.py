"""Folders and files to write: whatever is wrong with one is one clear line."""

import contextlib
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


def check_writable(folder: Path) -> None:
    """Raise where `writable` would, and leave no folder behind."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    writable(folder)
    for path in made:
        path.rmdir()


def number_of(noun: str, count: int) -> str:
    """How many there are, in words that go with one, too."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def spread_over(seeds: int) -> str:
    """What ± stands for, if there is one."""
    return f"± is the standard deviation over {seeds} seeds." if seeds > 1 else "Of one seed."


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, beside other programs that may write it, too."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
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
