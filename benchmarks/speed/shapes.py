"""Models of several shapes, for how task gradients are gathered: parameters, batch and losses."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model with its data.

    Attributes:
        name: as the table has it.
        num_tasks: T.
        target: the most that the best way may take, over equal weighting.
        params: arrays of NumPy.
        batch: arrays of NumPy; where each task has a batch of its own, with a task axis in front.
        losses: maps `(params, batch)` to `(T,)`; of one task's batch to a scalar, if `own`.
        own: whether each task has a batch of its own.
    """

    name: str
    num_tasks: int
    target: float
    params: Arrays
    batch: tuple[Any, ...]
    losses: Callable[..., Any]
    own: bool = False


def shapes() -> list[Callable[[], Shape]]:
    """Returns what makes each of the models."""
    return [
        *(functools.partial(mlp, 3, 1024, 128, *case) for case in ((2, 1.5), (4, 2.2), (14, 5.8))),
        functools.partial(mlp, 3, 512, 128, 40, 15.0),
        functools.partial(mlp, 2, 2048, 32, 4, 2.1),
        recommender,
        *(functools.partial(recommender, 4096, 1_000_000, num_tasks=t) for t in (2, 3, 4)),
        transformer,
        cnn,
        own_batches,
    ]


def _draw(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def _dense(seed: int, inputs: int, outputs: int) -> np.ndarray:
    return _draw(seed, inputs, outputs, scale=inputs**-0.5)


def _mlp_params(layers: int, width: int) -> Arrays:
    weights = {f"w{k}": _dense(k, width, width) for k in range(layers)}
    return weights | {f"b{k}": np.zeros(width, np.float32) for k in range(layers)}


def _mlp(layers: int, params: Arrays, x: Any) -> Any:
    for k in range(layers):
        x = jax.nn.relu(x @ params[f"w{k}"] + params[f"b{k}"])
    return x


def mlp(layers: int, width: int, rows: int, num_tasks: int, target: float) -> Shape:
    """Square dense layers."""
    params = _mlp_params(layers, width) | {"heads": _dense(99, width, num_tasks)}

    def losses(params: Arrays, x: Any, y: Any) -> Any:
        return jnp.mean((_mlp(layers, params, x) @ params["heads"] - y) ** 2, axis=0)

    batch = (_draw(1, rows, width), _draw(2, rows, num_tasks))
    name = f"MLP {layers} × {width}, batch {rows}"
    return Shape(name, num_tasks, target, params, batch, losses)


def recommender(
    rows: int = 512, vocabulary: int = 200_000, width: int = 16, num_tasks: int = 3
) -> Shape:
    """Four lookups in one table, and a small dense layer."""
    fields = 4
    params = {
        "table": _draw(0, vocabulary, width),
        "w": _dense(1, fields * width, 64),
        "heads": _dense(2, 64, num_tasks),
    }

    def losses(params: Arrays, ids: Any, y: Any) -> Any:
        x = params["table"][ids].reshape(len(ids), -1)
        return jnp.mean((jax.nn.relu(x @ params["w"]) @ params["heads"] - y) ** 2, axis=0)

    ids = np.random.default_rng(3).integers(0, vocabulary, (rows, fields)).astype(np.int32)
    name = f"recommender {vocabulary} × {width}, batch {rows}"
    return Shape(name, num_tasks, 1.6, params, (ids, _draw(4, rows, num_tasks)), losses)


BLOCKS, ATTENTION_HEADS = 2, 4


def transformer(rows: int = 16, length: int = 32, width: int = 128) -> Shape:
    """Two blocks of attention and dense layers, normalised before each."""
    num_tasks, vocabulary = 4, 2000
    params: Arrays = {
        "table": _draw(0, vocabulary, width, scale=0.1),
        "heads": _dense(1, width, num_tasks),
    }
    for k in range(BLOCKS):
        params |= {
            f"qkv{k}": _dense(10 * k + 2, width, 3 * width),
            f"out{k}": _dense(10 * k + 3, width, width),
            f"up{k}": _dense(10 * k + 4, width, 4 * width),
            f"down{k}": _dense(10 * k + 5, 4 * width, width),
            f"scale{k}": np.ones((2, width), np.float32),
        }

    def normal(x: Any, scale: Any) -> Any:
        centred = x - jnp.mean(x, -1, keepdims=True)
        return scale * centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)

    def losses(params: Arrays, tokens: Any, y: Any) -> Any:
        x = params["table"][tokens]
        heads = lambda z: z.reshape(*z.shape[:2], ATTENTION_HEADS, -1)
        for k in range(BLOCKS):
            z = normal(x, params[f"scale{k}"][0]) @ params[f"qkv{k}"]
            q, keys, v = map(heads, jnp.split(z, 3, -1))
            scores = jnp.einsum("bshd,bthd->bhst", q, keys) / q.shape[-1] ** 0.5
            mixed = jnp.einsum("bhst,bthd->bshd", jax.nn.softmax(scores), v)
            x += mixed.reshape(x.shape) @ params[f"out{k}"]
            z = jax.nn.gelu(normal(x, params[f"scale{k}"][1]) @ params[f"up{k}"])
            x += z @ params[f"down{k}"]
        return jnp.mean((jnp.mean(x, 1) @ params["heads"] - y) ** 2, axis=0)

    tokens = np.random.default_rng(3).integers(0, vocabulary, (rows, length)).astype(np.int32)
    name = f"Transformer d = {width}, {rows} × {length} tokens"
    return Shape(name, num_tasks, 2.2, params, (tokens, _draw(4, rows, num_tasks)), losses)


CONVOLUTIONS = ((3, 32), (32, 64), (64, 64))


def cnn(rows: int = 16) -> Shape:
    """Three convolutions of stride two, and a dense layer."""
    num_tasks, side = 4, 32
    hidden = 256
    params = {
        f"c{k}": _draw(k, 3, 3, *channels, scale=(9 * channels[0]) ** -0.5)
        for k, channels in enumerate(CONVOLUTIONS)
    }
    flat = (side // 8) ** 2 * CONVOLUTIONS[-1][1]
    params |= {"w": _dense(8, flat, hidden), "heads": _dense(9, hidden, num_tasks)}

    def losses(params: Arrays, x: Any, y: Any) -> Any:
        for k in range(len(CONVOLUTIONS)):
            x = jax.nn.relu(
                jax.lax.conv_general_dilated(
                    x, params[f"c{k}"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            )
        x = jax.nn.relu(x.reshape(len(x), -1) @ params["w"])
        return jnp.mean((x @ params["heads"] - y) ** 2, axis=0)

    batch = (_draw(5, rows, side, side, 3), _draw(6, rows, num_tasks))
    return Shape(f"CNN of three convolutions, batch {rows}", num_tasks, 2.5, params, batch, losses)


def own_batches(rows: int = 16, layers: int = 2, width: int = 512) -> Shape:
    """Square dense layers, and a batch for each task."""
    num_tasks = 5
    params = _mlp_params(layers, width) | {"head": _dense(9, width, 1)[:, 0]}

    def loss(params: Arrays, x: Any, y: Any) -> Any:
        return jnp.mean((_mlp(layers, params, x) @ params["head"] - y) ** 2)

    batch = (_draw(1, num_tasks, rows, width), _draw(2, num_tasks, rows))
    name = f"batch per task, MLP {layers} × {width}, {rows} each"
    return Shape(name, num_tasks, 1.4, params, batch, loss, own=True)
