"""Twelve properties of small molecules (QM9), with descriptors for input."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from benchmarks.data.files import locate, read_npz
from benchmarks.data.splits import Splits
from benchmarks.errors import UserError

FILE = "qm9_14k.npz"


class Molecules(NamedTuple):
    """Molecules."""

    descriptors: Float[np.ndarray, "n p"]
    """Standardised by the training rows."""
    targets: Float[np.ndarray, "n t"]
    """Standardised by the training rows."""


class Loaded(NamedTuple):
    """What `molecules` returns."""

    splits: Splits
    tasks: tuple[str, ...]
    scales: Float[np.ndarray, " t"]
    """Standard deviations of the targets, in their units."""


def molecules(folder: Path | None, *, validation: float = 0.1, seed: int = 0) -> Loaded:
    """Descriptors and properties in the published split.

    Columns that are constant or not finite among the training rows are left out.

    Args:
        folder: with qm9_14k.npz.
        validation: part of the training rows to hold out.
        seed: of the draw.
    """
    path = locate(
        folder,
        FILE,
        source="the repository Shreyas-Bhat/MolPropPred",
        format="NumPy archive with desc (n, p), y (n, t), task_names (t,) and is_test (n,)",
    )
    arrays = read_npz(path, ("desc", "y", "task_names", "is_test"))
    desc, y, is_test = arrays["desc"].astype(np.float64), arrays["y"], arrays["is_test"]
    if not len(desc) == len(y) == len(is_test) or y.shape[1:] != arrays["task_names"].shape:
        raise UserError(f"{path}: desc, y, task_names and is_test do not fit each other")
    if is_test.dtype != bool or is_test.all() or not is_test.any():
        raise UserError(f"{path}: is_test must be true for some rows and false for others")
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~is_test))
    held_out = max(1, round(validation * len(order)))
    train, check, test = order[held_out:], order[:held_out], np.flatnonzero(is_test)
    with np.errstate(all="ignore"):
        spread = desc[train].std(axis=0)
    kept = np.isfinite(desc).all(axis=0) & np.isfinite(spread) & (spread > 1e-12)
    from sklearn.preprocessing import StandardScaler

    inputs, targets = StandardScaler().fit(desc[train][:, kept]), StandardScaler().fit(y[train])

    def rows(which: np.ndarray) -> Molecules:
        # A descriptor far outside of what was seen in training would spoil every prediction.
        standard = np.clip(inputs.transform(desc[which][:, kept]), -10, 10)
        return Molecules(
            standard.astype(np.float32), targets.transform(y[which]).astype(np.float32)
        )

    return Loaded(
        Splits(rows(train), rows(check), rows(test)),
        tuple(str(name) for name in arrays["task_names"]),
        targets.scale_,
    )
