"""Finding and reading data files; whatever is wrong with one is one clear line."""

import csv
import gzip
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks.errors import UserError

VARIABLE = "MTL_OPTAX_DATA"


def given_folder(folder: Path | None) -> Path | None:
    """--data-dir, or the folder that the environment names, or None."""
    if folder is not None:
        return folder
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def locate(folder: Path | None, name: str, *, source: str, format: str) -> Path:
    """The file ``name`` in ``folder`` or in that of the environment, or what to do about it."""
    where = given_folder(folder)
    if where is None:
        raise UserError(
            f"{name} is needed: pass its folder by --data-dir or {VARIABLE}. It comes from "
            f"{source}; format: {format}"
        )
    path = where / name
    if not path.is_file():
        raise UserError(f"{path}: no such file. It comes from {source}; format: {format}")
    return path


def read_jsonl(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a gzipped file with one JSON object in each line."""
    rows = []
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from error
            missing = [key for key in keys if not isinstance(row, dict) or key not in row]
            if missing:
                raise UserError(f"{path}, line {number}: no {missing[0]!r}")
            rows.append(row)
    if not rows:
        raise UserError(f"{path}: no rows")
    return rows


def read_csv(path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    """The columns of a file with a header, gzipped or not; ``columns`` must be among them."""
    with _opened(path) as lines:
        reader = csv.reader(lines)
        header = next(reader, [])
        for column in columns:
            if column not in header:
                raise UserError(
                    f"{path}: no column {column!r}; it has {', '.join(header[:8])}, ..."
                )
        rows = []
        for number, row in enumerate(reader, 2):
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {number}: {len(row)} values, not {len(header)}; is it cut off?"
                )
            rows.append(row)
    if not rows:
        raise UserError(f"{path}: no rows")
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def numbers(path: Path, column: str, values: Sequence[str]) -> np.ndarray:
    """A column as floats."""
    try:
        return np.array(values, dtype=np.float64)
    except ValueError as error:
        raise UserError(f"{path}: column {column!r} must hold numbers ({error})") from error


def read_npz(path: Path, arrays: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of a NumPy archive; never unpickles."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in arrays if name not in archive.files]
            if missing:
                raise UserError(
                    f"{path}: no array {missing[0]!r}; it has {', '.join(archive.files)}"
                )
            return {name: archive[name] for name in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a NumPy archive, or cut off ({error})") from error


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        opened: Any = gzip.open if zipped else open
        with opened(path, "rt", encoding="utf-8", newline="") as lines:
            yield lines
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read, or cut off ({reason})") from error
