"""Rooms with a class, a depth and a normal for each pixel: NYUv2 as MTAN prepared it."""

from pathlib import Path

from benchmarks.data.folders import Layout, read
from benchmarks.data.splits import Splits

LAYOUT = Layout(
    name="NYUv2",
    source=(
        "MTAN's page, https://github.com/lorenmt/mtan (NYUv2 at 288 x 384, 13 classes; 795 "
        "pictures in train and 654 in val)"
    ),
    folders={"images": "image", "labels": "label", "depths": "depth", "normals": "normal"},
    classes=13,
)


def nyuv2(folder: Path | None) -> Splits:
    """`Scenes` of each split. Pictures of one room may be in training and validation split.

    Args:
        folder: with ``train`` and ``val``, and in both ``image``, ``label``, ``depth``, ``normal``.
    """
    return read(folder, LAYOUT)
