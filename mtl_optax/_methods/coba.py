"""CoBa: the convergence balancer for fine-tuning on many tasks (Gong et al. 2024)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting, softmax_present
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.simplex import uniform


class Window(NamedTuple):
    """The last numbers of several series.

    Attributes:
        values: `(S, N)` float32, each series at the end of its row, older numbers first.
        counts: `(S,)` int32, how many of them are numbers of the series.
    """

    values: Float[Array, "S N"]
    counts: Int[Array, " S"]

    @classmethod
    def empty(cls, series: int, length: int) -> "Window":
        return cls(jnp.zeros((series, length), jnp.float32), jnp.zeros(series, jnp.int32))

    def push(self, new: Float[Array, " S"], mask: Bool[Array, " S"]) -> "Window":
        """Appends a number to each series in the mask."""
        moved = jnp.concatenate([self.values[:, 1:], jnp.expand_dims(new, 1)], axis=1)
        counts = jnp.minimum(self.counts + 1, self.values.shape[1])
        values = jnp.where(jnp.expand_dims(mask, 1), moved, self.values)
        return Window(values, jnp.where(mask, counts, self.counts))

    def held(self) -> Bool[Array, "S N"]:
        """Says which entries are numbers of the series."""
        length = self.values.shape[1]
        places = jnp.expand_dims(jnp.arange(length, dtype=jnp.int32), 0)
        return places >= length - jnp.expand_dims(self.counts, 1)

    def slopes(self) -> Float[Array, " S"]:
        """Fits a line to each series by least squares; zero where there is one number at most."""
        held = self.held()
        places = jnp.expand_dims(jnp.arange(self.values.shape[1], dtype=jnp.float32), 0)
        counts = jnp.expand_dims(jnp.maximum(self.counts, 1), 1).astype(jnp.float32)
        mean = jnp.sum(jnp.where(held, places, 0), axis=1, keepdims=True) / counts
        offsets = jnp.where(held, places - mean, 0)
        squares = jnp.sum(offsets**2, axis=1)
        values = jnp.where(held, self.values, 0)
        # The slope does not depend on a constant, and sums of differences are exact near one.
        values = values - values[:, -1:]
        return jnp.sum(offsets * values, axis=1) / jnp.where(squares > 0, squares, 1)

    def shares(self) -> Float[Array, "S N"]:
        """Returns each number over the mean magnitude of its series."""
        values = jnp.where(self.held(), self.values, 0)
        total = jnp.sum(jnp.abs(values), axis=1, keepdims=True)
        counts = jnp.expand_dims(self.counts, 1).astype(jnp.float32)
        return counts * values / jnp.where(total > 0, total, 1)


class CoBaState(NamedTuple):
    """The course of the validation losses.

    Attributes:
        steps: `()` int32, the steps in which a task was present.
        first: `(T,)` float32, each task's first validation loss, by which all are divided; one
            before it.
        losses: the last of each task.
        largest: the last of their maximum over the tasks, one series.
        slopes: the last slopes of each task.
        largest_slopes: those of the maximum.
    """

    steps: Int[Array, ""]
    first: Float[Array, " T"]
    losses: Window
    largest: Window
    slopes: Window
    largest_slopes: Window


@register(
    "Balances how fast the validation losses converge, and backs off from those that diverge.",
    "Gong et al. 2024, https://arxiv.org/abs/2410.06741",
    reads=frozenset({"next_losses"}),
    scale="mean",
    properties=GRAM_METHOD
    | {"deterministic", "equivariant", "one task", "homogeneous", "convex", "conic"},
    heads="weighted",
)
def coba(
    num_tasks: int,
    *,
    warmup: int = 100,
    history: int | None = None,
    temperature: float = 5.0,
    combine: bool = True,
) -> Method:
    """Weighs tasks by the slopes of their validation losses: `d = Σ_t W_t g_t`.

    Each call takes validation losses, divided by the first; `α_t` is the slope of the line that
    fits the task's last ones, and `ᾱ` that of their maximum over the tasks. With averages of
    magnitudes over the window in the denominators,

    - `RCS = softmax_t(T α_t / Σ_s |α_s|)`,
    - `ACS = softmax_t(-α_t / mean |α_t|)`,
    - `DF = K softmax(-τ ᾱ / mean |ᾱ|)` at the last of the window's K steps,
    - `W = softmax(T [DF RCS + (1 - DF) ACS])`,

    so that slow tasks gain while the worst loss falls, and diverging tasks lose where it rises.
    Where a weight is below `1 / (10 T)`, weights are mixed with that floor.

    Args:
        num_tasks: the number T of tasks.
        warmup: the steps before, with equal weights, at least 1.
        history: K at most, the steps that slopes are fitted to and averaged over, a Python int, 200
            by default; a slope needs two.
        temperature: τ, at least 0.
        combine: if False, return the rows `W_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, next_losses=...)`, the losses of a held-out batch
        at the present parameters, at the cost of a forward pass. Scale: mean, the weights sum to
        one. The state holds `2 T history` numbers.

    When not to use:
        In short trainings, most of which is warm-up and history. With held-out batches so small
        that slopes over the window are noise.

    References:
        Gong et al., `CoBa: Convergence Balancer for Multitask Finetuning of Large Language Models
        <https://arxiv.org/abs/2410.06741>`_, 2024, and its code, MFTCoder, after which this was
        made: DF can exceed one there, and so it can here; there DF looks back to the end of the
        warm-up, however long ago, and here over the window.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.coba(2, warmup=2)
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for losses in ([1.0, 1.0], [0.9, 0.8], [0.8, 0.6], [0.7, 0.4]):
        ...     losses = jnp.array(losses)
        ...     _, state = tx.update(jnp.eye(2), state, params, next_losses=losses)
        ...     print([round(float(w), 2) for w in state.weights])
        [0.5, 0.5]
        [0.66, 0.34]
        [0.66, 0.34]
        [0.66, 0.34]
    """
    _checks.check_num_tasks("coba", num_tasks)
    _checks.check_count("coba", "warmup", warmup)
    length = 200 if history is None else history
    _checks.check_size("coba", "history", length)
    _checks.check_number("coba", "temperature", temperature, low=0)

    def init() -> CoBaState:
        windows = (Window.empty(series, length) for series in (num_tasks, 1, num_tasks, 1))
        return CoBaState(jnp.zeros((), jnp.int32), jnp.ones(num_tasks, jnp.float32), *windows)

    def update(evidence: Evidence, state: CoBaState) -> tuple[Array, CoBaState]:
        mask = evidence.mask
        anybody = jnp.any(mask, keepdims=True)
        losses = evidence.next_losses.astype(jnp.float32)
        first = jnp.where(mask & (state.losses.counts == 0), losses, state.first)
        losses = losses / jnp.where(first == 0, 1, first)
        worst = jnp.max(jnp.where(mask, losses, -jnp.inf), keepdims=True)
        seen = state.losses.push(losses, mask)
        largest = state.largest.push(worst, anybody)
        steps = state.steps + anybody[0].astype(jnp.int32)
        warm = steps >= jnp.asarray(warmup, jnp.int32)
        found = jnp.where(mask, seen.slopes(), 0)
        slopes = state.slopes.push(found, mask & warm)
        largest_slopes = state.largest_slopes.push(largest.slopes(), anybody & warm)

        number = jnp.sum(mask).astype(jnp.float32)
        total = jnp.sum(jnp.abs(found))
        relative = softmax_present(number * found / jnp.where(total > 0, total, 1), mask)
        absolute = softmax_present(-slopes.shares()[:, -1], mask)
        course = -jnp.asarray(temperature, jnp.float32) * largest_slopes.shares()
        course = jnp.where(largest_slopes.held(), course, -jnp.inf)
        counts = jnp.maximum(largest_slopes.counts[0], 1).astype(jnp.float32)
        factor = counts * jax.nn.softmax(jnp.where(warm, course, 0), axis=1)[0, -1]
        weights = softmax_present(number * (factor * relative + (1 - factor) * absolute), mask)
        equal = uniform(mask)
        lowest = 0.1 * equal
        low = jnp.any(weights < lowest)
        weights = jnp.where(low, 0.9 * weights + lowest, weights)
        following = CoBaState(steps, first, seen, largest, slopes, largest_slopes)
        return jnp.where(warm, weights, equal), following

    weighting = Weighting("coba", num_tasks, frozenset({"next_losses"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)
