"""Weightings, and the one factory that makes a gradient transformation of a weighting.

A weighting is the brain of a method: a pair of pure functions from evidence (the Gram matrix of
the task gradients, the task losses) to task weights. It never sees a gradient, so the same
weighting serves however the evidence was gathered.
"""

import contextvars
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _checks
from mtl_optax._gram import (
    ScaledGram,
    combine,
    mix,
    norms,
    only_present,
    relative,
    scaled_gram,
    weigh_rows,
)
from mtl_optax._tracing import varying_axes, varying_like
from mtl_optax._trees import Shared, shared_leaves
from mtl_optax._unstacked import TaskGradients, unwrapped

_UNREAD: Any = None  # Typed so that a weighting can use what it reads without asking.


class UnreadEvidenceError(ValueError):
    """An entry of the evidence that the weighting does not declare to read."""


class Evidence(NamedTuple):
    """What a weighting may look at in one step. Looking at what it does not read is an error.

    Attributes:
        mask: `(T,)` bool, the tasks present in this batch.
        gram: `(T, T)` Gram matrix of the task gradients, each divided by its `scale`, so that
            `<g_s, g_t> = scale_s scale_t gram_st`; the diagonal lies in [1, 4), but for rows of
            zeros: those of zero gradients and of absent tasks.
        scale: `(T,)`, powers of two, each near the norm of the task's gradient; one for rows of
            zeros. Weights for the divided gradients, divided by it, are weights for the gradients.
        losses: `(T,)` task losses; those of absent tasks are one.
        norms: `(T,)` norms of the task gradients, over the leaves of the weighting's `norm_mask`;
            those of absent tasks are zero.
    """

    mask: Bool[Array, " T"]
    gram: Float[Array, "T T"] = _UNREAD
    scale: Float[Array, " T"] = _UNREAD
    losses: Float[Array, " T"] = _UNREAD
    norms: Float[Array, " T"] = _UNREAD

    def relative(self) -> tuple[Float[Array, " T"], Float[Array, ""]]:
        """Returns the scales as shares of the largest, `(T,)`, and the largest, `()`.

        Where weights do not change when all gradients are scaled, the shares are all they need.
        """
        return relative(ScaledGram(self.gram, self.scale))

    def __getattribute__(self, name: str) -> Any:
        value = tuple.__getattribute__(self, name)
        if value is None and name in Evidence._fields:
            read = "gram" if name == "scale" else name
            raise UnreadEvidenceError(
                f"evidence.{name} is not gathered, for {read!r} is not among the weighting's "
                f"reads. Declare it: reads=frozenset({{{read!r}}})."
            )
        return value


_READS = frozenset({"gram", "losses", "norms"})


class Weighting(NamedTuple):
    """The pair (`init`, `update`) that turns evidence into task weights.

    Attributes:
        name: the method's name, for error messages.
        num_tasks: the number T of tasks.
        reads: which entries of `Evidence` it needs, out of "gram", "losses" and "norms".
        init: makes the weighting's own state; `optax.EmptyState` where it has none.
        update: maps (evidence, state) to (result, state). The result is either the weights `(T,)`
            of the update `Σ_t w_t g_t`, or a matrix `K` `(T, T)` whose rows are the modified task
            gradients `K G`, in which case the weights are its column sums. What it returns for
            absent tasks is ignored.
        norm_mask: the leaves whose gradients "norms" measures, a name or several, a tree of
            booleans or a predicate, as for `on_shared`; all of them by default.
    """

    name: str
    num_tasks: int
    reads: frozenset[str]
    init: Callable[[], Any]
    update: Callable[[Evidence, Any], tuple[Array, Any]]
    norm_mask: Shared | None = None


class WeightingState(NamedTuple):
    """State of a method made from a weighting.

    Attributes:
        weights: `(T,)` float32, the weights of the last update `Σ_t w_t g_t`; zeros before the
            first. In float64 the update itself is computed with unrounded weights.
        inner: the weighting's own state.
    """

    weights: Float[Array, " T"]
    inner: Any


class SolverReport(NamedTuple):
    """How well the inner problem of the last step was solved; the state of several methods.

    Attributes:
        gap: `()` float32, certified duality gap, as a share of the largest squared gradient norm.
        iterations: `()` int32.
    """

    gap: Float[Array, ""]
    iterations: Int[Array, ""]


def no_report() -> SolverReport:
    """Returns the report before the first step."""
    return SolverReport(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))


def report(
    gap: Array, iterations: Array, gram: Float[Array, "T T"], scale: Float[Array, " T"]
) -> SolverReport:
    """Returns the report of a solution over `gram`, of which each task has its scale."""
    largest = jnp.max(jnp.diagonal(gram) * scale**2)
    return SolverReport((gap / jnp.where(largest > 0, largest, 1)).astype(jnp.float32), iterations)


class Method(optax.GradientTransformationExtraArgs):
    """A gradient transformation that remembers the weighting it was made from.

    Copies have it too, and so have trees with a method in them that JAX takes apart and builds
    again from the two functions: `update` carries it.
    """

    weighting: Weighting | None

    def __new__(
        cls,
        init: Any,  # Whatever JAX puts in the functions' places as it builds a tree.
        update: Any,
        weighting: Weighting | None = None,
    ) -> "Method":
        method = super().__new__(cls, init, update)
        method.weighting = weighting or getattr(update, "weighting", None)
        return method

    def __getnewargs__(self) -> Any:
        return (*self, self.weighting)

    def _replace(self, **functions: Any) -> "Method":
        return Method(**{**self._asdict(), **functions}, weighting=self.weighting)


class OptimizerMethod(optax.GradientTransformationExtraArgs):
    """A method that is an optimiser itself: its updates are steps, down the gradient."""

    @property
    def name(self) -> str:
        """That of the factory which defines `update`."""
        return str(self.update.__qualname__).partition(".")[0]


def stateless(
    name: str,
    num_tasks: int,
    reads: frozenset[str],
    weigh: Callable[[Evidence], Array],
) -> Weighting:
    """Makes a weighting without state from a function of the evidence."""
    _checks.check_num_tasks(name, num_tasks)
    _checks.check_callable(name, "weigh", weigh)
    return Weighting(
        name, num_tasks, reads, optax.EmptyState, lambda evidence, state: (weigh(evidence), state)
    )


def from_weighting(weighting: Weighting, *, combine_tasks: bool = True) -> Method:
    """Makes the gradient transformation of a weighting.

    Args:
        weighting: the rule for the weights.
        combine_tasks: whether the update is the sum over tasks `Σ_t w_t g_t`, leaves `p.shape`,
            or the modified task gradients themselves, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs`. Its `update(task_gradients, state, params,
        task_losses=..., task_mask=...)` checks shapes while tracing, gathers the evidence that
        the weighting reads, and applies the weights. Evidence that is not finite makes the whole
        update NaN.

    Example:
        A new method is a function of the evidence:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> def inverse_loss(evidence):
        ...     return evidence.mask / evidence.losses
        >>> tx = mtl.from_weighting(
        ...     mtl.stateless("inverse_loss", 2, frozenset({"losses"}), inverse_loss)
        ... )
        >>> gradients = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> updates, state = tx.update(gradients, state, params, task_losses=jnp.array([2.0, 4.0]))
        >>> updates
        Array([0.5 , 0.25], dtype=float32)
    """
    if not isinstance(weighting, Weighting):
        raise TypeError(
            "from_weighting: weighting must be a Weighting, such as mtl_optax.stateless makes of a "
            f"function, got {weighting!r}."
        )
    name, num_tasks = weighting.name, weighting.num_tasks
    _checks.check_num_tasks(name, num_tasks)
    unknown = set(weighting.reads) - _READS
    if unknown:
        raise ValueError(
            f"{name}: reads must be a subset of {sorted(_READS)}, got {sorted(unknown)} too."
        )

    arguments = {"task_losses"} if "losses" in weighting.reads else set()
    contract = Contract(name, num_tasks, arguments)

    def init_fn(params: optax.Params) -> WeightingState:
        contract.start(params)
        state = WeightingState(jnp.zeros(num_tasks, jnp.float32), weighting.init())
        return varying_like(state, params)

    def update_fn(
        task_gradients: optax.Updates,
        state: WeightingState,
        params: optax.Params | None = None,
        *,
        task_losses: Array | None = None,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, WeightingState]:
        task_gradients = unwrapped(task_gradients)
        contract.check_step(task_gradients, params, extra)
        if isinstance(task_gradients, TaskGradients) and task_losses is None:
            task_losses = task_gradients.losses
        evidence = gather_evidence(weighting, task_gradients, task_losses, task_mask)
        result, weights, state = weigh(weighting, evidence, state)
        if task_mask is not None:
            task_gradients = only_present(evidence.mask, task_gradients)
        if combine_tasks:
            updates = combine(weights, task_gradients)
        elif result.ndim == 1:
            updates = weigh_rows(weights, task_gradients)
        else:
            updates = mix(result, task_gradients)
        return updates, state

    update_fn.weighting = weighting  # type: ignore[attr-defined]
    return Method(init_fn, update_fn)


def weigh(
    weighting: Weighting, evidence: Evidence, state: WeightingState
) -> tuple[Array, Float[Array, " T"], WeightingState]:
    """Runs a weighting: its result, the weights of `Σ_t w_t g_t`, and the next state.

    Evidence that is not finite makes them NaN, and absent tasks get zeros.
    """
    try:
        returned = weighting.update(evidence, state.inner)
    except UnreadEvidenceError as error:
        raise ValueError(f"{weighting.name}: {error}") from error
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(
            f"{weighting.name}: the update of a weighting must return the pair (weights, state), "
            f"got {type(returned).__name__}. A function of the evidence alone, without a state, "
            "becomes a weighting by mtl_optax.stateless."
        )
    result, inner = returned
    num_tasks = weighting.num_tasks
    _checks.check_array(weighting.name, "what the weighting returned", result)
    if jnp.shape(result) not in ((num_tasks,), (num_tasks, num_tasks)):
        raise ValueError(
            f"{weighting.name}: the weighting returned shape {jnp.shape(result)}, wanted weights "
            f"({num_tasks},) or rows ({num_tasks}, {num_tasks}) of coefficients."
        )
    for read in evidence[1:]:
        if read is not None:
            result = jnp.where(jnp.all(jnp.isfinite(read)), result, jnp.nan)
    kept = evidence.mask if result.ndim == 1 else jnp.outer(evidence.mask, evidence.mask)
    result = jnp.where(kept, result, 0)
    weights = result if result.ndim == 1 else jnp.sum(result, axis=0)
    following = WeightingState(weights.astype(jnp.float32), inner)
    if varying_axes(state):  # A constant of this step is to stay of the type that it had.
        following = jax.tree.map(varying_like, following, state)
    return result, weights, following


def gather_evidence(
    weighting: Weighting,
    task_gradients: Any,
    task_losses: Array | None,
    task_mask: Array | None,
) -> Evidence:
    """Computes what `weighting` reads from task gradients and losses."""
    mask = _checks.check_mask(weighting.name, weighting.num_tasks, task_mask)
    gram = scaled_gram(task_gradients, mask) if "gram" in weighting.reads else None
    lengths = None
    if "norms" in weighting.reads:
        lengths = (
            task_gradients.norms(mask, weighting.norm_mask)
            if isinstance(task_gradients, TaskGradients)
            else norms(measured_leaves(weighting, task_gradients))
        )
    matrix, scale = (_UNREAD, _UNREAD) if gram is None else gram
    losses = _UNREAD
    if "losses" in weighting.reads:
        losses = _checks.check_losses(weighting.name, weighting.num_tasks, task_losses)
        losses = jnp.where(mask, losses, 1.0)
    lengths = _UNREAD if lengths is None else jnp.where(mask, lengths, 0.0)
    return Evidence(mask, matrix, scale, losses, lengths)


def measured_leaves(weighting: Weighting, task_gradients: Any) -> list[Array]:
    """Returns the leaves whose norms `weighting` reads."""
    leaves = jax.tree.leaves(task_gradients)
    if weighting.norm_mask is None:
        return leaves
    chosen = shared_leaves(
        weighting.name, weighting.norm_mask, task_gradients, argument="norm_mask"
    )
    return [leaf for leaf, pick in zip(leaves, jax.tree.leaves(chosen), strict=True) if pick]


def softmax_present(logits: Float[Array, " T"], mask: Bool[Array, " T"]) -> Float[Array, " T"]:
    """Returns the softmax over the present tasks, zero for the others."""
    weights = jax.nn.softmax(jnp.where(mask | ~jnp.any(mask), logits, -jnp.inf))
    return jnp.where(mask, weights, 0)


class Declaration(NamedTuple):
    """What a transformation of task gradients says of itself when its state is made.

    Attributes:
        name: its factory's name.
        num_tasks: the number T of tasks it is made for.
        reads: the extra arguments of `update` that it cannot do without.
    """

    name: str
    num_tasks: int
    reads: frozenset[str]


_HEARD: contextvars.ContextVar[list[Declaration] | None] = contextvars.ContextVar(
    "declarations", default=None
)


def declare(name: str, num_tasks: int, reads: Iterable[str] = ()) -> None:
    """Tells whoever stands around, through any chain, what `init` was called for."""
    heard = _HEARD.get()
    if heard is not None:
        heard.append(Declaration(name, num_tasks, frozenset(reads)))


def init_and_listen(
    transformation: optax.GradientTransformation, params: optax.Params
) -> tuple[optax.OptState, list[Declaration]]:
    """Returns the state of `transformation`, and what its parts declared while it was made."""
    heard: list[Declaration] = []
    token = _HEARD.set(heard)
    try:
        return transformation.init(params), heard
    finally:
        _HEARD.reset(token)


class Contract:
    """What one transformation of task gradients is made for, and what it checks at every step.

    It remembers the shapes of the parameters that `init` was given, so that an `update` that is
    not given them is checked against those.
    """

    def __init__(self, method: str, num_tasks: int, reads: Iterable[str] = ()) -> None:
        self._method, self._num_tasks, self._reads = method, num_tasks, frozenset(reads)
        self._seen: dict[Any, set[tuple[tuple[int, ...], ...]]] = {}
        self._warned = False

    def start(self, params: Any) -> None:
        """Is called by every `init`."""
        _checks.check_arrays(self._method, params)
        declare(self._method, self._num_tasks, self._reads)
        leaves, structure = jax.tree.flatten(params)
        shapes = tuple(tuple(getattr(leaf, "shape", ())) for leaf in leaves)
        self._seen.setdefault(structure, set()).add(shapes)

    def check_step(self, task_gradients: Any, params: Any | None, extra: Mapping[str, Any]) -> None:
        """Checks what every `update` is given, a stack or what stands for one."""
        if isinstance(task_gradients, TaskGradients):
            task_gradients.check(self._method, self._num_tasks, params, extra)
            return
        _checks.check_extra(self._method, extra)
        _checks.check_task_gradients(self._method, self._num_tasks, task_gradients, params)
        if params is None:
            told = self._told_by_init(task_gradients)
            _checks.check_task_gradients(self._method, self._num_tasks, task_gradients, told)

    def _told_by_init(self, task_gradients: Any) -> Any | None:
        """Returns the parameters' shapes if the gradients have them, and so are not stacked.

        Warns once where nothing tells: gradients of the parameters' own shapes pass, and lose their
        leading axis, wherever that happens to be `num_tasks`. Ranks decide, because inside
        `jax.shard_map` the shapes are those of a piece.
        """
        structure: Any
        leaves, structure = jax.tree.flatten(task_gradients)
        shapes = [jnp.shape(leaf) for leaf in leaves]
        seen = self._seen.get(structure, set())
        if any(all(len(g) == len(p) + 1 for g, p in zip(shapes, of, strict=True)) for of in seen):
            return None
        for of in seen:
            if any(g == p for g, p in zip(shapes, of, strict=True)):
                return structure.unflatten(jax.ShapeDtypeStruct(p, jnp.float32) for p in of)
        if self._warned:
            return None
        self._warned = True
        _checks.warn(
            f"{self._method}: params is missing, and init of this transformation has seen none of "
            "this structure and these ranks. So nothing tells task gradients from gradients of "
            f"one loss whose leading axes happen to be num_tasks={self._num_tasks}. Pass params: "
            "tx.update(task_gradients, state, params)."
        )
        return None
