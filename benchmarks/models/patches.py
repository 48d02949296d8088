"""Squares of pixels as one pixel each, so that a network may be narrow and still quick."""

from jaxtyping import Array, Float


def into_patches(images: Float[Array, "n h w c"], side: int) -> Float[Array, "n h//s w//s s*s*c"]:
    """Squares of pixels, one after the other in the last axis, as one pixel each."""
    n, height, width, channels = images.shape
    squares = images.reshape(n, height // side, side, width // side, side, channels)
    return squares.swapaxes(2, 3).reshape(n, height // side, width // side, -1)


def out_of_patches(pixels: Float[Array, "n h w s*s*c"], side: int) -> Float[Array, "n s*h s*w c"]:
    """What `into_patches` was given."""
    n, height, width, _ = pixels.shape
    squares = pixels.reshape(n, height, width, side, side, -1)
    return squares.swapaxes(2, 3).reshape(n, height * side, width * side, -1)
