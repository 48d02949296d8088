"""An actor-critic (A2C) as a problem of the benchmarks: its batches are episodes, not rows of data.

One network for all tasks reads position, velocity and which task it is, in one-hot; the actor's two
means and the critic's value hang on one trunk of two layers, and every parameter is shared by every
task. Everything is as plain as it can be: whole episodes, one gradient of each batch, generalised
advantage estimation, and advantages that are standardised for each task.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from benchmarks.control.environment import (
    DRAG,
    EFFORT,
    NEAR,
    NUM_TASKS,
    SECONDS,
    SLOW,
    STEPS,
    State,
    all_tasks,
    regulator,
    start,
    step,
    succeeded,
)
from benchmarks.train.problem import Metric, Problem

TASKS = all_tasks()
NAMES = tuple(f"task {number}" for number in range(NUM_TASKS))
WIDTH = 64
DISCOUNT, TRACE = 0.9, 0.95
"""Of rewards, and the λ of advantages."""
VALUE, ENTROPY = 0.5, 0.003
"""What the critic's loss and the entropy count beside the actor's."""
DEVIATION = 0.6
"""Of actions, before anything is learned."""
VALIDATION, TEST = (1_000_000, 128), (2_000_000, 256)
"""The key of episodes that no training plays, and how many there are of each task."""

Policy = Callable[[Float[Array, "t n 14"], Float[Array, "t n 2"]], Float[Array, "t n 2"]]
"""What is seen, and normal noise, to actions."""


class Batch(NamedTuple):
    """What is learned from; each task's rows are the steps of its episodes."""

    seen: Float[Array, "*t n 14"]
    action: Float[Array, "*t n 2"]
    advantage: Float[Array, "*t n"]
    target: Float[Array, "*t n"]
    """What the critic should have said."""


class Episodes(NamedTuple):
    """Episodes of all tasks, step by step."""

    seen: Float[Array, "s t n 14"]
    action: Float[Array, "s t n 2"]
    reward: Float[Array, "s t n"]
    last: Float[Array, "t n 14"]
    """What is seen at the end."""
    success: Bool[Array, "t n"]


class Outcome(NamedTuple):
    """What episodes came to."""

    success: Float[Any, "*p t"]
    """The part of them that ended at the goal."""
    total: Float[Any, "*p t"]
    """The mean of their summed rewards, each task's over its scale."""


def control_problem(*, updates: int, episodes: int) -> Problem:
    """The ten tasks, with so many updates in an epoch, each from so many episodes of each task."""
    success = (Metric(name, task) for task, name in enumerate(NAMES))
    return Problem(
        tasks=NAMES,
        metrics=(*success, Metric("return", 0, counts=False)),
        init=init,
        shared=lambda path: True,
        forward=lambda params, batch: forward(params, batch.seen),
        losses=loss,
        scores=lambda outcome, _: scores(Outcome(*outcome)),
        train=None,
        validation=None,
        test=None,
        batch_size=episodes,
        config={
            "suite": "control",
            "environment": [STEPS, SECONDS, DRAG, EFFORT, NEAR, SLOW],
            "task": jax.tree.map(lambda x: x.round(6).tolist(), TASKS._asdict()),
            "width": WIDTH,
            "discount": DISCOUNT,
            "trace": TRACE,
            "value": VALUE,
            "entropy": ENTROPY,
            "deviation": DEVIATION,
            "optimizer": "adam, its rate falling to 0 on a line",
            "episodes": {"validation": VALIDATION, "test": TEST},
        },
        optimizer=optax.adam,
        schedule=lambda done: 1 - done,
        sizes=(updates * episodes,) * NUM_TASKS,
    )


def scores(outcome: Outcome) -> Float[np.ndarray, " m"]:
    """The metrics: each task's success in percent, and the mean return of all."""
    return np.array([*(100 * outcome.success), outcome.total.mean()])


def init(key: PRNGKeyArray) -> PyTree:
    """Parameters of a policy that hardly acts on what it sees."""
    sizes = {
        "first": (4 + NUM_TASKS, WIDTH, 1.0),
        "second": (WIDTH, WIDTH, 1.0),
        "actor": (WIDTH, 2, 0.01),
        "critic": (WIDTH, 1, 1.0),
    }
    keys = jax.random.split(key, len(sizes))
    layers: dict[str, Any] = {
        name: {
            "kernel": gain * jax.nn.initializers.lecun_normal()(one, (inputs, outputs)),
            "bias": jnp.zeros(outputs),
        }
        for one, (name, (inputs, outputs, gain)) in zip(keys, sizes.items(), strict=True)
    }
    return {**layers, "log_deviation": jnp.full(2, jnp.log(DEVIATION))}


def forward(params: PyTree, seen: Float[Array, "n 14"]) -> Float[Array, "n 5"]:
    """Two means of actions, the logarithms of their deviations, and the value."""

    def layer(name: str, inputs: Array) -> Array:
        return inputs @ params[name]["kernel"] + params[name]["bias"][None]

    hidden = jnp.tanh(layer("second", jnp.tanh(layer("first", seen))))
    deviation = jnp.broadcast_to(params["log_deviation"], (len(seen), 2))
    return jnp.concatenate([layer("actor", hidden), deviation, layer("critic", hidden)], axis=1)


def loss(outputs: Float[Array, "n 5"], batch: Batch) -> Float[Array, ""]:
    """A task's loss: the actor's, the critic's, and less entropy."""
    mean, deviation, value = outputs[:, :2], outputs[:, 2:4], outputs[:, 4]
    # But for constants, which have no gradient.
    away = (batch.action - mean) * jnp.exp(-deviation)
    log_probability = jnp.sum(-(away**2) / 2 - deviation, axis=1)
    actor = -jnp.mean(log_probability * batch.advantage)
    critic = jnp.mean((value - batch.target) ** 2)
    return actor + VALUE * critic - ENTROPY * jnp.mean(jnp.sum(deviation, axis=1))


def advantages(
    reward: Float[Array, "s ..."], value: Float[Array, "s ..."], last: Float[Array, "..."]
) -> Float[Array, "s ..."]:
    """Generalised advantage estimates; an episode's end is a limit of time, and has a value."""
    after = jnp.concatenate([value[1:], last[None]])
    surprise = reward + DISCOUNT * after - value

    def back(later: Array, now: Array) -> tuple[Array, Array]:
        total = now + DISCOUNT * TRACE * later
        return total, total

    return jax.lax.scan(back, jnp.zeros_like(last), surprise, reverse=True)[1]


def play(policy: Policy, key: PRNGKeyArray, count: int) -> Episodes:
    """Episodes of every task, ``count`` of each; keys decide the starts and the noise alone."""
    start_key, noise_key = jax.random.split(key)
    shape = NUM_TASKS, count
    move = jax.vmap(jax.vmap(step, (None, 0, 0)))
    tasks = jax.tree.map(jnp.float32, TASKS)

    def turn(state: State, noise: Array) -> tuple[State, tuple[Array, Array, Array]]:
        seen = _seen(state)
        action = policy(seen, noise)
        state, reward = move(tasks, state, action)
        return state, (seen, action, reward)

    noise = jax.random.normal(noise_key, (STEPS, *shape, 2))
    last, (seen, action, reward) = jax.lax.scan(turn, start(start_key, shape), noise)
    success = jax.vmap(jax.vmap(succeeded, (None, 0)))(tasks, last)
    return Episodes(seen, action, reward, _seen(last), success)


def outcome(episodes: Episodes) -> Outcome:
    """What they came to."""
    total = episodes.reward.sum(axis=0).mean(axis=1) / jnp.float32(TASKS.scale)
    return Outcome(episodes.success.mean(axis=1), total)


def batch_of(problem: Problem, params: PyTree, key: PRNGKeyArray) -> Batch:
    """Play, and judge what was done.

    Rewards count ``1 - DISCOUNT``-fold, so that values are means of rewards, of the size of one.
    """
    played = play(actor(problem, params), key, problem.batch_size)
    everything = jnp.concatenate([played.seen, played.last[None]])
    value = jax.lax.map(lambda seen: _outputs(problem, params, seen)[..., 4], everything)
    advantage = advantages((1 - DISCOUNT) * played.reward, value[:-1], value[-1])
    target = advantage + value[:-1]
    mean, deviation = (f(advantage, axis=(0, 2), keepdims=True) for f in (jnp.mean, jnp.std))
    rows = Batch(played.seen, played.action, (advantage - mean) / (deviation + 1e-8), target)

    def by_task(leaf: Array) -> Array:
        leaf = jnp.moveaxis(leaf, 0, 1)
        return leaf.reshape(NUM_TASKS, -1, *leaf.shape[3:])

    return jax.tree.map(by_task, rows)


def actor(problem: Problem, params: PyTree, *, noisy: bool = True) -> Policy:
    """What the network does; its mean alone if it is not ``noisy``."""

    def act(seen: Array, noise: Array) -> Array:
        outputs = _outputs(problem, params, seen)
        action = outputs[..., :2]
        return action + jnp.exp(outputs[..., 2:4]) * noise if noisy else action

    return act


def at_random(seen: Array, noise: Array) -> Array:
    """Normal noise, cut at -1 and 1 by the thrusters."""
    return noise


def regulated(seen: Array, noise: Array) -> Array:
    """What `regulator` does, in every task."""
    gains = [regulator(jax.tree.map(lambda x, k=k: x[k], TASKS)) for k in range(NUM_TASKS)]
    error = seen[..., :4] - jnp.pad(jnp.float32(TASKS.goal), ((0, 0), (0, 2)))[:, None]
    return jnp.einsum("tij,tnj->tni", jnp.float32(np.stack(gains)), error)


def _outputs(problem: Problem, params: PyTree, seen: Array) -> Array:
    nothing = jnp.zeros(seen.shape[:2])
    return problem.outputs(params, Batch(seen, seen[..., :2], nothing, nothing))


def _seen(state: State) -> Float[Array, "t n 14"]:
    which = jnp.broadcast_to(jnp.eye(NUM_TASKS)[:, None], (*state.position.shape[:2], NUM_TASKS))
    return jnp.concatenate([state.position, state.velocity, which], axis=-1)
