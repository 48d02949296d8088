"""A problem so small that training it takes no time."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.training import Problem


def toy_problem() -> Problem:
    """Two regressions on two inputs that share the first layer."""

    def init(key: jax.Array) -> Any:
        trunk_key, heads_key = jax.random.split(key)
        return {
            "trunk": jax.random.normal(trunk_key, (2, 3)),
            "heads": jax.random.normal(heads_key, (2, 3)),
        }

    def losses(params: Any, inputs: jax.Array) -> jax.Array:
        outputs = inputs @ params["trunk"] @ params["heads"].T
        targets = jnp.stack([inputs.sum(axis=1), 2 * inputs[:, 0]], axis=1)
        return jnp.mean((outputs - targets) ** 2, axis=0)

    inputs = jax.random.normal(jax.random.key(7), (64, 2))
    return Problem(
        tasks=("sum", "first"),
        score="fit",
        init=init,
        shared=lambda path: path[0].key == "trunk",
        sample=lambda key, train: jax.random.choice(key, train, (8,)),
        losses=losses,
        scores=lambda params, inputs: jnp.exp(-losses(params, inputs)),
        train=inputs[:32],
        validation=inputs[32:48],
        test=inputs[48:],
        probe=inputs[:16],
        config={"suite": "toy"},
    )
