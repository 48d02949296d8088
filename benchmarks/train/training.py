"""Train one method on one problem.

Nothing here knows a data set, a model or a method. Each method is one program, that of an epoch of
one training, whatever the seed and the learning rate; all else is compiled once for a problem.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

import mtl_optax as mtl
from benchmarks.train.ahead import ahead
from benchmarks.train.checkpoints import Checkpoint
from benchmarks.train.problem import Problem
from benchmarks.train.recipes import Recipe


class Member(NamedTuple):
    """One training of a method."""

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
    """The first epoch, and the wait for its program; less where a training went on."""
    seconds_per_step: float | None
    """In the fastest epoch; None where there was no second epoch."""


class Run(NamedTuple):
    """Finished trainings; arrays have a leading axis of ``k`` members."""

    curves: Curves
    epoch: Int[np.ndarray, " k"]
    """The epoch, from 1, with the best validation metrics; 0 if none was finite."""
    best: Float[np.ndarray, " k"]
    """What `goodness` says of it."""
    params: PyTree
    """The parameters after that epoch."""
    statistics: PyTree
    """The model's running statistics after that epoch, if it has any."""
    states: tuple[PyTree, ...]
    """The state of method and optimiser after the last epoch, of each member."""
    timing: Timing


class _Carry(NamedTuple):
    params: PyTree
    state: PyTree
    key: PRNGKeyArray


class _Best(NamedTuple):
    score: np.float32
    epoch: np.int32
    params: PyTree
    statistics: PyTree


Program = Callable[..., tuple[tuple[PyTree, PyTree], Any]]
"""`_epoch` of a recipe, compiled."""


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
    problem: Problem, params: PyTree, data: PyTree, statistics: PyTree = None
) -> tuple[Float[np.ndarray, "k t"], Float[np.ndarray, "k m"]]:
    """Losses and metrics of ``k`` parameter trees on a split; NaN where an output is not finite.

    Statistics that the model has running come with them, ``k`` trees as well.
    """
    leaves, structure = jax.tree.flatten(jax.device_get((params, statistics)))
    trees = [jax.tree.unflatten(structure, one) for one in zip(*leaves, strict=True)]
    each = [_evaluate(problem, one, kept, data) for one, kept in trees]
    losses, metrics = zip(*each, strict=True)
    return np.stack(losses), np.stack(metrics)


def _evaluate(
    problem: Problem, params: PyTree, statistics: PyTree, data: PyTree
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " m"]]:
    if problem.on_host:
        losses, told, finite = answers(problem, params, statistics, data)
    else:
        losses, told = jax.device_get(_outputs(problem, params, statistics, data))
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(told))
    if not finite:
        return losses, np.full(len(problem.metrics), np.nan)
    return losses, problem.scores(told, data)


def lowered(recipe: Recipe) -> jax.stages.Lowered:
    """The program of an epoch before it is compiled, which may be done in another thread."""
    params, state, key = _start(recipe, 0)
    steps = _steps.eval_shape(recipe.problem, recipe.query, key)[1]
    rates = jnp.zeros(recipe.problem.steps_per_epoch)
    start, train = (params, state), recipe.problem.train
    if not recipe.problem.on_host:
        return _epoch.lower(recipe, rates, start, steps, train)
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (rates, steps))
    given = jax.eval_shape(partial(_read, recipe.problem), train, first)
    return _step.lower(recipe, start, given)


def compiled(recipe: Recipe, program: jax.stages.Lowered) -> Program:
    """What `lowered` has given, ready to run."""
    made = program.compile(recipe.problem.compiler_options)
    return partial(_epoch_on_host, recipe.problem, made) if recipe.problem.on_host else made


def train(
    recipe: Recipe,
    members: Sequence[Member],
    *,
    epochs: int,
    program: Callable[[], Program] | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[], None] = lambda: None,
) -> Run:
    """Train the members, several at once, each epoch one ``lax.scan``.

    A seed decides the initial parameters and the order of the batches, whatever the method and
    the learning rate, so that they can be compared seed by seed.

    Args:
        recipe: from `recipes.recipe`.
        members: one training each.
        epochs: the validation split is read after each.
        program: gives what `lowered` has been compiled to, if it has been.
        checkpoint: where to keep an unfinished training, and to go on from; bit for bit as if it
            had not been interrupted.
        on_epoch: called after each epoch of all members.
    """
    problem = recipe.problem
    carries = [_start(recipe, member.seed) for member in members]
    bests = [
        _Best(np.float32(-np.inf), np.int32(0), carry.params, recipe.statistics(carry.state))
        for carry in carries
    ]
    recorded: list[Curves] = []
    if checkpoint is not None:
        (carries, bests), recorded = _resume(checkpoint, (carries, bests))
        for _ in recorded:
            on_epoch()
    few = slice(problem.rows_of_each(max(1, problem.chunk // 2)))
    probe = jax.tree.map(lambda x: x[:, few] if problem.separate else x[few], problem.train)
    probe = jax.device_put(probe)
    data, held_out = problem.train, problem.validation
    if not problem.on_host:
        data, held_out = jax.device_put((data, held_out))
    # In the middle of each step, in epochs.
    done = (jnp.arange(problem.steps_per_epoch) + 0.5) / problem.steps_per_epoch

    began = time.perf_counter()
    if len(recorded) < epochs:
        run_epoch = compiled(recipe, lowered(recipe)) if program is None else program()
    durations = [time.perf_counter() - began]
    threads = ThreadPoolExecutor(problem.at_once)
    try:
        for epoch in range(len(recorded), epochs):
            running, keys = [], []
            factors = problem.schedule((epoch + done) / epochs)
            for member, (params, state, key) in zip(members, carries, strict=True):
                key, steps = _steps(problem, recipe.query, key)
                rates = jnp.float32(member.learning_rate) * factors
                arguments = rates, (params, state), steps, data
                running.append(threads.submit(_timed, run_epoch, *arguments))
                keys.append(key)
            points = []
            for number, (key, future) in enumerate(zip(keys, running, strict=True)):
                seconds, ((params, state), trace) = future.result()
                durations.append(seconds)
                carries[number] = _Carry(params, state, key)
                cosine = mean_cosine(problem, params, probe)
                statistics = recipe.statistics(state)
                validation_loss, metrics = _evaluate(problem, params, statistics, held_out)
                score = np.float32(goodness(problem, metrics))
                if score > bests[number].score:
                    bests[number] = _Best(score, np.int32(epoch + 1), params, statistics)
                (losses, query_losses, weights), cosine = jax.device_get((trace, cosine))
                points.append(
                    Curves(losses, validation_loss, query_losses, metrics, weights, cosine)
                )
            recorded.append(jax.tree.map(lambda *each: np.stack(each), *points))
            on_epoch()
            if checkpoint is not None and checkpoint.is_due():
                checkpoint.save((carries, bests), _stacked(recorded)._asdict())
    finally:
        threads.shutdown(wait=False, cancel_futures=True)

    later = durations[1 + len(members) :]
    models = jax.device_get([(best.params, best.statistics) for best in bests])
    params, statistics = jax.tree.map(lambda *each: np.stack(each), *models)
    return Run(
        curves=_stacked(recorded),
        epoch=np.array([best.epoch for best in bests]),
        best=np.array([best.score for best in bests]),
        params=params,
        statistics=statistics,
        states=tuple(carry.state for carry in carries),
        timing=Timing(sum(durations[:2]), min(later) / problem.steps_per_epoch if later else None),
    )


def _timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    result = jax.block_until_ready(work(*arguments))
    return time.perf_counter() - began, result


def _start(recipe: Recipe, seed: int) -> _Carry:
    params, key = _initial(recipe.problem, seed)
    return _Carry(params, recipe.init(params), key)


@lru_cache(maxsize=8)
def _initial(problem: Problem, seed: int) -> tuple[PyTree, PRNGKeyArray]:
    """The parameters, the same for all methods, and the key of what follows."""
    params_key, key = jax.random.split(jax.random.key(seed))
    return problem.init(params_key), key


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


class _Steps(NamedTuple):
    """What the steps of an epoch draw."""

    rows: Int[Array, "steps *t batch"]
    """To train on."""
    query_rows: Int[Array, "steps *t batch"] | None
    """Of the query split."""
    noise: PRNGKeyArray


@partial(jax.jit, static_argnums=(0, 1))
def _steps(problem: Problem, query: bool, key: PRNGKeyArray) -> tuple[PRNGKeyArray, _Steps]:
    """The next key, and the draws of an epoch."""
    total = problem.rows
    kept = [max(1, round(problem.query_fraction * n)) if query else 0 for n in total]
    support = [n - k for n, k in zip(total, kept, strict=True)]
    sizes = problem.steps_per_epoch, problem.batch_size
    key, rows_key, query_key, noise_key = jax.random.split(key, 4)
    return key, _Steps(
        _shuffled(rows_key, [0] * len(total), support, *sizes),
        _shuffled(query_key, support, total, *sizes) if query else None,
        jax.random.split(noise_key, problem.steps_per_epoch),
    )


@partial(jax.jit, static_argnums=0)
def _epoch(
    recipe: Recipe,
    rates: Float[Array, " steps"],
    start: tuple[PyTree, PyTree],
    steps: _Steps,
    train: PyTree,
) -> tuple[tuple[PyTree, PyTree], Any]:
    """Go on for an epoch from parameters and state; also mean losses and weights on the way."""

    def step(carry: tuple[PyTree, PyTree], now: tuple[Array, _Steps]) -> tuple[Any, Any]:
        return _take_step(recipe, carry, _read(recipe.problem, train, now))

    last, trace = jax.lax.scan(step, start, (rates, steps))
    return last, jax.tree.map(lambda x: x.mean(axis=0), trace)


class _Given(NamedTuple):
    """What a step reads."""

    rate: Array
    key: PRNGKeyArray
    """Of the noise."""
    batch: PyTree
    query: PyTree | None


def _read(problem: Problem, train: PyTree, now: tuple[Array, _Steps]) -> _Given:
    rate, (rows, query_rows, key) = now
    query = None if query_rows is None else problem.batch(train, query_rows)
    return _Given(rate, key, problem.batch(train, rows), query)


def _take_step(recipe: Recipe, carry: tuple[PyTree, PyTree], given: _Given) -> tuple[Any, Any]:
    """One step from parameters and state; also losses and weights."""
    problem = recipe.problem
    (params, state), (rate, key, batch, query) = carry, given
    batch = problem.noise(key, batch)
    losses, updates, state = recipe.update(rate, params, state, batch, query)
    query_losses = None if query is None else problem.task_losses(params, query)
    weights = weights_of(state)
    if problem.weight_decay:
        shrink = rate * problem.weight_decay
        updates = jax.tree.map(lambda u, p: u - (shrink * p).astype(u.dtype), updates, params)
    params = optax.apply_updates(params, updates)
    return (params, state), (losses, query_losses, weights)


_step = jax.jit(_take_step, static_argnums=0, donate_argnums=1)


def _epoch_on_host(
    problem: Problem,
    step: Callable[..., Any],
    rates: Float[Array, " steps"],
    start: tuple[PyTree, PyTree],
    steps: _Steps,
    train: PyTree,
) -> tuple[tuple[PyTree, PyTree], Any]:
    """As `_epoch`, step by step, with no more of the data on the device than a few batches."""
    rows, query_rows = jax.device_get((steps.rows, steps.query_rows))
    steps = _Steps(rows, query_rows, steps.noise)

    def given(number: int) -> _Given:
        now = jax.tree.map(lambda x: x[number], (rates, steps))
        return jax.device_put(_read(problem, train, now))

    carry = jax.tree.map(jnp.copy, start)  # A step writes over what it is given.
    traces: list[Any] = []
    for one in ahead(given, len(rates)):
        carry, trace = step(carry, one)
        jax.block_until_ready(traces[-1:])  # The step before: steps that wait keep their batches.
        traces.append(trace)
    return carry, jax.tree.map(lambda *each: np.mean(each, axis=0), *traces)


def weights_of(state: PyTree) -> Float[Array, " t"] | None:
    """The task weights of the last step; none of methods that do not weight tasks."""
    try:
        return mtl.task_weights(state)
    except ValueError:
        return None


@partial(jax.jit, static_argnums=0)
def _outputs(
    problem: Problem, params: PyTree, statistics: PyTree, data: PyTree
) -> tuple[Array, PyTree]:
    """Losses and outputs on a whole split, in chunks of its rows."""
    axis = 1 if problem.separate else 0
    total, rows = _chunks(problem, data)

    def chunk(rows: Int[Array, " c"]) -> PyTree:
        return problem.outputs(params, jax.tree.map(lambda x: x.take(rows, axis), data), statistics)

    def of_split(chunks: Array) -> Array:
        outputs = jnp.moveaxis(chunks, 0, axis)
        outputs = outputs.reshape(*outputs.shape[:axis], -1, *outputs.shape[axis + 2 :])
        return jax.lax.slice_in_dim(outputs, 0, total, axis=axis)

    outputs = jax.tree.map(of_split, jax.lax.map(chunk, jnp.asarray(rows)))
    losses = jax.vmap(problem.losses) if problem.separate else problem.losses
    return losses(outputs, data), outputs


def _chunks(problem: Problem, data: PyTree) -> tuple[int, Int[np.ndarray, "chunks c"]]:
    """How many rows a split has, and chunks of them, of which the last begins again."""
    total = jax.tree.leaves(data)[0].shape[1 if problem.separate else 0]
    size = min(problem.rows_of_each(problem.chunk), total)
    return total, (np.arange(-(-total // size) * size) % total).reshape(-1, size)


def answers(
    problem: Problem, params: PyTree, statistics: PyTree, data: PyTree
) -> tuple[Float[np.ndarray, " t"], PyTree, bool]:
    """As `_outputs`, chunk by chunk on the host: `Problem.answers`, and whether all is finite."""
    total, chunks = _chunks(problem, data)
    params, statistics = jax.device_put((params, statistics))
    found = [
        jax.device_get(_answers_of_chunk(problem, params, statistics, batch))
        for batch in ahead(lambda n: jax.device_put(problem.batch(data, chunks[n])), len(chunks))
    ]
    losses, told, finite = jax.tree.map(lambda *parts: np.concatenate(parts)[:total], *found)
    return losses.mean(axis=0), told, finite.all()


@partial(jax.jit, static_argnums=0)
def _answers_of_chunk(
    problem: Problem, params: PyTree, statistics: PyTree, batch: PyTree
) -> tuple[Float[Array, "c t"], PyTree, Bool[Array, " c"]]:
    """Each row's losses and answers, and whether its outputs are finite."""
    outputs = problem.outputs(params, batch, statistics)
    alone = jax.tree.map(lambda x: x[:, None], (outputs, batch))
    finite = [jnp.isfinite(x).all(axis=range(1, x.ndim)) for x in jax.tree.leaves(outputs)]
    losses = jax.vmap(problem.losses)(*alone)
    return losses, problem.answers(outputs, batch), jnp.stack(finite).all(axis=0)


@partial(jax.jit, static_argnums=0)
def mean_cosine(problem: Problem, params: PyTree, batch: PyTree) -> Float[Array, ""] | None:
    """Mean cosine between the tasks' gradients of the shared parameters, if there are any."""
    shared = [problem.shared(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if not any(shared):
        return None
    _, grads = problem.value_and_task_grads(params, batch, problem.statistics)
    stacked = [g for g, use in zip(jax.tree.leaves(grads), shared, strict=True) if use]
    cosines = mtl.conflict(mtl.gram(stacked)).cosines
    return cosines[jnp.triu_indices(problem.num_tasks, k=1)].mean()
