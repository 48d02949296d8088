"""From a method's name to what a training step needs."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

import mtl_optax as mtl
from benchmarks.methods import ADATASK_ON, ADVERSARIAL, EQUAL_WEIGHTING, SINGLE_TASK
from benchmarks.train.problem import Adversarial, Problem, single_task


class Update(Protocol):
    """One step of a training, less adding the updates to the parameters."""

    def __call__(
        self, rate: Any, params: PyTree, state: PyTree, batch: PyTree, query: PyTree | None
    ) -> tuple[Float[Array, " t"], PyTree, PyTree]:
        """Learning rate, parameters, state and batches to losses, updates and state."""


class State(NamedTuple):
    """What a training keeps beside the parameters."""

    optimizer: PyTree
    """Of method and optimiser."""
    statistics: PyTree
    """Running ones of the model, if it has any."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How one method trains on one problem; static under ``jax.jit``.

    The learning rate comes with each step, so that one compiled program serves a whole grid.
    """

    problem: Problem
    init: Callable[[PyTree], PyTree]
    """Parameters to the first state."""
    update: Update
    query: bool = False
    """Whether each step also takes a batch of the query split."""
    statistics: Callable[[PyTree], PyTree] = lambda state: None
    """The model's running statistics in a state."""


def recipe(
    method: str, problem: Problem, hyperparameters: Mapping[str, Any] | None = None
) -> Recipe:
    """How a baseline or a method of the registry trains, with the problem's optimiser.

    Methods that read nothing beyond the losses take one backward pass, of the weighted loss; all
    others see the task gradients of the shared parameters. Heads follow each paper's rule.

    Args:
        method: one of `methods.BASELINES`, of `methods.ADATASK_ON`, of `methods.ADVERSARIAL` or of
            the registry.
        problem: what to train on.
        hyperparameters: those of the method that are not to be the library's defaults.
    """
    if method == SINGLE_TASK:
        return _plain(single_task(problem))
    if method == EQUAL_WEIGHTING:
        return _plain(problem)
    if method in ADVERSARIAL:
        assert problem.adversarial is not None
        return _adversarial(problem.adversarial(), ADVERSARIAL[method])
    modified = ADATASK_ON.get(method)
    info = mtl.method_info(modified or method)
    tasks = problem.num_tasks
    given = dict(hyperparameters or {})
    if "steps_per_epoch" in inspect.signature(info.factory).parameters:
        given = {"steps_per_epoch": problem.steps_per_epoch, **given}
    if info.is_optimizer or modified:

        def optimizer(rate: Any) -> optax.GradientTransformationExtraArgs:
            inner = problem.optimizer(rate)
            if modified:
                rows = mtl.get(modified, tasks, combine=False, **given)
                transform = optax.chain(rows, mtl.adatask(tasks, inner))
            else:
                transform = own_optimizer(method, tasks, inner, rate, given)
            return mtl.on_shared(transform, problem.shared, heads=inner)

        return _gathered(problem, optimizer)
    stacked = not info.reads <= {"losses", "next_losses"}
    whose = _head_tasks(problem) if stacked and info.heads == "weighted" else None
    on_shared = mtl.on_shared(
        mtl.get(method, tasks, **given), problem.shared, info.heads, head_tasks=whose
    )
    return _gathered(
        problem,
        lambda rate: optax.chain(on_shared, problem.optimizer(rate)),
        stacked=stacked,
        query=bool(info.update_arguments & {"query_gradients", "next_losses"}),
    )


def own_optimizer(
    method: str,
    num_tasks: int,
    optimizer: optax.GradientTransformation,
    learning_rate: Any,
    hyperparameters: Mapping[str, Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A method that takes the optimiser's place: made of the optimiser, or of its rate alone."""
    takes_optimizer = "optimizer" in mtl.method_info(method).arguments(num_tasks)
    step = {"optimizer": optimizer} if takes_optimizer else {"learning_rate": learning_rate}
    return mtl.get(method, num_tasks, **{**step, **(hyperparameters or {})})


def default_hyperparameters(method: str) -> dict[str, Any]:
    """Those of a method that a file can hold, at the library's defaults."""
    factory = mtl.method_info(ADATASK_ON.get(method, method)).factory
    parameters = inspect.signature(factory).parameters.values()
    return {
        p.name: p.default for p in parameters if isinstance(p.default, bool | int | float | str)
    }


def _head_tasks(problem: Problem) -> PyTree | None:
    """Whose each leaf of the parameters is, where they do not tell by a task axis."""
    if (owner := problem.task_of) is None:
        return None
    return jax.tree_util.tree_map_with_path(
        lambda path, _: 0 if problem.shared(path) else owner(path),
        problem.init(jax.random.key(0)),
    )


# An optimiser's state does not depend on its learning rate: any will do to make the first one.
_ANY_RATE = 1.0


def _plain(problem: Problem) -> Recipe:
    """The gradient of the summed loss, without this library."""

    def summed(params: PyTree, batch: PyTree, statistics: PyTree) -> Any:
        losses, statistics = problem.losses_and_statistics(params, batch, statistics)
        return losses.sum(), (losses, statistics)

    return _descending(problem, summed)


def _descending(problem: Problem, total: Callable[..., Any]) -> Recipe:
    """The gradient of one number.

    Args:
        problem: what to train on.
        total: parameters, batch and statistics to that number, beside it the losses of the tasks
            and the next statistics.
    """

    def update(rate: Any, params: PyTree, state: State, batch: PyTree, query: Any) -> Any:
        gradient = jax.grad(total, has_aux=True)
        grads, (losses, statistics) = gradient(params, batch, state.statistics)
        updates, kept = problem.optimizer(rate).update(grads, state.optimizer, params)
        return losses, updates, State(kept, statistics)

    return _recipe(problem, problem.optimizer(_ANY_RATE), update)


def _gathered(
    problem: Problem,
    optimizer: Callable[[Any], optax.GradientTransformation],
    *,
    stacked: bool = True,
    query: bool = False,
) -> Recipe:
    """Task gradients, stacked or not; with ``query`` also those of a batch of the query split.

    And its losses, which are held out as CoBa wants them.
    """
    gather = problem.value_and_task_grads
    if not stacked:
        gather = mtl.value_and_task_grads(
            problem.losses_and_statistics, has_aux=True, shared=problem.shared, stacked=False
        )

    def update(rate: Any, params: PyTree, state: State, batch: PyTree, query: Any) -> Any:
        (losses, statistics), grads = gather(params, batch, state.statistics)
        extra: dict[str, Any] = {}
        if query is not None:
            (unseen, _), held_out = problem.value_and_task_grads(params, query, state.statistics)
            extra = {"query_gradients": held_out, "next_losses": unseen}
        step = optax.with_extra_args_support(optimizer(rate)).update
        updates, kept = step(grads, state.optimizer, params, task_losses=losses, **extra)
        return losses, updates, State(kept, statistics)

    return _recipe(problem, optimizer(_ANY_RATE), update, query)


def _recipe(
    problem: Problem, optimizer: optax.GradientTransformation, update: Update, query: bool = False
) -> Recipe:
    return Recipe(
        problem,
        lambda params: State(optimizer.init(params), problem.statistics),
        update,
        query,
        lambda state: state.statistics,
    )


def _adversarial(made: Adversarial, method: str) -> Recipe:
    """The sum of the losses and of what is added; or the encoder under a method that weights tasks.

    Such weights leave the added terms alone, which then count as their mean over the tasks, and all
    leaves but the encoder's: those get the plain gradient.
    """
    problem = made.problem

    def summed(params: PyTree, batch: PyTree, statistics: PyTree) -> Any:
        losses, added = made.objective(params, batch)
        return losses.sum() + added.sum(), (losses, statistics)

    if method == EQUAL_WEIGHTING:
        return _descending(problem, summed)
    weighted = mtl.on_shared(mtl.get(method, problem.num_tasks), made.encoder)
    gather = mtl.value_and_task_grads(
        lambda params, batch: made.objective(params, batch)[0], shared=made.encoder, stacked=False
    )

    def update(rate: Any, params: PyTree, state: PyTree, batch: PyTree, query: Any) -> Any:
        losses, grads = gather(params, batch)
        descent, weighting = weighted.update(grads, state[0], params, task_losses=losses)
        added = jax.grad(lambda params: made.objective(params, batch)[1].mean())(params)
        total = jax.tree.map(jnp.add, descent, added)
        updates, optimizer = problem.optimizer(rate).update(total, state[1], params)
        return losses, updates, (weighting, optimizer)

    def init(params: PyTree) -> PyTree:
        return weighted.init(params), problem.optimizer(_ANY_RATE).init(params)

    return Recipe(problem, init, update)
