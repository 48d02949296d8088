"""Weightings, and the one factory that makes a gradient transformation of a weighting.

A weighting is the brain of a method: a pair of pure functions from evidence (the Gram matrix of
the task gradients, the task losses) to task weights. It never sees a gradient, so the same
weighting serves however the evidence was gathered.
"""

import contextvars
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _checks
from mtl_optax._evidence import (
    KINDS,
    Given,
    UnreadEvidenceError,
    arguments_of,
    gather_evidence,
)
from mtl_optax._evidence import Evidence as Evidence
from mtl_optax._gram import combine, mix, only_present, weigh_rows
from mtl_optax._tracing import cond, is_traced, varying_axes, varying_like
from mtl_optax._trees import Group, Shared, group_names, hide_leaves
from mtl_optax._unstacked import TaskGradients, as_stack, unwrapped


class Weighting(NamedTuple):
    """The pair (`init`, `update`) that turns evidence into task weights.

    Attributes:
        name: the method's name, for error messages.
        num_tasks: the number T of tasks.
        reads: which evidence it needs, out of "gram", "losses", "norms", "next_losses", "cross".
        init: makes the weighting's own state; `optax.EmptyState` where it has none.
        update: maps (evidence, state) to (result, state). The result is either the weights `(T,)`
            of the update `Σ_t w_t g_t`, or a matrix `K` `(T, T)` whose rows are the modified task
            gradients `K G`, in which case the weights are its column sums. What it returns for
            absent tasks is ignored.
        norm_mask: the leaves whose gradients "norms" measures, a name or several, a tree of
            booleans or a predicate, as for `on_shared`; all of them by default.
        keep: for a weighting that need not look at every step, maps (mask, state) to (due, result,
            state): whether it looks in this step, `()` bool, and the result and the state if it
            does not. Evidence is gathered only where it is due.
    """

    name: str
    num_tasks: int
    reads: frozenset[str]
    init: Callable[[], Any]
    update: Callable[[Evidence, Any], tuple[Array, Any]]
    norm_mask: Shared | None = None
    keep: Callable[[Bool[Array, " T"], Any], tuple[Array, Array, Any]] | None = None


class WeightingState(NamedTuple):
    """State of a method made from a weighting.

    Attributes:
        weights: `(T,)` float32, the weights of the last update `Σ_t w_t g_t`; zeros before the
            first. In float64 the update itself is computed with unrounded weights.
        inner: the weighting's own state.
    """

    weights: Float[Array, " T"]
    inner: Any


class GroupsState(NamedTuple):
    """State of a method whose leaves are weighted by groups.

    Attributes:
        group_weights: `(K, T)` float32, the weights of the last update, a row for each group in the
            order in which the parameters' leaves first name it; zeros before the first.
        inner: the weighting's own states, each array with a leading axis of groups.
    """

    group_weights: Float[Array, "K T"]
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


class Recipe(NamedTuple):
    """What a method was made from: the arguments of `from_weighting`."""

    weighting: Weighting
    combine_tasks: bool
    group: Group | None


class Method(optax.GradientTransformationExtraArgs):
    """A gradient transformation that remembers what it was made from.

    Copies do so too, and so do trees with a method in them that JAX takes apart and builds again
    from the two functions: `update` carries it.
    """

    recipe: Recipe | None

    def __new__(
        cls,
        init: Any,  # Whatever JAX puts in the functions' places as it builds a tree.
        update: Any,
        recipe: Recipe | None = None,
    ) -> "Method":
        method = super().__new__(cls, init, update)
        method.recipe = recipe or getattr(update, "recipe", None)
        return method

    def __getnewargs__(self) -> Any:
        return (*self, self.recipe)

    def _replace(self, **functions: Any) -> "Method":
        return Method(**{**self._asdict(), **functions}, recipe=self.recipe)


def recipe_of(caller: str, argument: str, method: Any) -> Recipe:
    """Returns what a method was made from, or raises."""
    recipe = getattr(method, "recipe", None)
    if isinstance(method, Weighting):
        return Recipe(method, True, None)
    if recipe is None:
        raise TypeError(
            f"{caller}: {argument} must be a method made from a weighting, such as "
            f"mtl_optax.cagrad(num_tasks), or a weighting, got {method!r}."
        )
    return recipe


class OptimizerMethod(optax.GradientTransformationExtraArgs):
    """A method that is an optimiser itself: its updates are steps, down the gradient."""

    @property
    def name(self) -> str:
        """That of the factory which defines `update`."""
        return str(self.update.__qualname__).partition(".")[0]


def shape_of_result(weighting: Weighting) -> tuple[int, ...]:
    """Returns `(T,)` for a weighting that finds weights, `(T, T)` for one of rows."""
    ones = jnp.ones(weighting.num_tasks, jnp.float32)
    entries = {
        entry: jnp.diag(ones) if entry in ("gram", "cross") else ones
        for read in weighting.reads
        for entry in KINDS[read].entries
    }
    evidence = Evidence(ones > 0, **entries)
    shape: tuple[int, ...] = jax.eval_shape(weighting.update, evidence, weighting.init())[0].shape
    return shape


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


def from_weighting(
    weighting: Weighting, *, combine_tasks: bool = True, group: Group | None = None
) -> Method:
    """Makes the gradient transformation of a weighting.

    Args:
        weighting: the rule for the weights.
        combine_tasks: whether the update is the sum over tasks `Σ_t w_t g_t`, leaves `p.shape`,
            or the modified task gradients themselves, leaves `(T, *p.shape)`.
        group: for weights of its own in each group of leaves, as for `by_group`; one group of all
            leaves by default.

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
    unknown = set(weighting.reads) - set(KINDS)
    if unknown:
        raise ValueError(
            f"{name}: reads must be a subset of {sorted(KINDS)}, got {sorted(unknown)} too."
        )
    if group is not None and weighting.norm_mask is not None:
        raise ValueError(
            f"{name}: group and norm_mask both choose the leaves whose norms are read. Leave "
            "norm_mask out."
        )
    contract = Contract(name, num_tasks, arguments_of(weighting.reads, optional=True))

    def init_fn(params: optax.Params) -> WeightingState | GroupsState:
        contract.start(params)
        none, inner = jnp.zeros(num_tasks, jnp.float32), weighting.init()
        if group is None:
            return varying_like(WeightingState(none, inner), params)
        number = len(_members(name, group, params))
        copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (number, *jnp.shape(x))), (none, inner))
        return varying_like(GroupsState(*copies), params)

    def update_fn(
        task_gradients: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, Any]:
        task_gradients = unwrapped(task_gradients)
        contract.check_step(task_gradients, params, extra)
        mask = _checks.check_mask(name, num_tasks, task_mask)
        inside = weighting.keep is not None
        members = None if group is None else _members(name, group, task_gradients)

        def look() -> tuple[Array, Array, Any]:
            # What a branch gathers is not known outside of it.
            apart = inside and _is_lazy(task_gradients)
            asked = task_gradients.apart() if apart else task_gradients
            given = Given(name, num_tasks, asked, mask, extra, weighting.norm_mask)
            if members is None:
                return weigh(weighting, gather_evidence(weighting.reads, given), state)
            gathered = [
                gather_evidence(weighting.reads, of_group) for of_group in _by_group(given, members)
            ]
            return _of_groups(weigh_groups(gathered, state.inner), state)

        if weighting.keep is None:
            result, weights, state = look()
        else:
            result, weights, state = _look_or_keep(weighting, look, mask, state)
        if task_mask is not None:
            task_gradients = only_present(mask, task_gradients)
        if members is None:
            return _applied(combine_tasks, task_gradients, result, weights), state
        laid: dict[int, Array] = {}
        for leaves, *of_group in zip(members, result, weights, strict=True):
            part = _applied(combine_tasks, _some(task_gradients, leaves), *of_group)
            laid |= zip(leaves, jax.tree.leaves(part), strict=True)
        structure: Any = jax.tree.structure(_tree_of(task_gradients))
        return structure.unflatten([laid[leaf] for leaf in sorted(laid)]), state

    def weigh_groups(gathered: Sequence[Evidence], inner: Any) -> tuple[Array, Array, Any]:
        if any(map(is_traced, jax.tree.leaves((gathered, inner)))):
            return jax.vmap(functools.partial(_weigh_group, weighting))(_stacked(gathered), inner)
        # Without `jit` a function of several groups would be compiled anew in every step.
        one_by_one = [
            _weigh_group(weighting, evidence, jax.tree.map(lambda x, k=k: x[k], inner))
            for k, evidence in enumerate(gathered)
        ]
        return _stacked(one_by_one)

    recipe = Recipe(weighting, combine_tasks, group)
    update_fn.recipe = recipe  # type: ignore[attr-defined]
    return Method(init_fn, update_fn)


def _is_lazy(task_gradients: Any) -> bool:
    return isinstance(task_gradients, TaskGradients)


def _tree_of(task_gradients: Any) -> Any:
    """Returns a tree with the structure of the task gradients."""
    return task_gradients.params if _is_lazy(task_gradients) else task_gradients


def _applied(
    combine_tasks: bool, task_gradients: Any, result: Array, weights: Float[Array, " T"]
) -> Any:
    """Applies weights, or rows of coefficients, to task gradients."""
    if combine_tasks:
        return combine(weights, task_gradients)
    if result.ndim == 1:
        return weigh_rows(weights, task_gradients)
    return mix(result, task_gradients)


def _members(name: str, group: Group, tree: Any) -> list[list[int]]:
    """Returns the numbers of the leaves in each group."""
    members: dict[str, list[int]] = {}
    for number, label in enumerate(group_names(name, _tree_of(tree), group)):
        members.setdefault(label, []).append(number)
    return list(members.values())


def _some(task_gradients: Any, leaves: Sequence[int]) -> Any:
    """Returns the task gradients of some leaves alone."""
    if _is_lazy(task_gradients):
        return task_gradients.some(leaves)
    every = jax.tree.leaves(task_gradients)
    return [every[leaf] for leaf in leaves]


def _by_group(given: Given, members: Sequence[Sequence[int]]) -> list[Given]:
    """Returns what is given of each group alone: task gradients, and those of other batches."""
    tree = _tree_of(given.task_gradients)
    structure: Any = jax.tree.structure(tree)
    stacks = {
        key: hide_leaves(tree, as_stack(value))
        for key, value in given.arguments.items()
        if key in _checks.STACKS and value is not None
    }
    # Those of another structure the check of query gradients will name.
    stacks = {key: rows for key, rows in stacks.items() if jax.tree.structure(rows) == structure}
    return [
        given._replace(
            task_gradients=_some(given.task_gradients, leaves),
            arguments={
                **given.arguments,
                **{key: _some(rows, leaves) for key, rows in stacks.items()},
            },
        )
        for leaves in members
    ]


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *entries: jnp.stack(entries), *trees)


def _weigh_group(weighting: Weighting, evidence: Evidence, inner: Any) -> tuple[Array, Array, Any]:
    before = WeightingState(jnp.zeros(weighting.num_tasks, jnp.float32), inner)
    return weigh(weighting, evidence, before)


def _of_groups(
    weighed: tuple[Array, Array, WeightingState], state: GroupsState
) -> tuple[Array, Array, GroupsState]:
    result, weights, following = weighed
    return result, weights, _settled(GroupsState(*following), state)


def _look_or_keep(
    weighting: Weighting,
    look: Callable[[], tuple[Array, Array, Any]],
    mask: Bool[Array, " T"],
    state: Any,
) -> tuple[Array, Array, Any]:
    """Gathers evidence and weighs where that is due, and keeps what was otherwise."""
    assert weighting.keep is not None
    grouped = isinstance(state, GroupsState)
    keep = functools.partial(weighting.keep, mask)
    due, kept, inner = (jax.vmap(keep) if grouped else keep)(state.inner)
    dtype = jax.eval_shape(look)[0].dtype

    recorded = functools.partial(_recorded, mask)
    result, weights, following = (jax.vmap(recorded) if grouped else recorded)(
        kept.astype(dtype), inner
    )
    # Made in every step, so that one without `jit` compiles nothing in the first that keeps.
    standing = result, weights, _settled(type(state)(*following), state)
    return cond(jnp.any(due), look, lambda: standing)


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
    result = evidence.marked(result)
    result, weights, following = _recorded(evidence.mask, result, inner)
    return result, weights, _settled(following, state)


def _recorded(
    mask: Bool[Array, " T"], result: Array, inner: Any
) -> tuple[Array, Float[Array, " T"], WeightingState]:
    """Gives absent tasks zeros, and records the weights."""
    result = jnp.where(mask if result.ndim == 1 else jnp.outer(mask, mask), result, 0)
    weights = result if result.ndim == 1 else jnp.sum(result, axis=0)
    return result, weights, WeightingState(weights.astype(jnp.float32), inner)


def _settled(following: Any, state: Any) -> Any:
    """Keeps a constant of this step of the type that it had, inside `jax.shard_map`."""
    return jax.tree.map(varying_like, following, state) if varying_axes(state) else following


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
