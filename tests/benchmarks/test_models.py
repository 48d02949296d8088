"""The models compute what they should, and can learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from benchmarks.data.digits import multi_digits
from benchmarks.models.conv import MultiTaskConvNet, convolve_by_matmul


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 2)])
def test_convolution_by_matmul_is_a_convolution(strides: tuple[int, int]) -> None:
    image_key, kernel_key = jax.random.split(jax.random.key(0))
    images = jax.random.normal(image_key, (2, 9, 8, 3))
    kernel = jax.random.normal(kernel_key, (3, 2, 3, 5))
    expected = jax.lax.conv_general_dilated(
        images,
        kernel,
        strides,
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    actual = convolve_by_matmul(images, kernel, strides, "VALID")
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_convolution_by_matmul_refuses_padding() -> None:
    with pytest.raises(ValueError, match="'VALID'"):
        convolve_by_matmul(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), (1, 1), "SAME")


def test_network_learns_a_few_canvases_by_heart() -> None:
    canvases = multi_digits(train=32, validation=1, test=1).train
    network = MultiTaskConvNet(
        size=10, num_tasks=2, classes=10, channels=(8, 16), features=24, rngs=nnx.Rngs(0)
    )
    assert network(canvases.images).shape == (32, 2, 10)
    graph, params = nnx.split(network)
    optimizer = optax.adam(1e-2)

    def loss(params: nnx.State) -> jax.Array:
        logits = nnx.merge(graph, params)(canvases.images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, canvases.labels).mean()

    @jax.jit
    def fit(params: nnx.State) -> nnx.State:
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=200)
        return params

    logits = nnx.merge(graph, fit(params))(canvases.images)
    np.testing.assert_array_equal(logits.argmax(axis=-1), canvases.labels)
