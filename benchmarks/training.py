"""Train one method on one problem, several seeds at once.

Nothing here knows a data set, a model or a file: a suite hands over a `Problem`, `recipe` turns
a method's name into what a step needs, and `train` runs it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

import mtl_optax as mtl

SINGLE_TASK = "single_task"
EQUAL_WEIGHTING = "equal_weighting"
BASELINES = {
    SINGLE_TASK: "One network for each task, trained on its own: the yardstick.",
    EQUAL_WEIGHTING: "One network on the plain sum of the losses: one backward pass, no method.",
}


@dataclass(frozen=True, eq=False)
class Problem:
    """What a suite provides: data, model, loss and scores.

    Compared by identity, so that a problem can be a static argument of ``jax.jit``.
    """

    tasks: tuple[str, ...]
    """Names of the tasks, in the order of every task axis."""
    score: str
    """What `scores` measures, such as "accuracy": a fraction, higher is better."""
    init: Callable[[PRNGKeyArray], PyTree]
    """Key to parameters."""
    shared: Callable[[Any], bool]
    """Whether the leaf at a key path belongs to every task."""
    sample: Callable[[PRNGKeyArray, PyTree], PyTree]
    """Key and training data to a batch."""
    losses: Callable[[PyTree, PyTree], Float[Array, " t"]]
    """Parameters and batch to the mean loss of each task."""
    scores: Callable[[PyTree, PyTree], Float[Array, " t"]]
    """Parameters and a data split to the score of each task."""
    train: PyTree
    validation: PyTree
    test: PyTree
    probe: PyTree
    """One fixed batch of training data, on which the task gradients are compared."""
    config: Mapping[str, Any]
    """Everything that made this problem, for the record."""

    @property
    def num_tasks(self) -> int:
        """The length of every task axis."""
        return len(self.tasks)


class Update(Protocol):
    """One step of a training, less adding the updates to the parameters."""

    def __call__(
        self, params: PyTree, state: PyTree, batch: PyTree, another: Callable[[], PyTree]
    ) -> tuple[Float[Array, " t"], PyTree, PyTree]:
        """Parameters, state, a batch and a way to draw another to losses, updates and state."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How one method trains on one problem; static under ``jax.jit``."""

    problem: Problem
    init: Callable[[PyTree], PyTree]
    """Parameters to the first state."""
    update: Update


class Curves(NamedTuple):
    """What was recorded of one seed at ``p`` points, or of ``s`` seeds with a leading axis.

    Losses and weights are means over the steps since the point before.
    """

    loss: Float[np.ndarray, "*s p t"]
    validation: Float[np.ndarray, "*s p t"]
    weights: Float[np.ndarray, "*s p t"] | None
    """The weights applied, of methods that are a weighted sum of the task gradients."""
    cosine: Float[np.ndarray, "*s p"] | None
    """Between the task gradients of the shared parameters, the mean over pairs of tasks."""


class Timing(NamedTuple):
    """What a training took."""

    compile_seconds: float
    seconds_per_step: float
    """Of all seeds together, at the fastest stretch between two points."""
    seeds_at_once: int


class Run(NamedTuple):
    """A finished training of several seeds; arrays have a leading axis of seeds."""

    step: list[int]
    """The steps after which a point was recorded."""
    curves: Curves
    test: Float[np.ndarray, "s t"]
    timing: Timing


class _Carry(NamedTuple):
    params: PyTree
    state: PyTree
    key: PRNGKeyArray


def single_task(problem: Problem) -> Problem:
    """The same problem with a network of its own for every task, stacked along a new axis."""

    def init(key: PRNGKeyArray) -> PyTree:
        return jax.tree.map(lambda p: jnp.stack([p] * problem.num_tasks), problem.init(key))

    def own(
        values: Callable[[PyTree, PyTree], Float[Array, " t"]],
    ) -> Callable[[PyTree, PyTree], Float[Array, " t"]]:
        return lambda params, data: jnp.diagonal(jax.vmap(values, (0, None))(params, data))

    return replace(
        problem,
        init=init,
        shared=lambda path: False,
        losses=own(problem.losses),
        scores=own(problem.scores),
    )


def recipe(method: str, problem: Problem, learning_rate: float) -> Recipe:
    """How a baseline or a method of the registry trains, always with Adam.

    Methods that read nothing beyond the losses take one backward pass, of the weighted loss; all
    others see the task gradients of the shared parameters. Heads follow each paper's rule.
    """
    adam = optax.adam(learning_rate)
    if method == SINGLE_TASK:
        return _plain(single_task(problem), adam)
    if method == EQUAL_WEIGHTING:
        return _plain(problem, adam)
    info = mtl.method_info(method)
    if info.is_optimizer:
        step_size = (
            {"optimizer": adam}
            if "optimizer" in info.arguments(problem.num_tasks)
            else {"learning_rate": learning_rate}
        )
        transform = mtl.get(method, problem.num_tasks, **step_size)
        optimizer = mtl.on_shared(transform, problem.shared, heads=adam)
        return _stacked(problem, optimizer, query=False)
    transform = mtl.get(method, problem.num_tasks, **info.arguments(problem.num_tasks))
    if info.reads <= {"losses"}:
        return _weighted(problem, transform, adam, info.heads)
    optimizer = optax.chain(mtl.on_shared(transform, problem.shared, heads=info.heads), adam)
    return _stacked(problem, optimizer, query="query gradients" in info.reads)


def _plain(problem: Problem, optimizer: optax.GradientTransformation) -> Recipe:
    """The gradient of the summed loss, without this library."""

    def summed(params: PyTree, batch: PyTree) -> tuple[Float[Array, ""], Float[Array, " t"]]:
        losses = problem.losses(params, batch)
        return losses.sum(), losses

    def update(params: PyTree, state: PyTree, batch: PyTree, another: Any) -> Any:
        grads, losses = jax.grad(summed, has_aux=True)(params, batch)
        return losses, *optimizer.update(grads, state, params)

    return Recipe(problem, optimizer.init, update)


def _weighted(
    problem: Problem,
    method: optax.GradientTransformationExtraArgs,
    optimizer: optax.GradientTransformation,
    heads: Any,
) -> Recipe:
    """The gradient of the weighted loss, for methods that know the weights before it."""
    weighted_grad = mtl.weighted_value_and_grad(
        problem.losses, method, shared=problem.shared, heads=heads
    )

    def init(params: PyTree) -> PyTree:
        return method.init(params), optimizer.init(params)

    def update(params: PyTree, state: PyTree, batch: PyTree, another: Any) -> Any:
        losses, grads, of_method = weighted_grad(params, state[0], batch)
        updates, of_optimizer = optimizer.update(grads, state[1], params)
        return losses, updates, (of_method, of_optimizer)

    return Recipe(problem, init, update)


def _stacked(
    problem: Problem, optimizer: optax.GradientTransformationExtraArgs, *, query: bool
) -> Recipe:
    """All task gradients; with ``query`` also those of a second batch of training data."""
    task_grads = mtl.value_and_task_grads(problem.losses, shared=problem.shared)
    optimizer = optax.with_extra_args_support(optimizer)

    def update(params: PyTree, state: PyTree, batch: PyTree, another: Any) -> Any:
        losses, grads = task_grads(params, batch)
        extra = {"query_gradients": task_grads(params, another())[1]} if query else {}
        return losses, *optimizer.update(grads, state, params, task_losses=losses, **extra)

    return Recipe(problem, optimizer.init, update)


def _start(recipe: Recipe, seeds: Sequence[int]) -> _Carry:
    keys = [jax.random.split(jax.random.key(seed)) for seed in seeds]
    # Not under jit: initialisers take seconds to compile and milliseconds to run.
    params = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *[recipe.problem.init(key) for key, _ in keys]
    )
    state = jax.jit(jax.vmap(recipe.init))(params)
    return _Carry(params, state, jnp.stack([key for _, key in keys]))


@partial(jax.jit, static_argnums=(0, 1))
def _train(recipe: Recipe, steps: int, carry: _Carry, train: PyTree) -> tuple[_Carry, Any]:
    """Go on for ``steps`` steps; also the mean losses and weights of each seed on the way."""

    def step(carry: _Carry, _: None) -> tuple[_Carry, Any]:
        key, batch_key, another_key = jax.random.split(carry.key, 3)
        losses, updates, state = recipe.update(
            carry.params,
            carry.state,
            recipe.problem.sample(batch_key, train),
            lambda: recipe.problem.sample(another_key, train),
        )
        params = optax.apply_updates(carry.params, updates)
        weights = optax.tree_utils.tree_get(state, "weights")
        return _Carry(params, state, key), (losses, weights)

    def one_seed(carry: _Carry) -> tuple[_Carry, Any]:
        carry, trace = jax.lax.scan(step, carry, length=steps)
        return carry, jax.tree.map(lambda x: x.mean(axis=0), trace)

    return jax.vmap(one_seed)(carry)


@partial(jax.jit, static_argnums=0)
def _score(problem: Problem, params: PyTree, data: PyTree) -> Float[Array, "s t"]:
    return jax.vmap(lambda p: problem.scores(p, data))(params)


@partial(jax.jit, static_argnums=0)
def _cosine(problem: Problem, params: PyTree, batch: PyTree) -> Float[Array, " s"]:
    def one_seed(params: PyTree) -> Float[Array, ""]:
        _, grads = mtl.value_and_task_grads(problem.losses, shared=problem.shared)(params, batch)
        leaves = jax.tree_util.tree_leaves_with_path(grads)
        products = mtl.gram([leaf for path, leaf in leaves if problem.shared(path)])
        norms = jnp.sqrt(jnp.diagonal(products))
        cosines = products / jnp.maximum(jnp.outer(norms, norms), 1e-30)
        return cosines[jnp.triu_indices(problem.num_tasks, k=1)].mean()

    return jax.vmap(one_seed)(params)


def train(
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    steps: int,
    points: int,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> Run:
    """Train ``seeds`` at once by ``vmap``, each stretch between two points one ``lax.scan``.

    A seed decides the initial parameters and the order of the batches, whatever the method, so
    that methods can be compared seed by seed.

    Args:
        recipe: from `recipe`.
        seeds: one training each.
        steps: updates of the parameters.
        points: how often to record; the last point is the last step.
        on_steps: called with the number of steps just done.
    """
    problem = recipe.problem
    stretch = -(-steps // points)
    lengths = [min(stretch, steps - done) for done in range(0, steps, stretch)]
    carry = _start(recipe, seeds)
    data = jax.device_put(problem.train)

    began = time.perf_counter()
    compiled = {
        length: _train.lower(recipe, length, carry, data).compile() for length in set(lengths)
    }
    compile_seconds = time.perf_counter() - began

    shares_parameters = any(
        problem.shared(path) for path, _ in jax.tree_util.tree_leaves_with_path(carry.params)
    )
    recorded: list[Curves] = []
    pace = float("inf")
    for length in lengths:
        began = time.perf_counter()
        carry, (losses, weights) = jax.block_until_ready(compiled[length](carry, data))
        pace = min(pace, (time.perf_counter() - began) / length)
        validation = _score(problem, carry.params, problem.validation)
        cosine = _cosine(problem, carry.params, problem.probe) if shares_parameters else None
        recorded.append(jax.device_get(Curves(losses, validation, weights, cosine)))
        on_steps(length)

    return Run(
        step=np.cumsum(lengths).tolist(),
        curves=jax.tree.map(lambda *points: np.stack(points, axis=1), *recorded),
        test=np.asarray(_score(problem, carry.params, problem.test)),
        timing=Timing(compile_seconds, pace, len(seeds)),
    )
