"""Inner products of two stacked leaves, where they lie on a mesh."""

from typing import Any, TypeAlias

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from mtl_optax._precision import HIGHEST
from mtl_optax._trees import along_tasks

Units: TypeAlias = tuple[Float[Array, " T"], Float[Array, " T"]] | None


def may_be_sharded() -> bool:
    """Whether arrays may lie on several devices: then slices of them could cost a gather."""
    return jax.device_count() > 1


def leaf_product(left: Array, right: Array, dtype: Any, units: Units) -> Float[Array, "T T"]:
    """Computes `<l_s, r_t>` of two leaves `(T, ...)`, each row divided by its unit, in `dtype`."""
    if units is not None:
        left = left.astype(dtype) / along_tasks(units[0], left)
        right = right.astype(dtype) / along_tasks(units[1], right)
    elif left.dtype != right.dtype:
        left, right = left.astype(dtype), right.astype(dtype)
    # Contracting all trailing axes at once, rather than reshaping to (T, n) first, lets a sharded
    # leaf be contracted where it lies.
    axes = tuple(range(1, left.ndim))
    return jax.lax.dot_general(
        left,
        right,
        ((axes, axes), ((), ())),
        precision=HIGHEST,
        preferred_element_type=dtype,
        out_sharding=on_mesh_of(left, None, None),
    )


def on_mesh_of(leaf: Array, *spec: Any) -> NamedSharding | None:
    """Returns where a contraction puts its result, which JAX asks for where shardings are types."""
    mesh = jax.typeof(leaf).sharding.mesh
    explicit = AxisType.Explicit in mesh.axis_types
    return NamedSharding(mesh, PartitionSpec(*spec)) if explicit else None


def as_matrix(leaf: Array) -> Float[Array, "T _"]:
    """Lays a leaf `(T, ...)` out as one row for each task."""
    shape = (leaf.shape[0], leaf.size // leaf.shape[0])
    return jax.lax.reshape(leaf, shape, out_sharding=on_mesh_of(leaf, None, None))
