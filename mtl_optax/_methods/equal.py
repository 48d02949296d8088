"""Equal weighting: the sum or the mean of the task gradients."""

import jax.numpy as jnp

from mtl_optax._frame import Evidence, Method, from_weighting, stateless
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.simplex import uniform


@register(
    "Equal weighting: the gradient of the summed loss.",
    "baseline",
    reads=frozenset(),
    scale="sum",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous", "conic"},
)
def sum_tasks(num_tasks: int, *, combine: bool = True) -> Method:
    """Sums the task gradients: `d = Σ_t g_t`, equal weighting (EW) or linear scalarisation.

    It is the baseline of every comparison, and ends a chain of transformations that keep the task
    axis.

    Args:
        num_tasks: the number T of tasks.
        combine: if False, return the rows `g_t`, leaves `(T, *p.shape)`, unchanged.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: sum.

    When not to use:
        Where tasks differ in scale: the largest takes the step, and the smallest stays almost
        unlearned.

    References:
        The gradient of the summed loss; Caruana, `Multitask Learning
        <https://doi.org/10.1023/A:1007379606734>`_, 1997.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.sum_tasks(2)
        >>> gradients = jnp.array([[1.0, 0.0], [-0.5, 2.0]])
        >>> params = jnp.zeros(2)
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([0.5, 2. ], dtype=float32)
    """
    return from_weighting(
        stateless("sum_tasks", num_tasks, frozenset(), lambda e: e.mask.astype(jnp.float32)),
        combine_tasks=combine,
    )


@register(
    "Equal weighting: the gradient of the mean loss.",
    "baseline",
    reads=frozenset(),
    scale="mean",
    properties=GRAM_METHOD
    | {"deterministic", "equivariant", "one task", "homogeneous", "convex", "conic"},
)
def mean_tasks(num_tasks: int, *, combine: bool = True) -> Method:
    """Averages the task gradients: `d = (1/T) Σ_t g_t`, with T the number of present tasks.

    Args:
        num_tasks: the number T of tasks.
        combine: if False, return the rows `g_t / T`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: mean.

    When not to use:
        Where tasks differ in scale, as for `sum_tasks`. With SGD each task's step falls as tasks
        are added.

    References:
        As `sum_tasks`. LibMTL's EW sums the losses, TorchJD's `Mean` averages them.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.mean_tasks(2)
        >>> gradients = jnp.array([[1.0, 0.0], [-0.5, 2.0]])
        >>> params = jnp.zeros(2)
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([0.25, 1.  ], dtype=float32)
    """

    def weigh(evidence: Evidence) -> jnp.ndarray:
        return uniform(evidence.mask)

    return from_weighting(
        stateless("mean_tasks", num_tasks, frozenset(), weigh), combine_tasks=combine
    )
