"""Train one method on one problem, several trainings at once.

Nothing here knows a data set, a model or a method.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

import mtl_optax as mtl
from benchmarks.checkpoints import Checkpoint
from benchmarks.problem import Problem
from benchmarks.recipes import Recipe

CHUNK = 500  # Rows to evaluate at once.


class Member(NamedTuple):
    """One training of those that run at once."""

    seed: int
    learning_rate: float


class Curves(NamedTuple):
    """What was recorded of one training at ``p`` epochs, or of ``k`` with a leading axis.

    Losses and weights are means over the steps of the epoch.
    """

    loss: Float[np.ndarray, "*k p t"]
    validation_loss: Float[np.ndarray, "*k p t"]
    query_loss: Float[np.ndarray, "*k p t"] | None
    """On the batches of the query split, of methods that read it."""
    validation: Float[np.ndarray, "*k p m"]
    """The metrics on the validation split."""
    weights: Float[np.ndarray, "*k p t"] | None
    """The weights applied, of methods that are a weighted sum of the task gradients."""
    cosine: Float[np.ndarray, "*k p"] | None
    """Between the task gradients of the shared parameters, the mean over pairs of tasks."""


class Timing(NamedTuple):
    """What a training took."""

    first_epoch_seconds: float
    """Compilation and the first epoch; less than that of a training that went on."""
    seconds_per_step: float | None
    """Of all trainings at once, in the fastest epoch; None where there was no second epoch."""
    at_once: int


class Run(NamedTuple):
    """Finished trainings; arrays have a leading axis of ``k`` members."""

    curves: Curves
    epoch: Int[np.ndarray, " k"]
    """The epoch, from 1, with the best validation metrics; 0 if none was finite."""
    best: Float[np.ndarray, " k"]
    """What `goodness` says of it."""
    params: PyTree
    """The parameters after that epoch."""
    state: PyTree
    """The state of method and optimiser after the last epoch."""
    timing: Timing


class _Carry(NamedTuple):
    params: PyTree
    state: PyTree
    key: PRNGKeyArray


class _Best(NamedTuple):
    score: Float[Array, " k"]
    epoch: Int[Array, " k"]
    params: PyTree


def goodness(problem: Problem, metrics: Float[np.ndarray, "*k m"]) -> Float[np.ndarray, "*k"]:
    """What learning rate and epoch are chosen by: the mean of the metrics, errors negated."""
    counted = [i for i, metric in enumerate(problem.metrics) if metric.counts]
    signs = np.array([1.0 if problem.metrics[i].higher_is_better else -1.0 for i in counted])
    values = signs * metrics[..., counted]
    # A metric may be undefined on a split: an AUC where there is one class only.
    defined = np.isfinite(values)
    total, count = np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), -np.inf)


def evaluate(
    problem: Problem, params: PyTree, data: PyTree
) -> tuple[Float[np.ndarray, "k t"], Float[np.ndarray, "k m"]]:
    """Losses and metrics of ``k`` parameter trees on a split; NaN where an output is not finite."""
    losses, outputs = jax.device_get(_outputs(problem, params, data))
    metrics = [
        problem.scores(one, data)
        if np.isfinite(one).all()
        else np.full(len(problem.metrics), np.nan)
        for one in outputs
    ]
    return losses, np.stack(metrics)


def train(
    recipe: Recipe,
    members: Sequence[Member],
    *,
    epochs: int,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[], None] = lambda: None,
) -> Run:
    """Train the members at once by ``vmap``, each epoch one ``lax.scan``.

    A seed decides the initial parameters and the order of the batches, whatever the method and
    the learning rate, so that they can be compared seed by seed.

    Args:
        recipe: from `recipes.recipe`.
        members: one training each.
        epochs: the validation split is read after each.
        checkpoint: where to keep an unfinished training, and to go on from; bit for bit as if it
            had not been interrupted.
        on_epoch: called after each epoch.
    """
    problem = recipe.problem
    carry = _start(recipe, members)
    best = _Best(jnp.full(len(members), -jnp.inf), jnp.zeros(len(members), jnp.int32), carry.params)
    recorded: list[Curves] = []
    if checkpoint is not None:
        (carry, best), recorded = _resume(checkpoint, (carry, best))
        for _ in recorded:
            on_epoch()
    rates = jnp.asarray([member.learning_rate for member in members], jnp.float32)
    data, held_out = jax.device_put((problem.train, problem.validation))
    probe = jax.tree.map(lambda x: x[:, :CHUNK] if problem.separate else x[:CHUNK], data)

    durations = []
    for epoch in range(len(recorded), epochs):
        began = time.perf_counter()
        carry, trace = jax.block_until_ready(_epoch(recipe, rates, carry, data))
        durations.append(time.perf_counter() - began)
        validation_loss, metrics = evaluate(problem, carry.params, held_out)
        best = _better(best, goodness(problem, metrics), epoch + 1, carry.params)
        losses, query_losses, weights = jax.device_get(trace)
        cosine = jax.device_get(_cosine(problem, carry.params, probe))
        recorded.append(Curves(losses, validation_loss, query_losses, metrics, weights, cosine))
        on_epoch()
        if checkpoint is not None and checkpoint.is_due():
            checkpoint.save((carry, best), _stacked(recorded)._asdict())

    pace = min(durations[1:]) / problem.steps_per_epoch if len(durations) > 1 else None
    return Run(
        curves=_stacked(recorded),
        epoch=np.asarray(best.epoch),
        best=np.asarray(best.score),
        params=best.params,
        state=carry.state,
        timing=Timing(durations[0] if durations else 0.0, pace, len(members)),
    )


def _start(recipe: Recipe, members: Sequence[Member]) -> _Carry:
    keys = [jax.random.split(jax.random.key(member.seed)) for member in members]
    # Not under jit: initialisers take seconds to compile and milliseconds to run.
    params = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *[recipe.problem.init(key) for key, _ in keys]
    )
    state = jax.jit(jax.vmap(recipe.init))(params)
    return _Carry(params, state, jnp.stack([key for _, key in keys]))


def _resume(checkpoint: Checkpoint, start: PyTree) -> tuple[PyTree, list[Curves]]:
    kept = checkpoint.restore(start)
    if kept is None:
        return start, []
    tree, curves = kept
    epochs = curves["loss"].shape[1]

    def at(epoch: int) -> Any:
        return {name: curves[name][:, epoch] if name in curves else None for name in Curves._fields}

    return tree, [Curves(**at(epoch)) for epoch in range(epochs)]


def _stacked(recorded: Sequence[Curves]) -> Curves:
    return jax.tree.map(lambda *points: np.stack(points, axis=1), *recorded)


def _shuffled(
    key: PRNGKeyArray, first: Sequence[int], stop: Sequence[int], steps: int, batch: int
) -> Int[Array, "steps *t batch"]:
    """Rows for an epoch, each row of a task once before any comes again."""
    per_task = []
    for number, (low, high) in enumerate(zip(first, stop, strict=True)):
        rounds = -(-steps * batch // (high - low))
        keys = jax.random.split(jax.random.fold_in(key, number), rounds)
        rows = jax.vmap(lambda k, n=high - low: jax.random.permutation(k, n))(keys).reshape(-1)
        per_task.append(low + rows[: steps * batch].reshape(steps, batch))
    return per_task[0] if len(per_task) == 1 else jnp.stack(per_task, axis=1)


@partial(jax.jit, static_argnums=0)
def _epoch(
    recipe: Recipe, rates: Float[Array, " k"], carry: _Carry, train: PyTree
) -> tuple[_Carry, Any]:
    """Go on for an epoch; also the mean losses and weights of each member on the way."""
    problem = recipe.problem
    total = problem.rows
    kept = [max(1, round(problem.query_fraction * n)) if recipe.query else 0 for n in total]
    support = [n - k for n, k in zip(total, kept, strict=True)]

    def one_member(rate: Array, carry: _Carry) -> tuple[_Carry, Any]:
        key, rows_key, query_key = jax.random.split(carry.key, 3)
        sizes = problem.steps_per_epoch, problem.batch_size
        rows = _shuffled(rows_key, [0] * len(total), support, *sizes)
        query_rows = _shuffled(query_key, support, total, *sizes) if recipe.query else None

        def step(carry: tuple[PyTree, PyTree], rows: Any) -> tuple[Any, Any]:
            params, state = carry
            rows, query_rows = rows
            query = None if query_rows is None else problem.batch(train, query_rows)
            batch = problem.batch(train, rows)
            losses, updates, state = recipe.update(rate, params, state, batch, query)
            query_losses = None if query is None else problem.task_losses(params, query)
            weights = optax.tree_utils.tree_get(state, "weights")
            params = optax.apply_updates(params, updates)
            return (params, state), (losses, query_losses, weights)

        (params, state), trace = jax.lax.scan(step, (carry.params, carry.state), (rows, query_rows))
        return _Carry(params, state, key), jax.tree.map(lambda x: x.mean(axis=0), trace)

    return jax.vmap(one_member)(rates, carry)


@partial(jax.jit, static_argnums=0)
def _outputs(problem: Problem, params: PyTree, data: PyTree) -> tuple[Array, Array]:
    """Losses and outputs of every member on a whole split, in chunks of its rows."""
    axis = 1 if problem.separate else 0
    total = jax.tree.leaves(data)[0].shape[axis]
    count = -(-total // CHUNK)
    # The last chunk begins again with the first rows.
    rows = jnp.arange(count * min(CHUNK, total)) % total

    def one_member(params: PyTree) -> tuple[Array, Array]:
        def chunk(rows: Int[Array, " c"]) -> Array:
            return problem.outputs(params, jax.tree.map(lambda x: x.take(rows, axis), data))

        chunks = jax.lax.map(chunk, rows.reshape(count, -1))
        outputs = jnp.moveaxis(chunks, 0, axis)
        outputs = outputs.reshape(*outputs.shape[:axis], -1, *outputs.shape[axis + 2 :])
        outputs = jax.lax.slice_in_dim(outputs, 0, total, axis=axis)
        losses = jax.vmap(problem.losses) if problem.separate else problem.losses
        return losses(outputs, data), outputs

    return jax.lax.map(one_member, params)


@jax.jit
def _better(best: _Best, score: Float[Array, " k"], epoch: Int[Array, ""], params: PyTree) -> _Best:
    """The better of the best so far and this epoch, member by member."""
    better: Bool[Array, " k"] = score > best.score

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, _Best(score, jnp.full_like(best.epoch, epoch), params), best)


@partial(jax.jit, static_argnums=0)
def _cosine(problem: Problem, params: PyTree, batch: PyTree) -> Float[Array, " k"] | None:
    """Mean cosine between the tasks' gradients of the shared parameters, if there are any."""
    shared = [problem.shared(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if not any(shared):
        return None

    def one_member(params: PyTree) -> Float[Array, ""]:
        _, grads = problem.value_and_task_grads(params, batch)
        stacked = [g for g, use in zip(jax.tree.leaves(grads), shared, strict=True) if use]
        cosines = mtl.conflict(mtl.gram(stacked)).cosines
        return cosines[jnp.triu_indices(problem.num_tasks, k=1)].mean()

    return jax.lax.map(one_member, params)
