"""One training of one method: a single program, in which a scan over epochs runs one over updates.

A seed decides the initial parameters, where episodes start and the noise of actions, whatever the
method and the learning rate; validation and test episodes are the same for all of them.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from benchmarks.control.agent import VALIDATION, Outcome, Policy, actor, batch_of, outcome, play
from benchmarks.train.problem import Problem
from benchmarks.train.recipes import Recipe
from benchmarks.train.training import mean_cosine, weights_of


class Trained(NamedTuple):
    """A training of ``p`` epochs."""

    params: PyTree
    """After each epoch, on a leading axis."""
    loss: Float[Any, "p t"]
    """The mean over the updates of an epoch."""
    weights: Float[Any, "p t"] | None
    """The same of the weights applied, of methods that are a weighted sum."""


class Judgement(NamedTuple):
    """What is seen of each epoch's parameters without the test episodes."""

    validation: Outcome
    cosine: Float[Any, " p"] | None
    """Between the tasks' gradients of a batch, the mean over pairs; of shared parameters."""


@partial(jax.jit, static_argnums=0)
def begin(problem: Problem, seed: int) -> tuple[PyTree, PRNGKeyArray]:
    """The initial parameters, and the key of what follows."""
    params_key, key = jax.random.split(jax.random.key(seed))
    return problem.init(params_key), key


@partial(jax.jit, static_argnums=(0, 1))
def train(recipe: Recipe, epochs: int, rate: Any, params: PyTree, key: PRNGKeyArray) -> Trained:
    """All of a training that begins with what `begin` gives."""
    problem = recipe.problem
    steps = problem.steps_per_epoch
    done = (jnp.arange(epochs * steps) + 0.5) / (epochs * steps)
    rates = rate * problem.schedule(done)

    def update(carry: tuple[PyTree, PyTree], now: tuple[Array, Array]) -> tuple[Any, Any]:
        (params, state), (rate, key) = carry, now
        query = None
        if recipe.query:
            query = batch_of(problem, params, jax.random.fold_in(key, 1))
        batch = batch_of(problem, params, key)
        losses, updates, state = recipe.update(rate, params, state, batch, query)
        return (optax.apply_updates(params, updates), state), (losses, weights_of(state))

    def epoch(carry: tuple[PyTree, PyTree], now: tuple[Array, Array]) -> tuple[Any, Any]:
        carry, trace = jax.lax.scan(update, carry, now)
        return carry, (carry[0], *jax.tree.map(lambda x: x.mean(axis=0), trace))

    keys = jax.random.split(key, (epochs, steps))
    first = params, recipe.init(params)
    return Trained(*jax.lax.scan(epoch, first, (rates.reshape(epochs, steps), keys))[1])


@partial(jax.jit, static_argnums=0)
def judge(problem: Problem, params: PyTree) -> Judgement:
    """The parameters of all epochs on `VALIDATION`; the batches of the cosine are no others'."""
    total = len(jax.tree.leaves(params)[0])

    def one(now: tuple[PyTree, Array]) -> Judgement:
        params, key = now
        found = evaluate(actor(problem, params, noisy=False), VALIDATION)
        return Judgement(found, mean_cosine(problem, params, batch_of(problem, params, key)))

    return jax.lax.map(one, (params, jax.random.split(jax.random.key(VALIDATION[0] + 1), total)))


def evaluate(policy: Policy, episodes: tuple[int, int]) -> Outcome:
    """What a policy comes to in `VALIDATION` or `TEST` episodes."""
    key, count = episodes
    return outcome(play(policy, jax.random.key(key), count))
