"""ExcessMTL: weights that follow the tasks' excess risks (He et al. 2024)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._complex import as_real
from mtl_optax._frame import Contract, softmax_present
from mtl_optax._gram import combine as combine_rows
from mtl_optax._gram import weigh_rows
from mtl_optax._precision import at_least_float32
from mtl_optax._registry import register
from mtl_optax._tracing import varying_like
from mtl_optax._trees import stacked_zeros, zero_absent
from mtl_optax._unstacked import as_stack

_LARGEST_RATIO = 1e30


class ExcessMTLState(NamedTuple):
    """The weights, and T × N numbers for the excess risks.

    Attributes:
        weights: `(T,)` float32, the weights of the last update.
        logits: `(T,)` float32, the logarithms of the weights when each task was last present, as
            multiples of an even share.
        initial: `(T,)` float32, each task's first excess risk that was not zero; zero before.
        roots: leaves `(T, *p.shape)`, in float32 or better, the roots of the sums of squared
            gradients; of a complex parameter `(T, *p.shape, 2)`, for its real and imaginary parts.
            The sums themselves would overflow where the gradients do not.
    """

    weights: Float[Array, " T"]
    logits: Float[Array, " T"]
    initial: Float[Array, " T"]
    roots: Any


@register(
    "Raises the weights of tasks with the largest excess risk left.",
    "He et al. 2024, https://arxiv.org/abs/2402.02009",
    reads=frozenset({"coordinates"}),
    scale="mean",
    properties=frozenset(
        {"linear", "deterministic", "equivariant", "one task", "homogeneous", "convex", "conic"}
    ),
    heads="weighted",
)
def excess_mtl(
    num_tasks: int, *, step_size: float = 0.01, combine: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Raises the weights of tasks that have most to gain: `d = Σ_t w_t g_t`.

    The excess risk, the loss above the least that the model can reach, is what a noisy or a hard
    task cannot feign. It is estimated as `½ gᵀ H⁻¹ g`, with the diagonal of AdaGrad for `H`:

    - `S_t <- S_t + g_t²` and `e_t = Σ_i g_ti² / sqrt(S_ti)`;
    - `w_t <- w_t exp(η e_t / e_t(1))` over its sum, from `1 / T`, where `e_t(1)` is the task's
      first. A task's first step leaves its weight alone.

    Args:
        num_tasks: the number T of tasks.
        step_size: η, at least 0.
        combine: if False, return the rows `w_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Its state holds T × N numbers. Scale: mean (the
        weights sum to one). A coordinate whose gradients were all zero counts for nothing, and a
        first excess risk of zero is passed over for the next. A task's weight stands still while it
        is absent, among the weights of the present ones scaled to sum to one.

    When not to use:
        Where training is long: `S` only grows, so that a task which goes on as it began loses
        nothing to one that converged. Where a task begins near its optimum: `e_t(1)` is small, and
        all that follows large. Where T × N numbers are too many.

    References:
        He et al., `Robust Multi-Task Learning with Excess Risks
        <https://arxiv.org/abs/2402.02009>`_, 2024, Algorithm 1. The timing and η are those of
        LibMTL (main of May 2025, not in a release), whose weights sum to T, and which adds 1e-7
        under the root, so that gradients below 3e-4 count for less. TorchJD moves the weights in
        the first step already, by the raw `e_t` and with `η = 1`: they end in a corner and stay.

    Example:
        The second task's gradient does not fall as the first one's does:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.excess_mtl(2, step_size=1.0)
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for size in (1.0, 0.5, 0.25):
        ...     gradients = jnp.array([[size, 0.0], [0.0, 1.0]])
        ...     updates, state = tx.update(gradients, state, params)
        ...     print([round(float(w), 2) for w in mtl.task_weights(state)])
        [0.5, 0.5]
        [0.38, 0.62]
        [0.27, 0.73]
    """
    name = "excess_mtl"
    _checks.check_num_tasks(name, num_tasks)
    _checks.check_number(name, "step_size", step_size, low=0)
    contract = Contract(name, num_tasks)

    def init_fn(params: optax.Params) -> ExcessMTLState:
        contract.start(params)
        zeros = lambda: varying_like(jnp.zeros(num_tasks, jnp.float32), params)
        roots = stacked_zeros(num_tasks, as_real(params), at_least_float32)
        return ExcessMTLState(zeros(), zeros(), zeros(), roots)

    def update_fn(
        task_gradients: optax.Updates,
        state: ExcessMTLState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ExcessMTLState]:
        task_gradients = as_stack(task_gradients)
        contract.check_step(task_gradients, params, extra)
        mask = _checks.check_mask(name, num_tasks, task_mask)
        if task_mask is not None:  # Zeros leave the roots as they are.
            task_gradients = zero_absent(mask, task_gradients)
        sizes = jax.tree.map(
            lambda g, r: jnp.abs(g).astype(r.dtype), as_real(task_gradients), state.roots
        )
        roots = jax.tree.map(_hypotenuse, state.roots, sizes)
        risks = _excess(sizes, roots)
        seen = state.initial > 0
        ratios = risks / jnp.where(seen, state.initial, 1).astype(risks.dtype)
        moves = jnp.where(seen, jnp.minimum(ratios, _LARGEST_RATIO), 0).astype(jnp.float32)
        moved = state.logits + jnp.asarray(step_size, jnp.float32) * moves
        # As multiples of an even share, so that the present tasks' weights do not depend on the
        # others, nor their logits grow for ever.
        anybody = mask | ~jnp.any(mask)
        number = jnp.sum(anybody).astype(jnp.float32)
        total = jax.nn.logsumexp(jnp.where(anybody, moved, -jnp.inf))
        logits = jnp.where(mask, moved - (total - jnp.log(number)), state.logits)

        weights = softmax_present(moved, mask)
        sound = jnp.all(jnp.isfinite(risks))
        weights = jnp.where(mask & ~sound, jnp.nan, weights)
        initial = jnp.where(mask & ~seen, risks.astype(jnp.float32), state.initial)
        updates = (combine_rows if combine else weigh_rows)(weights, task_gradients)
        return updates, ExcessMTLState(weights, logits, initial, roots)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _hypotenuse(root: Array, size: Array) -> Array:
    """Returns `sqrt(root² + size²)` of numbers that are not negative, at any scale."""
    long, short = jnp.maximum(root, size), jnp.minimum(root, size)
    return long * jnp.sqrt(1 + (short / jnp.where(long > 0, long, 1)) ** 2)


def _excess(sizes: Any, roots: Any) -> Float[Array, " T"]:
    """Returns `Σ_i |g_i| |g_i| / R_i` of each task."""

    def of_leaf(size: Array, root: Array) -> Float[Array, " T"]:
        shares = size / jnp.where(root > 0, root, 1)
        # A gradient without a bound shows as long as its root does.
        shares = jnp.where(jnp.isfinite(root), shares, jnp.nan)
        return jnp.sum(size * shares, axis=tuple(range(1, size.ndim)))

    parts = jax.tree.leaves(jax.tree.map(of_leaf, sizes, roots))
    dtype = at_least_float32(*parts)
    return jnp.sum(jnp.stack([part.astype(dtype) for part in parts]), axis=0)
