"""What the public codes do to each picture of a batch to train on: zoom in, and mirror.

A scale of 1, 1.2 or 1.5 is drawn, and the part of the picture that is smaller by it, which is then
stretched to the picture's size: colours and normals bilinearly with corners on corners, classes and
depths by the nearest pixel. Every second picture is mirrored, its normals' first component turned.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

SCALES = (1.0, 1.2, 1.5)
Depth = Literal["divided", "multiplied"]
"""What a zoom does to depths: what is seen larger is nearer by the scale, and its inverse depth is
multiplied; the public codes divide that too."""


@partial(jax.jit, static_argnames="depth")
def zoomed(key: PRNGKeyArray, batch: Any, *, depth: Depth = "divided") -> Any:
    """Each of the `Scenes` at a scale and place of its own, and perhaps mirrored."""
    return jax.vmap(partial(_zoomed, depth=depth))(jax.random.split(key, len(batch.images)), batch)


def _zoomed(key: PRNGKeyArray, picture: Any, depth: Depth) -> Any:
    scale_key, row_key, column_key, mirror_key = jax.random.split(key, 4)
    scale = jax.random.randint(scale_key, (), 0, len(SCALES))
    corner = [
        jax.random.randint(of_axis, (), 0, size - jnp.asarray(_parts(size))[scale] + 1)
        for of_axis, size in zip((row_key, column_key), picture.labels.shape, strict=True)
    ]
    return at(picture, scale, corner[0], corner[1], jax.random.bernoulli(mirror_key), depth)


def at(picture: Any, scale: Array, row: Array, column: Array, mirrored: Array, depth: Depth) -> Any:
    """One picture at the scale of this number, from this pixel on."""
    starts = (row, column)

    def stretched(x: Float[Array, "h w ..."]) -> Float[Array, "h w ..."]:
        for axis, start in enumerate(starts):
            places = jnp.asarray(_between(x.shape[axis]))[scale]
            before = jnp.floor(places).astype(jnp.int32)
            after = jnp.minimum(before + 1, x.shape[axis] - 1 - start)
            part = (places - before).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
            ends = [x.take(start + here, axis, mode="clip") for here in (before, after)]
            x = ends[0] * (1 - part) + ends[1] * part
        return x

    def nearest(x: Array) -> Array:
        for axis, start in enumerate(starts):
            x = x.take(start + jnp.asarray(_nearest(x.shape[axis]))[scale], axis, mode="clip")
        return x

    factor = jnp.asarray(SCALES)[scale]
    depths = nearest(picture.depths)
    normals = picture.normals
    if normals is not None:
        normals = stretched(normals)
        turned = normals[:, ::-1] * jnp.asarray([[[-1.0, 1.0, 1.0]]])
        normals = jnp.where(mirrored, turned, normals)
    mirror = lambda x: jnp.where(mirrored, x[:, ::-1], x)
    return picture._replace(
        images=mirror(stretched(picture.images)),
        labels=mirror(nearest(picture.labels)),
        depths=mirror(depths / factor if depth == "divided" else depths * factor),
        normals=normals,
    )


def _parts(size: int) -> Int[np.ndarray, " 3"]:
    """How many pixels of an axis are seen at each scale."""
    return np.array([int(size / scale) for scale in SCALES])


def _between(size: int) -> Float[np.ndarray, "3 s"]:
    """Where in the part seen at each scale each pixel lies, first on first and last on last."""
    return np.stack([np.linspace(0, part - 1, size) for part in _parts(size)]).astype(np.float32)


def _nearest(size: int) -> Int[np.ndarray, "3 s"]:
    """The pixel of the part that each is taken from."""
    return np.stack([np.arange(size) * part // size for part in _parts(size)])
