"""What a weighting may look at in one step, and how each kind of it is gathered: one table."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._gram import ScaledGram, cross_gram, norms, relative, scaled_gram
from mtl_optax._trees import Shared, hide_leaves, shared_leaves
from mtl_optax._unstacked import TaskGradients, as_stack

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
        next_losses: `(T,)` losses of the batch of the step before at the present parameters; those
            of absent tasks are one. They may be anything for a task that was absent in that step,
            so that, unlike all else, they can hold a NaN and the update be finite.
        cross: `(T, T)` inner products of the task gradients of two batches, each row divided by its
            scale: `<q_s, r_t> = cross_unit cross_scale_s cross_st`, with `q` the query gradients
            and `r` the second query gradients where `update` is given both, and otherwise `q` the
            task gradients and `r` the query gradients. The largest entry of each row lies in [1, 2)
            by magnitude, or all are zero, as those of absent tasks.
        cross_scale: `(T,)`, powers of two, the largest of them one; one for rows of zeros.
        cross_unit: `()`, a power of two; zero or infinity where products leave the dtype's range.
    """

    mask: Bool[Array, " T"]
    gram: Float[Array, "T T"] = _UNREAD
    scale: Float[Array, " T"] = _UNREAD
    losses: Float[Array, " T"] = _UNREAD
    norms: Float[Array, " T"] = _UNREAD
    next_losses: Float[Array, " T"] = _UNREAD
    cross: Float[Array, "T T"] = _UNREAD
    cross_scale: Float[Array, " T"] = _UNREAD
    cross_unit: Float[Array, ""] = _UNREAD

    def relative(self) -> tuple[Float[Array, " T"], Float[Array, ""]]:
        """Returns the scales as shares of the largest, `(T,)`, and the largest, `()`.

        Where weights do not change when all gradients are scaled, the shares are all they need.
        """
        return relative(ScaledGram(self.gram, self.scale))

    def for_gradients(self, coefficients: Float[Array, "T T"]) -> Float[Array, "T T"]:
        """Returns coefficients for the gradients, of rows that were divided by `scale` likewise."""
        ratios = jnp.expand_dims(self.scale, 1) / jnp.expand_dims(self.scale, 0)
        # A ratio can be infinite, where it counts for nothing.
        return jnp.where(coefficients == 0, 0, coefficients * ratios)

    def marked(self, result: Array) -> Array:
        """Returns the result, and NaN for it where what it was made of is not finite."""
        asked = [entry for kind in KINDS.values() for entry in kind.finite]
        values = [tuple.__getitem__(self, Evidence._fields.index(entry)) for entry in asked]
        for value in values:
            if value is not None:
                result = jnp.where(jnp.all(jnp.isfinite(value)), result, jnp.nan)
        return result

    def __getattribute__(self, name: str) -> Any:
        value = tuple.__getattribute__(self, name)
        if value is None and name in Evidence._fields:
            read = next(kind for kind, of in KINDS.items() if name in of.entries)
            raise UnreadEvidenceError(
                f"evidence.{name} is not gathered, for {read!r} is not among the weighting's "
                f"reads. Declare it: reads=frozenset({{{read!r}}})."
            )
        return value


class Given(NamedTuple):
    """What one step gives to gather evidence from.

    Attributes:
        name: the method, for error messages.
        num_tasks: the number T of tasks.
        task_gradients: a stack, or a `TaskGradients`.
        mask: `(T,)` bool.
        arguments: the extra arguments of `update`.
        norm_mask: the leaves whose norms are read; all for None.
    """

    name: str
    num_tasks: int
    task_gradients: Any
    mask: Bool[Array, " T"]
    arguments: Mapping[str, Any]
    norm_mask: Shared | None = None


class Kind(NamedTuple):
    """One kind of evidence.

    Attributes:
        entries: the fields of `Evidence` that it fills.
        gather: makes these entries.
        arguments: the extra arguments of `update` that it cannot do without.
        optional: those that it uses where they are given.
        finite: the entries in which a number that is not finite makes the whole update NaN.
    """

    entries: tuple[str, ...]
    finite: tuple[str, ...]
    gather: Callable[[Given], tuple[Array, ...]]
    arguments: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


def _gram(given: Given) -> tuple[Array, ...]:
    return tuple(scaled_gram(given.task_gradients, given.mask))


def _losses_of(argument: str) -> Callable[[Given], tuple[Array, ...]]:
    def gather(given: Given) -> tuple[Array, ...]:
        losses = given.arguments.get(argument)
        if losses is None and argument == "task_losses" and _is_lazy(given.task_gradients):
            losses = given.task_gradients.losses
        losses = _checks.check_losses(given.name, given.num_tasks, losses, argument)
        return (jnp.where(given.mask, losses, 1.0),)

    return gather


def _norms(given: Given) -> tuple[Array, ...]:
    if _is_lazy(given.task_gradients):
        return (given.task_gradients.norms(given.mask, given.norm_mask),)
    leaves = jax.tree.leaves(given.task_gradients)
    if given.norm_mask is not None:
        chosen = shared_leaves(
            given.name, given.norm_mask, given.task_gradients, argument="norm_mask"
        )
        picks = jax.tree.leaves(chosen)
        leaves = [leaf for leaf, pick in zip(leaves, picks, strict=True) if pick]
    return (jnp.where(given.mask, norms(leaves), 0.0),)


def _cross(given: Given) -> tuple[Array, ...]:
    second = given.arguments.get("second_query_gradients")
    left, right = given.arguments.get("query_gradients"), second
    rows = given.task_gradients
    like = jax.tree.map(
        lambda g: jax.ShapeDtypeStruct(jnp.shape(g)[1:], jnp.result_type(g)),
        rows.shapes if _is_lazy(rows) else rows,
    )
    left = checked_query(given.name, given.num_tasks, left, like)
    if second is None:
        left, right = as_stack(rows), left
    else:
        right = checked_query(
            given.name, given.num_tasks, right, like, argument="second_query_gradients"
        )
    return tuple(cross_gram(left, right, given.mask))


def _is_lazy(task_gradients: Any) -> bool:
    return isinstance(task_gradients, TaskGradients)


KINDS: Mapping[str, Kind] = {
    "gram": Kind(("gram", "scale"), ("gram", "scale"), _gram),
    "losses": Kind(("losses",), ("losses",), _losses_of("task_losses"), ("task_losses",)),
    "norms": Kind(("norms",), ("norms",), _norms),
    "next_losses": Kind(("next_losses",), (), _losses_of("next_losses"), ("next_losses",)),
    "cross": Kind(
        ("cross", "cross_scale", "cross_unit"),
        ("cross",),
        _cross,
        ("query_gradients",),
        ("second_query_gradients",),
    ),
}


def gather_evidence(reads: Iterable[str], given: Given) -> Evidence:
    """Computes what a weighting reads."""
    entries: dict[str, Array] = {}
    for read in KINDS:
        if read in reads:
            entries |= zip(KINDS[read].entries, KINDS[read].gather(given), strict=True)
    return Evidence(given.mask, **entries)


def arguments_of(reads: Iterable[str], *, optional: bool = False) -> frozenset[str]:
    """Returns the extra arguments of `update` that evidence is made of, the optional ones too."""
    kinds = [KINDS[read] for read in KINDS if read in reads]
    needed = {argument for kind in kinds for argument in kind.arguments}
    return frozenset(needed | {a for kind in kinds for a in kind.optional if optional})


def checked_query(
    name: str, num_tasks: int, gradients: Any | None, like: Any, argument: str = "query_gradients"
) -> Any:
    """Returns the leaves of the task gradients of another batch that a method sees, or raises.

    Args:
        name: the method.
        num_tasks: the number T of tasks.
        gradients: what `update` was given.
        like: a tree of the shapes of the parameters that the method sees.
        argument: what `update` calls them.
    """
    if gradients is None:
        raise ValueError(
            f"{name}: {argument} is missing, and this method reads it. Call "
            f"tx.update(task_gradients, state, params, {argument}=...) with the task gradients "
            "of a second batch, at the same params and of the same shapes as task_gradients."
        )
    gradients = hide_leaves(like, as_stack(gradients))
    _checks.check_task_gradients(name, num_tasks, gradients, like, argument=argument)
    return gradients
