"""Folders of numbered .npy files, one for each picture, as MTAN publishes NYUv2 and CityScapes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from benchmarks.data.files import VARIABLE, given_folder
from benchmarks.data.scenes import Scenes
from benchmarks.data.splits import Splits
from benchmarks.errors import UserError

PARTS = ("train", "val")
HELD_OUT = 0.1
"""The part of the training pictures that is the validation split."""


class Layout(NamedTuple):
    """How a data set lies in its folder."""

    name: str
    source: str
    """Who publishes it and where."""
    folders: Mapping[str, str]
    """A field of `Scenes` to the folder of its files."""
    classes: int


MOST = 2  # Of a colour: a resized picture may exceed 1 by a little.
MULTIPLE = 32
"""Of the height and width: SegNet halves them five times."""
_FORMS = {
    "images": "(h, w, 3), from 0 to 1",
    "labels": "(h, w), whole numbers, -1 where there is no class",
    "depths": "(h, w, 1), 0 where it is not known",
    "normals": "(h, w, 3), unit vectors, zeros where they are not known",
}
_CHANNELS: dict[str, tuple[tuple[int, ...], ...]] = {
    "images": ((3,),),
    "labels": ((),),
    "depths": ((1,), ()),
    "normals": ((3,),),
}


def read(folder: Path | None, layout: Layout) -> Splits:
    """The pictures, each file read once, into place.

    Of the published training part, in an order drawn once, nine tenths are the training split and
    one tenth the validation split; the published validation part, on which papers report, is the
    test split.

    Args:
        folder: with ``train`` and ``val``, or with a folder of the data set's name that has them.
        layout: which data set.
    """
    where = given_folder(folder)
    if where is None:
        raise UserError(
            f"{layout.name} is needed: pass its folder by --data-dir or {VARIABLE}. {_told(layout)}"
        )
    if (where / layout.name.lower()).is_dir():
        where = where / layout.name.lower()
    counts = {part: _count(where / part, layout) for part in PARTS}
    first = where / "train" / layout.folders["images"] / "0.npy"
    height, width = _opened(first, "images").shape[:2]
    if height % MULTIPLE or width % MULTIPLE:
        raise UserError(
            f"{first}: {height} x {width} pixels, wanted multiples of {MULTIPLE}. {_told(layout)}"
        )
    order = np.random.default_rng(0).permutation(counts["train"])
    kept = max(1, round(HELD_OUT * len(order)))
    if len(order) < 2:
        raise UserError(f"{where / 'train'}: one picture is too few for training and validation")
    parts = (
        ("train", order[:-kept]),
        ("train", order[-kept:]),
        ("val", np.arange(counts["val"])),
    )
    return Splits(*(_read(where, layout, *part, (height, width)) for part in parts))


def _told(layout: Layout) -> str:
    files = "; ".join(
        f"{name}/0.npy, 1.npy, ...: {_FORMS[field]}" for field, name in layout.folders.items()
    )
    return (
        f"It comes from {layout.source}; format: folders train and val, in each of them {files}. "
        "Pictures of another source: save each by numpy.save, counted from 0."
    )


def _count(folder: Path, layout: Layout) -> int:
    """How many pictures a part has, in every folder alike."""
    found = {
        name: {path.name for path in (folder / name).glob("*.npy")}
        for name in layout.folders.values()
    }
    count = max(1, *map(len, found.values()))
    for name, there in found.items():
        for number in range(count):
            if f"{number}.npy" not in there:
                raise UserError(
                    f"{folder / name / f'{number}.npy'}: no such file, beside {len(there)} in its "
                    f"folder; they count from 0 to {count - 1} without gaps. {_told(layout)}"
                )
    return count


def _opened(path: Path, field: str) -> np.ndarray:
    """An array on disk."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a NumPy array, or cut off ({error})") from error
    if array.ndim < 2 or array.shape[2:] not in _CHANNELS[field]:
        raise UserError(f"{path}: its shape is {array.shape}, wanted {_FORMS[field]}")
    if array.dtype.kind not in "biuf":
        raise UserError(f"{path}: it holds {array.dtype}, wanted numbers")
    return array


def _read(
    where: Path, layout: Layout, part: str, numbers: Int[np.ndarray, " n"], size: tuple[int, int]
) -> Scenes:
    fields: dict[str, Any] = dict.fromkeys(Scenes._fields)
    for field in layout.folders:
        shape = (len(numbers), *size, *_CHANNELS[field][-1])
        rows = fields[field] = np.empty(shape, np.int8 if field == "labels" else np.float32)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            path = where / part / layout.folders[field] / f"{number}.npy"
            array = _opened(path, field)
            if array.shape[:2] != size:
                raise UserError(
                    f"{path}: {array.shape[0]} x {array.shape[1]} pixels, but the first picture "
                    f"has {size[0]} x {size[1]}"
                )
            if wrong := _wrong(array, field, layout.classes):
                raise UserError(f"{path}: {wrong}")
            row[...] = array.reshape(row.shape)
    return Scenes(**fields)


def _wrong(array: np.ndarray, field: str, classes: int) -> str:
    """What is wrong with the numbers of one picture, or nothing."""
    if not np.isfinite(array).all():
        return "it holds NaN or infinity"
    if field == "labels":
        wrong = array[(array < -1) | (array >= classes) | (array != np.round(array))]
        if wrong.size:
            return f"labels must be whole numbers from -1 to {classes - 1}, not {wrong[0]}"
    if field == "images" and array.max() > MOST:
        return f"colours must lie between 0 and 1, not up to {array.max()}; divide them by 255"
    return ""
