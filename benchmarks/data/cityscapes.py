"""Streets with a class and an inverse depth for each pixel: CityScapes as MTAN prepared it."""

from pathlib import Path

from benchmarks.data.folders import Layout, read
from benchmarks.data.splits import Splits

LAYOUT = Layout(
    name="CityScapes",
    source=(
        "MTAN's page, https://github.com/lorenmt/mtan (CityScapes at 128 x 256, 7 classes and "
        "disparities; 2975 pictures in train and 500 in val)"
    ),
    folders={"images": "image", "labels": "label_7", "depths": "depth"},
    classes=7,
)


def cityscapes(folder: Path | None) -> Splits:
    """`Scenes` without normals, of each split; the depths are inverse ones.

    Args:
        folder: with ``train`` and ``val``, and in both ``image``, ``label_7`` and ``depth``.
    """
    return read(folder, LAYOUT)
