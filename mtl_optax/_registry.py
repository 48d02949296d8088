"""One row per method. Tests, the README's table and the benchmarks are driven by it."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import optax

from mtl_optax import _checks
from mtl_optax._around.on_shared import Heads
from mtl_optax._methods.adatask import adatask
from mtl_optax._methods.bandit_mtl import bandit_mtl
from mtl_optax._methods.cagrad import cagrad
from mtl_optax._methods.dwa import dwa
from mtl_optax._methods.emtl import emtl
from mtl_optax._methods.equal import mean_tasks, sum_tasks
from mtl_optax._methods.getmtl import getmtl
from mtl_optax._methods.graddrop import graddrop
from mtl_optax._methods.gradnorm import gradnorm
from mtl_optax._methods.imtl import imtl, imtl_g, imtl_l
from mtl_optax._methods.layerwise_adatask import layerwise_adatask
from mtl_optax._methods.meta_weighting import meta_weighting
from mtl_optax._methods.mgda import mgda
from mtl_optax._methods.nash_mtl import nash_mtl
from mtl_optax._methods.pareto_mtl import pareto_mtl
from mtl_optax._methods.pcgrad import pcgrad
from mtl_optax._methods.rlw import rlw
from mtl_optax._methods.scale_invariant import scale_invariant
from mtl_optax._methods.tchebycheff import tchebycheff
from mtl_optax._methods.uw import uw

Read = Literal["gram", "norms", "losses", "query gradients", "coordinates"]

PROPERTIES: Mapping[str, str] = {
    "linear": "the update is a weighted sum of the task gradients",
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
            (their lengths), "losses", "query gradients" (of a second batch), or "coordinates"
            (the gradients entry by entry).
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
    scale: Literal["sum", "mean", "unit", "step", "own"]
    properties: frozenset[str]
    heads: Heads | optax.GradientTransformation = "unweighted"
    is_optimizer: bool = False
    ambiguous: Literal["linearly dependent", "affinely dependent"] | None = None
    arguments: Callable[[int], dict[str, Any]] = lambda num_tasks: {}

    @property
    def update_arguments(self) -> frozenset[str]:
        """The extra arguments that `update` cannot do without: task_losses, query_gradients."""
        named = {"losses": "task_losses", "query gradients": "query_gradients"}
        return frozenset(name for read, name in named.items() if read in self.reads)

    @property
    def has_task_weights(self) -> bool:
        """Whether the state has weights, for `task_weights` and `on_shared(heads="weighted")`."""
        return "linear" in self.properties

    @property
    def is_weighting(self) -> bool:
        """Whether `streamed_value_and_grad` and `feature_value_and_grad` take the method.

        It is made from a weighting then, and `weighted_value_and_grad` takes those of them that
        read the losses at most.
        """
        return self.reads <= {"gram", "norms", "losses"}

    @property
    def cost(self) -> str:
        """What a step costs beyond the forward pass, in backward passes and optimiser states."""
        if self.reads <= {"losses"}:
            return "1 backward"
        passes = "2T backward" if "query gradients" in self.reads else "T backward"
        return f"{passes}, own state" if self.is_optimizer else passes


_GRAM_METHOD = frozenset({"linear", "rotation"})
_ADAM = optax.adam(1e-3)

_METHODS = (
    MethodInfo(
        "sum_tasks",
        sum_tasks,
        "Equal weighting: the gradient of the summed loss.",
        "baseline",
        frozenset(),
        "sum",
        _GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous", "conic"},
    ),
    MethodInfo(
        "mean_tasks",
        mean_tasks,
        "Equal weighting: the gradient of the mean loss.",
        "baseline",
        frozenset(),
        "mean",
        _GRAM_METHOD
        | {"deterministic", "equivariant", "one task", "homogeneous", "convex", "conic"},
    ),
    MethodInfo(
        "rlw",
        rlw,
        "Draws new task weights at every step.",
        "Lin et al. 2022, https://arxiv.org/abs/2111.10603",
        frozenset(),
        "mean",
        _GRAM_METHOD | {"one task", "homogeneous", "convex", "conic"},
        heads="weighted",
    ),
    MethodInfo(
        "mgda",
        mgda,
        "The shortest vector in the convex hull of the task gradients.",
        "Sener and Koltun 2018, https://arxiv.org/abs/1810.04650",
        frozenset({"gram"}),
        "mean",
        _GRAM_METHOD
        | {
            "deterministic",
            "equivariant",
            "one task",
            "homogeneous",
            "non-conflicting",
            "convex",
            "conic",
        },
    ),
    MethodInfo(
        "pcgrad",
        pcgrad,
        "Projects each task's gradient off those it conflicts with.",
        "Yu et al. 2020, https://arxiv.org/abs/2001.06782",
        frozenset({"gram"}),
        "sum",
        _GRAM_METHOD | {"one task", "homogeneous", "conic"},
    ),
    MethodInfo(
        "cagrad",
        cagrad,
        "The best worst-task improvement within a ball around the mean gradient.",
        "Liu et al. 2021, https://arxiv.org/abs/2110.14048",
        frozenset({"gram"}),
        "mean",
        _GRAM_METHOD | {"deterministic", "equivariant", "homogeneous", "conic"},
    ),
    MethodInfo(
        "getmtl",
        getmtl,
        "CAGrad's trade-off on gradients weighted by MGDA, in a cone around the mean.",
        "Chai et al. 2023, https://aclanthology.org/2023.acl-long.144/",
        frozenset({"gram"}),
        "mean",
        _GRAM_METHOD | {"deterministic", "equivariant", "conic"},
        ambiguous="linearly dependent",
    ),
    MethodInfo(
        "imtl_g",
        imtl_g,
        "Weights gradients so that the update projects equally on each of them.",
        "Liu et al. 2021, https://openreview.net/forum?id=IMPnRXEWpvr",
        frozenset({"gram"}),
        "mean",
        _GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous"},
    ),
    MethodInfo(
        "nash_mtl",
        nash_mtl,
        "The bargaining solution, which maximises the product of the tasks' gains.",
        "Navon et al. 2022, https://arxiv.org/abs/2202.01017",
        frozenset({"gram"}),
        "unit",
        _GRAM_METHOD | {"deterministic", "equivariant", "non-conflicting", "conic"},
    ),
    MethodInfo(
        "scale_invariant",
        scale_invariant,
        "Descends the sum of log losses, whatever their scales.",
        "Navon et al. 2022, https://arxiv.org/abs/2202.01017",
        frozenset({"losses"}),
        "sum",
        _GRAM_METHOD | {"deterministic", "equivariant", "homogeneous", "conic"},
        heads="weighted",
    ),
    MethodInfo(
        "dwa",
        dwa,
        "Weights losses by how slowly they fall from epoch to epoch.",
        "Liu et al. 2019, https://arxiv.org/abs/1803.10704",
        frozenset({"losses"}),
        "sum",
        _GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous", "conic"},
        heads="weighted",
    ),
    MethodInfo(
        "uw",
        uw,
        "Weights losses by a learned uncertainty of each task.",
        "Kendall et al. 2018, https://arxiv.org/abs/1705.07115",
        frozenset({"losses"}),
        "sum",
        _GRAM_METHOD | {"deterministic", "equivariant", "homogeneous", "conic"},
        heads="weighted",
    ),
    MethodInfo(
        "imtl_l",
        imtl_l,
        "Weights losses by learned scales that keep all of them at one.",
        "Liu et al. 2021, https://openreview.net/forum?id=IMPnRXEWpvr",
        frozenset({"losses"}),
        "sum",
        _GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous", "conic"},
        heads="weighted",
    ),
    MethodInfo(
        "imtl",
        imtl,
        "IMTL-G on the gradients that IMTL-L has scaled.",
        "Liu et al. 2021, https://openreview.net/forum?id=IMPnRXEWpvr",
        frozenset({"gram", "losses"}),
        "mean",
        _GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous"},
    ),
    MethodInfo(
        "pareto_mtl",
        pareto_mtl,
        "Descends towards the trade-off nearest to one of several preference vectors.",
        "Lin et al. 2019, https://arxiv.org/abs/1912.12854",
        frozenset({"gram", "losses"}),
        "sum",
        _GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous"},
        arguments=lambda num_tasks: {
            "preferences": np.concatenate([np.ones((1, num_tasks)), np.eye(num_tasks)]),
            "index": 0,
        },
    ),
    MethodInfo(
        "graddrop",
        graddrop,
        "Keeps the gradients of one sign at each coordinate, drawn at random.",
        "Chen et al. 2020, https://arxiv.org/abs/2010.06808",
        frozenset({"coordinates"}),
        "sum",
        frozenset({"equivariant", "one task", "homogeneous"}),
    ),
    MethodInfo(
        "bandit_mtl",
        bandit_mtl,
        "Weights losses by an adversary within a divergence of equal weights.",
        "Mao et al. 2021, https://aclanthology.org/2021.acl-long.428/",
        frozenset({"losses"}),
        "mean",
        _GRAM_METHOD
        | {"deterministic", "equivariant", "one task", "homogeneous", "convex", "conic"},
        heads="weighted",
    ),
    MethodInfo(
        "tchebycheff",
        tchebycheff,
        "Descends the largest weighted loss alone.",
        "Mao et al. 2020, https://aclanthology.org/2020.acl-main.388/",
        frozenset({"losses"}),
        "mean",
        _GRAM_METHOD
        | {"deterministic", "equivariant", "one task", "homogeneous", "convex", "conic"},
    ),
    MethodInfo(
        "gradnorm",
        gradnorm,
        "Learns weights that bring gradient norms to the tasks' training rates.",
        "Chen et al. 2018, https://arxiv.org/abs/1711.02257",
        frozenset({"norms", "losses"}),
        "sum",
        _GRAM_METHOD | {"deterministic", "equivariant", "one task", "conic"},
        heads="weighted",
    ),
    MethodInfo(
        "emtl",
        emtl,
        "Evens out the tasks' loss per gradient norm, on the weights of MGDA.",
        "Yuan and Zhang 2023, https://arxiv.org/abs/2306.09373",
        frozenset({"gram", "losses"}),
        "own",
        # Not "rotation": where several weightings reach MGDA's shortest vector, it is rounding
        # that chooses between them, and here, unlike in MGDA, the update shows which.
        frozenset({"linear", "deterministic", "equivariant", "conic"}),
        heads="weighted",
        ambiguous="affinely dependent",
    ),
    MethodInfo(
        "meta_weighting",
        meta_weighting,
        "Learns weights whose training step lowers all held-out losses.",
        "Mao et al. 2022, https://aclanthology.org/2022.findings-acl.271/",
        frozenset({"query gradients"}),
        "mean",
        _GRAM_METHOD | {"deterministic", "equivariant"},
        heads="weighted",
    ),
    MethodInfo(
        "adatask",
        adatask,
        "A state of the optimiser for each task, so that none dominates the step size.",
        "Yang et al. 2023, https://arxiv.org/abs/2211.15055",
        frozenset({"coordinates"}),
        "step",
        frozenset({"deterministic", "equivariant"}),
        heads=_ADAM,
        is_optimizer=True,
        arguments=lambda num_tasks: {"optimizer": _ADAM},
    ),
    MethodInfo(
        "layerwise_adatask",
        layerwise_adatask,
        "AdaTask by layers: one joint state, shared out among the tasks in each layer.",
        "Yang et al. 2023, https://arxiv.org/abs/2211.15055",
        frozenset({"coordinates"}),
        "step",
        frozenset({"deterministic", "equivariant"}),
        heads=optax.rmsprop(1e-3, decay=0.99),
        is_optimizer=True,
    ),
)

METHODS: Mapping[str, MethodInfo] = {info.name: info for info in _METHODS}


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
