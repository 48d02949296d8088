"""Random keys of methods that draw, kept in their states as plain arrays."""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, UInt32


class RandomState(NamedTuple):
    """State of a method that draws.

    Attributes:
        key: the words of the next step's random key, as `jax.random.key_data` gives them: a plain
            array, which whatever saves, casts or averages trees of numbers can take.
    """

    key: UInt32[Array, " words"]


class Draws:
    """The states of a method that draws, from the key that its factory was given."""

    def __init__(self, method: str, key: Any) -> None:
        key = as_key(method, key)
        self._words, self._kind = jax.random.key_data(key), jax.random.key_impl(key)

    def init(self) -> RandomState:
        """Returns the state before the first step."""
        return RandomState(jnp.array(self._words))

    def next(self, state: RandomState) -> tuple[RandomState, Key[Array, ""]]:
        """Returns the next state, and the key of this step."""
        # A state that was averaged or cast on its way holds numbers of another kind.
        words = jnp.asarray(state.key).astype(jnp.uint32)
        following, now = jax.random.split(jax.random.wrap_key_data(words, impl=self._kind))
        return RandomState(jax.random.key_data(following)), now


def as_key(method: str, key: Any) -> Key[Array, ""]:
    """Returns a typed key from an integer seed or from a typed key."""
    if isinstance(key, jax.Array):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            return key
        if key.ndim == 0:  # optax.inject_hyperparams turns an integer seed into a float array.
            return jax.random.key(key.astype(jnp.uint32))
    elif isinstance(key, numbers.Integral) and not isinstance(key, bool):
        return jax.random.key(int(key))
    raise TypeError(
        f"{method}: key must be an int seed or a typed key from jax.random.key(seed), got {key!r}."
    )


def random_orders(key: Key[Array, ""], num_tasks: int) -> Int[Array, "T T"]:
    """Draws an order of the tasks for each of them: the ranks of random numbers, without a sort."""
    drawn = jax.random.bits(key, (num_tasks, num_tasks), jnp.uint32)
    one, other = jnp.expand_dims(drawn, 2), jnp.expand_dims(drawn, 1)
    tasks = jnp.arange(num_tasks)
    earlier = jnp.expand_dims(tasks, 0) < jnp.expand_dims(tasks, 1)
    before = (other < one) | ((other == one) & jnp.expand_dims(earlier, 0))
    return jnp.sum(before, axis=2)
