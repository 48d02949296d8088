"""Texts as in `texts`, for a network that hides the task in the features that all tasks share.

AdvMTL (Liu, Qiu and Huang 2017) adds to the loss of each task λ = 0.05 times the cross-entropy of
a discriminator, whose gradient is reversed where it enters the shared features, and γ = 0.01 times
what shared and private features have in common. That is measured as public code does: both
centred, rows of unit length, the mean of the squares; their sum, as in the paper, would outweigh
all else here.

TchebycheffAdv (Mao et al. 2020): its text was not at hand, and no code is known. That it has the
Tchebycheff weights and a discriminator is certain, and no more. Here it is AdvMTL's network, whose
encoder follows the task of the largest loss, beside the mean over the tasks of AdvMTL's two terms.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from benchmarks.models.text_cnn import SharedPrivateTextCNN
from benchmarks.problems.networks import Network, in_trunk, merged, network
from benchmarks.train.problem import Adversarial, Problem
from mtl_optax.adversarial import orthogonality_penalty, task_discriminator_loss

LAMBDA, GAMMA = 0.05, 0.01


def shared_private(
    problem: Problem,
    sizes: dict[str, Any],
    given: Float[Array, "v g"],
    noise_of: Callable[[Network], Callable[..., Any]],
) -> Adversarial:
    """The problem with private convolutions of half as many channels beside the shared ones.

    Args:
        problem: the texts, for a network without private features.
        sizes: of that network.
        given: the part of the word vectors that is not learned.
        noise_of: a network to `Problem.noise` for as many features as its heads read.
    """
    private = sizes["channels"] // 2

    def make(rngs: nnx.Rngs) -> SharedPrivateTextCNN:
        return SharedPrivateTextCNN(**sizes, private=private, rngs=rngs)

    made, module = network(make), merged(make)

    def shared(path: Any) -> bool:
        return in_trunk(path) or "discriminator" in jtu.keystr(path[:1])

    def of_one(
        params: PyTree, batch: Any, task: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        model = module(params)
        common, own = model.features(batch.tokens, given)
        loss = problem.losses(model.answer(common, own, batch.kept), batch)
        tasks = jnp.full(len(batch.tokens), task)
        told = task_discriminator_loss(model.guess(common), tasks)
        alike = orthogonality_penalty(common, own, center=True, normalize=True, reduction="mean")
        return loss, LAMBDA * told + GAMMA * alike

    def objective(params: PyTree, batch: Any) -> tuple[Float[Array, " t"], Float[Array, " t"]]:
        axes = jtu.tree_map_with_path(lambda path, _: None if shared(path) else 0, params)
        return jax.vmap(of_one, (axes, 0, 0))(params, batch, jnp.arange(problem.num_tasks))

    return Adversarial(
        problem=replace(
            problem,
            init=made.init,
            shared=shared,
            forward=lambda params, batch: made.apply(params, batch.tokens, given, batch.kept),
            noise=noise_of(made),
        ),
        objective=objective,
        encoder=in_trunk,
        config={"private_channels": private, "lambda": LAMBDA, "gamma": GAMMA},
    )
