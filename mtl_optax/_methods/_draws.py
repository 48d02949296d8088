"""Random keys of methods that draw, kept in their states as plain arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, UInt32

from mtl_optax._checks import check_key


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
        key = check_key(method, key)
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


def random_orders(key: Key[Array, ""], num_tasks: int) -> Int[Array, "T T"]:
    """Draws an order of the tasks for each of them: the ranks of random numbers, without a sort."""
    drawn = jax.random.bits(key, (num_tasks, num_tasks), jnp.uint32)
    one, other = jnp.expand_dims(drawn, 2), jnp.expand_dims(drawn, 1)
    tasks = jnp.arange(num_tasks)
    earlier = jnp.expand_dims(tasks, 0) < jnp.expand_dims(tasks, 1)
    before = (other < one) | ((other == one) & jnp.expand_dims(earlier, 0))
    return jnp.sum(before, axis=2)
