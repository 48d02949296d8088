"""A point mass in a viscous plane: ten tasks that differ in what thrusters do and where to go.

In each task a mass is to come to a goal and to stay there. What acts sees where it is, how fast,
and which task it is; it says how hard two thrusters push, each from -1 to 1. Task ``k`` has its
thrusters turned by ``36° k`` and its goal on the unit circle at ``108° k``, a mass of its own
between 1/4 and 1 and a reward scale of its own between 1/2 and 2.

That is the conflict: with the same errors of position and speed, the direction to push in is the
same in all tasks but for turns of 36°. The ten directions sum to zero, and tasks ``k`` and
``k + 5`` want the opposite, so that no linear function of position and speed serves any two.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

NUM_TASKS = 10
STEPS = 25
"""Of an episode, after which all begin anew."""
SECONDS = 0.2
"""Of a step."""
DRAG = 2.0
"""Slowing down in a second, as a multiple of the speed."""
EFFORT = 0.1
"""What squared thrust costs beside the distance."""
NEAR, SLOW = 0.1, 0.2
"""An episode succeeds if it ends no further from the goal, and no faster."""


class Task(NamedTuple):
    """What tasks differ in."""

    thrusters: Float[Any, "*t 2 2"]
    """The directions they push in, one a column."""
    goal: Float[Any, "*t 2"]
    mass: Float[Any, "*t"]
    scale: Float[Any, "*t"]
    """Of the reward."""


class State(NamedTuple):
    """Where a mass is, and how fast."""

    position: Float[Array, "*n 2"]
    velocity: Float[Array, "*n 2"]


def all_tasks() -> Task:
    """The ten, in order."""
    number = np.arange(NUM_TASKS)
    turn, place = np.deg2rad(36 * number), np.deg2rad(108 * number)
    cos, sin = np.cos(turn), np.sin(turn)
    # Neither masses nor scales follow the angles, or each other.
    return Task(
        thrusters=np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=1),
        goal=np.stack([np.cos(place), np.sin(place)], axis=-1),
        mass=np.geomspace(0.25, 1, NUM_TASKS)[7 * number % NUM_TASKS],
        scale=np.geomspace(0.5, 2, NUM_TASKS)[3 * number % NUM_TASKS],
    )


def start(key: PRNGKeyArray, shape: tuple[int, ...]) -> State:
    """Positions in the square from -1 to 1, speeds along each axis from -1/2 to 1/2."""
    position, velocity = jax.random.split(key)
    return State(
        jax.random.uniform(position, (*shape, 2), minval=-1.0, maxval=1.0),
        jax.random.uniform(velocity, (*shape, 2), minval=-0.5, maxval=0.5),
    )


def step(task: Task, state: State, action: Float[Array, " 2"]) -> tuple[State, Float[Array, ""]]:
    """The state after a step of constant thrust, and its reward.

    Exactly that of ``mass (dv/dt + DRAG v) = thrusters @ thrust``; the reward is
    ``-scale (distance + EFFORT |thrust|²)``.
    """
    thrust = jnp.clip(action, -1, 1)
    final = task.thrusters @ thrust / (task.mass * DRAG)  # The speed that drag allows.
    left = np.exp(-DRAG * SECONDS)
    velocity = final + left * (state.velocity - final)
    moved = SECONDS * final + (1 - left) / DRAG * (state.velocity - final)
    position = state.position + moved
    cost = jnp.linalg.norm(position - task.goal) + EFFORT * jnp.sum(thrust**2)
    return State(position, velocity), -task.scale * cost


def succeeded(task: Task, state: State) -> Bool[Array, ""]:
    """Whether an episode that ends like this has come to its goal and stays there."""
    near = jnp.linalg.norm(state.position - task.goal) <= NEAR
    return near & (jnp.linalg.norm(state.velocity) <= SLOW)


def regulator(task: Task) -> Float[np.ndarray, "2 4"]:
    """The thrust for each unit of error in position and of speed, by one who knows the task.

    The linear-quadratic regulator of ``distance² + EFFORT |thrust|²``: not the best for this
    reward and for thrust that has a limit, but near it.
    """
    left = np.exp(-DRAG * SECONDS)
    free = np.array([[1, (1 - left) / DRAG], [0, left]])
    pushed = np.array([SECONDS - (1 - left) / DRAG, 1 - left]) / (float(task.mass) * DRAG)
    cost = wanted = np.diag([1.0, 0.0])
    for _ in range(1000):
        gain = pushed @ cost @ free / (EFFORT + pushed @ cost @ pushed)
        cost = wanted + free.T @ cost @ (free - np.outer(pushed, gain))
    return -np.concatenate([g * np.asarray(task.thrusters).T for g in gain], axis=1)
