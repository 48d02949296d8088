"""Complex leaves as their real and imaginary parts.

Methods are made for real parameters, and a complex one is two of them. So the inner product of two
gradients is the real part of `conj(g) h`, whichever of the two conventions the gradients follow:
that of JAX, `∂L/∂x - i ∂L/∂y`, or its conjugate, which is the direction that optimisers descend.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtl_optax._precision import at_least_float32


def is_complex(leaf: Any) -> bool:
    """Whether a leaf has a complex dtype."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating)


def as_real(tree: Any) -> Any:
    """Lays the parts of complex leaves along a last axis of two; real leaves stay as they are."""
    parts = lambda z: jnp.stack([jnp.real(z), jnp.imag(z)], axis=-1)
    return jax.tree.map(lambda leaf: parts(leaf) if is_complex(leaf) else leaf, tree)


def as_given(tree: Any, given: Any) -> Any:
    """Undoes `as_real` where the leaves of `given`, of the same structure, are complex."""
    whole = lambda x: jax.lax.complex(x[..., 0], x[..., 1])
    return jax.tree.map(lambda x, like: whole(x) if is_complex(like) else x, tree, given)


def by_parts(function: Callable[[Any], Any], leaf: Any) -> Any:
    """Applies a function of a real array to the real and to the imaginary part of a complex one."""
    if not is_complex(leaf):
        return function(leaf)
    return jax.lax.complex(function(jnp.real(leaf)), function(jnp.imag(leaf)))


def accumulator(leaf: Any) -> Any:
    """Returns the dtype in which to add up leaves: float32 or better for each part."""
    wide = at_least_float32(leaf)
    if not is_complex(leaf):
        return wide
    return jnp.dtype(jnp.complex128 if wide == jnp.float64 else jnp.complex64)
