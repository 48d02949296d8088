"""Unfinished trainings, kept by orbax so that a long run goes on where it stopped."""

import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from benchmarks.errors import UserError


class Checkpoint:
    """One unfinished training in a folder of its own."""

    def __init__(self, folder: Path, *, every: float) -> None:
        """Keep it in ``folder``, at most once in ``every`` seconds."""
        self.folder = folder.absolute()
        self._unfinished = self.folder.with_name(self.folder.name + ".new")
        self.every = every
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._last >= self.every

    def save(self, tree: PyTree, curves: dict[str, Any]) -> None:
        """Write arrays and curves, whole or not at all, over what was there."""
        leaves = [_plain(leaf) for leaf in jax.tree.leaves(tree)]
        content = {
            "leaves": {str(i): leaf for i, leaf in enumerate(leaves)},
            "curves": {name: curve for name, curve in curves.items() if curve is not None},
        }
        try:
            with ocp.PyTreeCheckpointer() as checkpointer:
                checkpointer.save(self._unfinished, content, force=True)
            shutil.rmtree(self.folder, ignore_errors=True)
            self._unfinished.rename(self.folder)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error.strerror})") from error
        self._last = time.monotonic()

    def restore(self, like: PyTree) -> tuple[PyTree, dict[str, np.ndarray]] | None:
        """What was saved, in the structure of ``like``; None where nothing was."""
        if not self.folder.is_dir():
            return None
        wanted, structure = jax.tree.flatten(like)
        try:
            with ocp.PyTreeCheckpointer() as checkpointer:
                types = ocp.RestoreArgs(restore_type=np.ndarray)
                saved = checkpointer.metadata(self.folder).item_metadata.tree
                content = checkpointer.restore(
                    self.folder, restore_args=jax.tree.map(lambda _: types, saved)
                )
            kept = [content["leaves"][str(i)] for i in range(len(wanted))]
            leaves = [_as(leaf, like) for leaf, like in zip(kept, wanted, strict=True)]
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UserError(
                f"{self.folder}: not a checkpoint of this training; remove it or pass --fresh"
            ) from error
        return jax.tree.unflatten(structure, leaves), content["curves"]

    def discard(self) -> None:
        """Remove it, if there is one."""
        for folder in (self.folder, self._unfinished):
            shutil.rmtree(folder, ignore_errors=True)


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _as(kept: np.ndarray, like: Any) -> jax.Array:
    if _is_key(like):
        return jax.random.wrap_key_data(jax.numpy.asarray(kept), impl=jax.random.key_impl(like))
    if kept.shape != like.shape or kept.dtype != like.dtype:
        raise ValueError(f"{kept.dtype}{kept.shape} is not {like.dtype}{like.shape}")
    return jax.numpy.asarray(kept)
