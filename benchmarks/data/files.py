"""Finding and reading data files; whatever is wrong with one is one clear line."""

import csv
import gzip
import json
import os
import warnings
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


def read_csv(path: Path, columns: Sequence[str], *, others: bool = True) -> dict[str, list[str]]:
    """The columns of a file with a header, gzipped or not; ``columns`` must be among them.

    Unless ``others``, it is these alone that are kept.
    """
    with _opened(path) as lines:
        reader = csv.reader(lines)
        header = next(reader, [])
        for column in columns:
            if column not in header:
                raise UserError(
                    f"{path}: no column {column!r}; it has {', '.join(header[:8])}, ..."
                )
        kept = header if others else list(columns)
        places = [header.index(name) for name in kept]
        rows = []
        for number, row in enumerate(reader, 2):
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {number}: {len(row)} values, not {len(header)}; is it cut off?"
                )
            rows.append([row[place] for place in places])
    if not rows:
        raise UserError(f"{path}: no rows")
    return dict(zip(kept, map(list, zip(*rows, strict=True)), strict=True))


def read_integers(
    path: Path, columns: Sequence[str], *, separator: str, header: bool
) -> dict[str, np.ndarray]:
    """Columns of whole numbers, of a file with millions of rows; ``columns`` are all of them."""
    with _opened(path) as lines:
        if header:
            found = tuple(lines.readline().rstrip("\r\n").split(separator))
            if found != tuple(columns):
                raise UserError(
                    f"{path}: its columns are {', '.join(found[:16])}, wanted {', '.join(columns)}"
                )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*input contained no data")
                table = np.loadtxt(lines, dtype=np.int64, delimiter=separator, ndmin=2)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: not a table of whole numbers ({reason})") from error
    if not len(table):
        raise UserError(f"{path}: no rows")
    if table.shape[1] != len(columns):
        raise UserError(
            f"{path}: {table.shape[1]} columns, not {len(columns)}: {', '.join(columns)}"
        )
    return dict(zip(columns, table.T, strict=True))


def yes_or_no(path: Path, column: str, values: np.ndarray) -> np.ndarray:
    """A column of zeros and ones."""
    if not np.isin(values, (0, 1)).all():
        wrong = values[~np.isin(values, (0, 1))][0]
        raise UserError(f"{path}: column {column!r} must hold 0 and 1, not {wrong}")
    return values


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
