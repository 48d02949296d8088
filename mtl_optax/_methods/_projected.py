"""What the methods share that project a gradient onto what conflicts with no task."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtl_optax._frame import Evidence
from mtl_optax._precision import root
from mtl_optax._solvers.nnqp import NNQPSolution
from mtl_optax._solvers.simplex import uniform


class ProjectionReport(NamedTuple):
    """How well the projections of the last step were solved.

    Attributes:
        residual: `()` float32, by how much the conditions of optimality are missed, for rows of
            unit length; in the unit of what is projected, and of several projections the worst.
        iterations: `()` int32, the number of linear systems solved; of several the most.
    """

    residual: Float[Array, ""]
    iterations: Int[Array, ""]


def no_report() -> ProjectionReport:
    """Returns the report before the first step."""
    return ProjectionReport(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))


def report(solution: NNQPSolution) -> ProjectionReport:
    """Returns the report of all projections of a step."""
    residual = jnp.max(solution.residuals).astype(jnp.float32)
    return ProjectionReport(residual, jnp.max(solution.iterations))


def unit_gram(evidence: Evidence) -> tuple[Float[Array, "T T"], Float[Array, " T"]]:
    """Returns the cosines, zero for rows of zeros, and the lengths of the divided gradients.

    Those of rows of zeros are one.
    """
    held = root(jnp.diagonal(evidence.gram))
    held = jnp.where(held > 0, held, 1)
    return evidence.gram / jnp.outer(held, held), held


def preferred(preference: Any | None, evidence: Evidence) -> Float[Array, " T"]:
    """Returns the preference: as given, or the same for each present task."""
    dtype = evidence.gram.dtype
    return uniform(evidence.mask, dtype) if preference is None else preference.astype(dtype)
