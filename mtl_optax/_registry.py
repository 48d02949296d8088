"""The table of methods, a row each. Tests, the README's table and the benchmarks are driven by it.

A row stands beside its method, as the arguments of `register`.
"""

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import optax

from mtl_optax import _checks
from mtl_optax._around.on_shared import Heads
from mtl_optax._evidence import KINDS, arguments_of

Read = Literal["gram", "norms", "losses", "next_losses", "cross", "query gradients", "coordinates"]
Scale = Literal["sum", "mean", "unit", "step", "own"]
Ambiguous = Literal["linearly dependent", "affinely dependent"]
Arguments = Callable[[int], dict[str, Any]]
Factory = TypeVar("Factory", bound=Callable[..., optax.GradientTransformationExtraArgs])

PROPERTIES: Mapping[str, str] = {
    "linear": "the update is a weighted sum of the task gradients",
    "averaged": "the update is a weighted sum of averages of the task gradients over the steps",
    "deterministic": "the same input gives the same update",
    "equivariant": "permuting the tasks permutes the weights and leaves the update alone",
    "one task": "a single task's update is its gradient",
    "homogeneous": "scaling all gradients by s > 0 scales the update by s",
    "non-conflicting": "the update has no negative inner product with any task's gradient",
    "convex": "the weights are non-negative and sum to one",
    "conic": "the weights are non-negative",
    "rotation": "rotating the gradient space rotates the update",
}


@dataclasses.dataclass(frozen=True)
class MethodInfo:
    """What the library knows about a method.

    Attributes:
        name: the factory's name.
        factory: `factory(num_tasks, **hyperparameters)`.
        summary: one line on what it does.
        source: authors, year and address of the paper.
        reads: what the update depends on: "gram" (inner products of the task gradients), "norms"
            (their lengths), "losses", "next_losses" (those of the batch before at the present
            parameters), "cross" (inner products of the gradients of two batches), "query gradients"
            (of a second batch), or "coordinates" (the gradients entry by entry).
        scale: "sum" if T equal gradients `g` give `T g`, "mean" if they give about `g`, "unit" if
            the update's length does not depend on theirs, "step" if the updates are an optimiser's
            steps, "own" if none of these.
        properties: names out of `PROPERTIES` that hold at the default hyper-parameters.
        heads: what the paper does with task-specific parameters, for `on_shared`; of a method that
            is an optimiser, one for the heads, with the learning rate that `get` gives the method.
        is_optimizer: whether the updates are final steps, the learning rate included, so that no
            optimiser may follow: it would take them for gradients and climb.
        ambiguous: the task gradients, if any, for which the update depends on weights that are not
            unique, so that the order of the tasks and rounding choose: "linearly dependent" ones
            where weights are free, "affinely dependent" ones where they sum to one. "equivariant"
            holds for all others.
        arguments: makes the hyper-parameters, beyond `num_tasks`, that have no default; `get` fills
            them in.
    """

    name: str
    factory: Callable[..., optax.GradientTransformationExtraArgs]
    summary: str
    source: str
    reads: frozenset[Read]
    scale: Scale
    properties: frozenset[str]
    heads: Heads | optax.GradientTransformation = "unweighted"
    is_optimizer: bool = False
    ambiguous: Ambiguous | None = None
    arguments: Arguments = lambda num_tasks: {}

    @property
    def update_arguments(self) -> frozenset[str]:
        """The extra arguments that `update` cannot do without: task_losses, query_gradients."""
        query = {"query_gradients"} if "query gradients" in self.reads else set()
        return arguments_of(self.reads) | query

    @property
    def has_task_weights(self) -> bool:
        """Whether the state has weights, for `task_weights` and `on_shared(heads="weighted")`."""
        return bool({"linear", "averaged"} & self.properties)

    @property
    def is_weighting(self) -> bool:
        """Whether the method is made from a weighting.

        Of a `TaskGradients` it asks what it reads then, and never the stack: one that reads the
        losses at most costs one backward pass.
        """
        return self.reads <= KINDS.keys()

    @property
    def cost(self) -> str:
        """What a step costs beyond the forward pass, in backward passes and optimiser states."""
        if self.reads <= {"losses", "next_losses"}:
            return "1 backward"
        passes = "2T backward" if self.reads & {"query gradients", "cross"} else "T backward"
        return f"{passes}, own state" if self.is_optimizer else passes


_ROWS: dict[str, MethodInfo] = {}
METHODS: Mapping[str, MethodInfo] = types.MappingProxyType(_ROWS)

# What every method has whose weights follow from the Gram matrix and the losses.
GRAM_METHOD = frozenset({"linear", "rotation"})


def register(
    summary: str,
    source: str,
    *,
    reads: frozenset[Read],
    scale: Scale,
    properties: frozenset[str],
    heads: Heads | optax.GradientTransformation = "unweighted",
    is_optimizer: bool = False,
    ambiguous: Ambiguous | None = None,
    arguments: Arguments = lambda num_tasks: {},
) -> Callable[[Factory], Factory]:
    """Adds a factory to the table, under its own name; the arguments are `MethodInfo`'s."""

    def add(factory: Factory) -> Factory:
        _ROWS[factory.__name__] = MethodInfo(
            factory.__name__,
            factory,
            summary,
            source,
            reads,
            scale,
            properties,
            heads,
            is_optimizer,
            ambiguous,
            arguments,
        )
        return factory

    return add


def list_methods() -> list[str]:
    """Returns the names of all methods.

    Example:
        >>> import mtl_optax as mtl
        >>> "pcgrad" in mtl.list_methods()
        True
    """
    return list(METHODS)


def method_info(name: str) -> MethodInfo:
    """Returns the registry's row of a method, or raises a ValueError that suggests a name."""
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(
            f"mtl_optax has no method {name!r}.{_checks.did_you_mean(name, METHODS)} "
            f"Methods: {', '.join(METHODS)}."
        )
    return METHODS[name]


def get(
    name: str, num_tasks: int, *arguments: Any, **hyperparameters: Any
) -> optax.GradientTransformationExtraArgs:
    """Makes a method from its name.

    Args:
        name: one of `list_methods()`.
        num_tasks: the number T of tasks.
        *arguments: what the factory takes by position, such as AdaTask's optimiser.
        **hyperparameters: keyword arguments of the factory. Those that have no default there
            (AdaTask's optimiser: `optax.adam(1e-3)`) are filled in from the registry.

    Returns:
        `factory(num_tasks, *arguments, **hyperparameters)`.

    Raises:
        ValueError: for an unknown name or hyper-parameter, with the nearest one.

    Example:
        >>> import mtl_optax as mtl
        >>> tx = mtl.get("cagrad", 3, c=0.4)
        >>> mtl.get("cagard", 3)
        Traceback (most recent call last):
        ...
        ValueError: mtl_optax has no method 'cagard'. Did you mean 'cagrad'? Methods: ...
    """
    info = method_info(name)
    signature = inspect.signature(info.factory)
    accepted = signature.parameters
    for key in hyperparameters:
        if key not in accepted:
            raise ValueError(
                f"{name} has no hyper-parameter {key!r}."
                f"{_checks.did_you_mean(key, accepted)} It takes: "
                f"{', '.join(p for p in accepted if p != 'num_tasks')}."
            )
    try:
        given = signature.bind_partial(num_tasks, *arguments, **hyperparameters)
    except TypeError as error:
        raise TypeError(f"{name}: {error}. It is {name}{signature}.") from error
    needed = {k: v for k, v in info.arguments(num_tasks).items() if k not in given.arguments}
    return info.factory(*given.args, **given.kwargs, **needed)
