"""Which task moves which layer, and how far, epoch by epoch (AdaTask's Figs 1, 2, 3, 5 and 6)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

import mtl_optax as mtl
from benchmarks.methods import ADATASK_ON, EQUAL_WEIGHTING
from benchmarks.train.problem import Problem
from benchmarks.train.recipes import Recipe, own_optimizer
from benchmarks.train.training import Member, evaluate, train

DECAY = 0.99  # Of every average here: the paper does not give it.
SAMPLED = 10  # Parameters of each layer whose step sizes are shown, as in the paper.
BUCKETS = 5
VARIANCES = (0.01, 0.02, 0.03, 0.04, 0.05)  # Of the noise, as in the paper.
PARTS = (1, 5, 10, 20)  # Percent of the parameters that get it.


class Watched(NamedTuple):
    """What a training shows of its shared parameters after each of ``p`` epochs, by layer ``l``."""

    shares: Float[np.ndarray, "p k b"]
    """The part of the parameters, of all and of each layer, in each bucket of the last task's share
    of their updates."""
    sizes: Float[np.ndarray, "p l s"]
    """Mean factors `1 / sqrt(G)` of the step of a few parameters: by the gradients of each task
    alone, and by those of the sum."""
    noise: Float[np.ndarray, "v t"]
    """Rise of each metric, in percent, where noise is added to the parameters that the last task
    dominates most: to 1 % of them with `VARIANCES`, then to `PARTS` of them with the least."""


class _Epochs(NamedTuple):
    watch: Any
    steps: Int[Array, ""]
    history: Float[Array, "p ..."]


class _Squares(NamedTuple):
    own: PyTree
    joint: PyTree


def watch(
    method: str,
    problem: Problem,
    member: Member,
    epochs: int,
    hyperparameters: Mapping[str, Any] | None = None,
) -> Watched:
    """Train once more, with the tasks' parts of each update in sight."""
    tasks = problem.num_tasks

    def optimizer(rate: Any) -> optax.GradientTransformationExtraArgs:
        inner = problem.optimizer(rate)
        modified, steps = _parts(method, tasks, inner, rate, hyperparameters or {})
        seen = optax.chain(
            _every_epoch(_track_squares(tasks), _sizes, epochs, problem.steps_per_epoch),
            steps,
            _every_epoch(
                mtl.track_dominance(tasks, decay=DECAY), _shares, epochs, problem.steps_per_epoch
            ),
            mtl.sum_tasks(tasks),
        )
        watched = mtl.on_shared(seen, problem.shared, heads=inner)
        if modified is None:
            return watched
        heads = mtl.method_info(ADATASK_ON.get(method, method)).heads
        return optax.chain(mtl.on_shared(modified, problem.shared, heads=heads), watched)

    def update(rate: Any, params: PyTree, state: PyTree, batch: PyTree, query: Any) -> Any:
        (losses, _), grads = problem.value_and_task_grads(params, batch)
        step = optax.with_extra_args_support(optimizer(rate)).update
        return losses, *step(grads, state, params, task_losses=losses)

    run = train(Recipe(problem, optimizer(1.0).init, update), [member], epochs=epochs)
    sizes, shares = (
        np.asarray(history)
        for _, history in optax.tree_utils.tree_get_all_with_path(run.states[0], "history")
    )
    squares = optax.tree_utils.tree_get(run.states[0], "squares")
    return Watched(shares, sizes, _noise(problem, run.params, squares))


def _parts(
    method: str,
    tasks: int,
    inner: optax.GradientTransformation,
    rate: Any,
    given: Mapping[str, Any],
) -> tuple[optax.GradientTransformation | None, optax.GradientTransformation]:
    """What the method makes of the task gradients, if anything, and the tasks' steps of that."""
    if method in ADATASK_ON:
        modified = mtl.get(ADATASK_ON[method], tasks, combine=False, **given)
        return modified, mtl.adatask(tasks, inner, combine=False)
    if method != EQUAL_WEIGHTING and mtl.method_info(method).is_optimizer:
        return None, own_optimizer(method, tasks, inner, rate, {"combine": False, **given})
    if method == EQUAL_WEIGHTING:
        return None, mtl.split_step(tasks, inner)
    return mtl.get(method, tasks, combine=False, **given), mtl.split_step(tasks, inner)


def _every_epoch(
    watch: optax.GradientTransformation, read: Callable[[Any], Array], epochs: int, steps: int
) -> optax.GradientTransformationExtraArgs:
    """``watch``, and what can be read from its state after each epoch of so many steps."""

    def init(params: PyTree) -> _Epochs:
        state = watch.init(params)
        seen = jax.eval_shape(read, state)
        return _Epochs(state, jnp.zeros((), jnp.int32), jnp.zeros((epochs, *seen.shape)))

    def update(
        updates: PyTree, state: _Epochs, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, _Epochs]:
        updates, watched = watch.update(updates, state.watch, params)
        taken = state.steps + 1
        history = jax.lax.cond(
            taken % steps == 0,
            lambda past: past.at[taken // steps - 1].set(read(watched)),
            lambda past: past,
            state.history,
        )
        return updates, _Epochs(watched, taken, history)

    return optax.GradientTransformationExtraArgs(init, update)


def _shares(state: Any) -> Float[Array, "k b"]:
    layers = mtl.dominance_by_layer(state.squares, buckets=BUCKETS, group=_layer)
    everywhere = mtl.dominance_histogram(state.squares, buckets=BUCKETS)
    return jnp.stack([histogram[-1] for histogram in (everywhere, *layers.values())])


def _track_squares(tasks: int) -> optax.GradientTransformation:
    """Averages of the squares of each task's gradient, and of the square of their sum."""

    def init(params: PyTree) -> _Squares:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return _Squares(jax.tree.map(lambda p: jnp.stack([p] * tasks), zeros), zeros)

    def update(
        updates: PyTree, state: _Squares, params: PyTree | None = None
    ) -> tuple[PyTree, _Squares]:
        def average(old: Array, new: Array) -> Array:
            return DECAY * old + (1 - DECAY) * new**2

        summed = jax.tree.map(lambda g: g.sum(axis=0), updates)
        return updates, _Squares(
            jax.tree.map(average, state.own, updates), jax.tree.map(average, state.joint, summed)
        )

    return optax.GradientTransformation(init, update)


def _sizes(state: _Squares) -> Float[Array, "l s"]:
    layers: dict[str, list[Array]] = {}
    for (path, own), joint in zip(
        jax.tree_util.tree_leaves_with_path(state.own), jax.tree.leaves(state.joint), strict=True
    ):
        squares = jnp.concatenate([own, joint[None]]).reshape(len(own) + 1, -1)
        layers.setdefault(_layer(path), []).append(squares)

    def mean(leaves: list[Array]) -> Float[Array, " s"]:
        squares = jnp.concatenate(leaves, axis=1)
        few = np.random.default_rng(0).integers(squares.shape[1], size=SAMPLED)
        return (1 / (jnp.sqrt(squares[:, few]) + 1e-8)).mean(axis=1)

    return jnp.stack([mean(leaves) for leaves in layers.values()])


def _layer(path: Any) -> str:
    """Kernel and bias of a layer of `models.mlp` belong together."""
    return jax.tree_util.keystr(path[:3])


def _noise(problem: Problem, params: PyTree, squares: PyTree) -> Float[np.ndarray, "v t"]:
    """How much worse the metrics get on the validation split, as the mean of some draws."""
    leaves, structure = jax.tree.flatten(jax.device_get(jax.tree.map(lambda p: p[0], params)))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    shared = [i for i, path in enumerate(paths) if problem.shared(path)]
    ratios = jax.tree.leaves(jax.device_get(mtl.dominance_ratio(squares)))
    order = np.argsort(-np.concatenate([r[-1].ravel() for r in ratios]), kind="stable")
    rng = np.random.default_rng(0)

    def disturbed(variance: float, percent: int) -> PyTree:
        noise = np.zeros(len(order), np.float32)
        chosen = order[: round(len(order) * percent / 100)]
        noise[chosen] = rng.normal(0, np.sqrt(variance), len(chosen))
        ends = np.cumsum([leaves[i].size for i in shared])[:-1]
        changed = list(leaves)
        for i, part in zip(shared, np.split(noise, ends), strict=True):
            changed[i] = leaves[i] + part.reshape(leaves[i].shape)
        return jax.tree.unflatten(structure, changed)

    def rise(variance: float, percent: int) -> Float[np.ndarray, " t"]:
        trees = [disturbed(variance, percent) for _ in range(5)]
        worse = evaluate(problem, jax.tree.map(lambda *p: np.stack(p), *trees), problem.validation)
        return 100 * (worse[1].mean(axis=0) / plain - 1)

    plain = evaluate(problem, params, problem.validation)[1][0]
    ways = [(variance, PARTS[0]) for variance in VARIANCES]
    ways += [(VARIANCES[0], percent) for percent in PARTS]
    return np.stack([rise(*way) for way in ways])
