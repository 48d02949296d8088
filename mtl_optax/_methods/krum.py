"""Multi-Krum: the gradients with the nearest neighbours (Blanchard et al. 2017)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, from_weighting, stateless
from mtl_optax._precision import root
from mtl_optax._registry import GRAM_METHOD, register


@register(
    "Keeps the gradients that lie nearest to the others.",
    "Blanchard et al. 2017, https://arxiv.org/abs/1703.02757",
    reads=frozenset({"gram"}),
    scale="mean",
    properties=GRAM_METHOD
    | {"deterministic", "equivariant", "one task", "homogeneous", "convex", "conic"},
)
def krum(
    num_tasks: int,
    *,
    num_byzantine: int = 0,
    num_selected: int = 1,
    squared: bool = True,
    combine: bool = True,
) -> Method:
    """Averages the `m` gradients that lie nearest to the others: `d = (1/m) Σ_{t in S} g_t`.

    A task's score is the sum of the squared distances to its `T - f - 2` nearest neighbours, and
    `S` are the `m` lowest. It is robust aggregation, for up to `f` gradients that may be anything.

    Args:
        num_tasks: the number T of tasks.
        num_byzantine: f, how many gradients may be anything, at least 0.
        num_selected: m, how many are averaged, at least 1.
        squared: whether distances are squared, as in the paper; False is TorchJD's score.
        combine: if False, return the rows, leaves `(T, *p.shape)`, zeros for the tasks left out.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: mean. Tasks with the same score share the
        places that are left. Of few tasks each is compared with one neighbour at least, and with
        fewer than m all are averaged. Distances come from the Gram matrix: those far below the
        gradients' lengths are rounding.

    When not to use:
        For balancing tasks: gradients of different tasks are not noisy copies of one, and the task
        that differs most is the one that is left out.

    References:
        Blanchard et al., `Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent
        <https://arxiv.org/abs/1703.02757>`_, 2017, Section 4. TorchJD 0.18's `Krum` does not square
        the distances, and wants `T >= f + 3`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.krum(4, num_byzantine=1)
        >>> params = jnp.zeros(2)
        >>> rows = jnp.array([[1.0, 0.0], [1.0, 0.2], [0.9, 0.2], [-50.0, 9.0]])
        >>> updates, _ = tx.update(rows, tx.init(params), params)
        >>> print([round(float(x), 3) for x in updates])
        [0.95, 0.2]
    """
    _checks.check_num_tasks("krum", num_tasks)
    _checks.check_count("krum", "num_byzantine", num_byzantine, low=0)
    _checks.check_count("krum", "num_selected", num_selected)
    _checks.check_flag("krum", "squared", squared)

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        mask, gram = evidence.mask, evidence.gram
        shares, _ = evidence.relative()
        products = gram * jnp.outer(shares, shares)
        squares = jnp.diagonal(products)
        distances = jnp.maximum(
            jnp.expand_dims(squares, 1) + jnp.expand_dims(squares, 0) - 2 * products, 0
        )
        if not squared:
            distances = root(distances)
        others = jnp.outer(mask, mask) & ~jnp.eye(num_tasks, dtype=bool)
        nearest = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
        number = jnp.sum(mask)
        neighbours = jnp.maximum(number - jnp.asarray(num_byzantine, number.dtype) - 2, 1)
        places = jnp.expand_dims(jnp.arange(num_tasks), 0)
        near = (places < neighbours) & (places < number - 1)
        scores = jnp.sum(jnp.where(near, nearest, 0), axis=1)
        scores = jnp.where(jnp.any(jnp.isnan(products)), jnp.nan, scores)

        wanted = jnp.minimum(jnp.asarray(num_selected, number.dtype), number)
        last = jnp.sort(jnp.where(mask, scores, jnp.inf))[jnp.maximum(wanted - 1, 0)]
        below, ties = mask & (scores < last), mask & (scores == last)
        left = (wanted - jnp.sum(below)).astype(gram.dtype)
        shared = left / jnp.maximum(jnp.sum(ties), 1).astype(gram.dtype)
        chosen = jnp.where(below, 1, jnp.where(ties, shared, 0))
        return chosen / jnp.maximum(wanted, 1).astype(gram.dtype)

    return from_weighting(
        stateless("krum", num_tasks, frozenset({"gram"}), weigh), combine_tasks=combine
    )
