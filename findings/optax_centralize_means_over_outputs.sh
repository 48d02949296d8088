#!/usr/bin/env bash
# optax 0.2.8 with flax 0.12.8: centralize subtracts the mean over the wrong axes of a Flax kernel.
#
# Expected: gradient centralization (Yong et al. 2020, Eq. 1) takes from the weight vector of each
#     output unit, or filter, its mean over what it reads, so that descent keeps that mean.
# Seen: the means are taken over all axes but the first. In PyTorch's layout that is one output; in
#     Flax, whose kernels are (inputs, outputs) and (height, width, inputs, outputs), it is one
#     input, or a row of the window. The vector of an output keeps its mean, and moves.
#
#     Linear: largest sum for an output 7.37, for an input 1e-07
#     Conv: largest sum for a filter 18.86, for a row of the window 3e-07
#     the mean weight of an output after ten steps: moved by 0.187
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8 flax==0.12.8
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import optax
from flax import nnx


def centred(layer, x, steps=1):
    """The kernel before, after some steps of descent, and the last centred gradient."""
    graph, params = nnx.split(layer)
    tx = optax.chain(optax.centralize(), optax.sgd(0.1))
    state, first = tx.init(params), params["kernel"][...]
    loss = lambda params: jnp.mean(jnp.square(nnx.merge(graph, params)(x) - 1))
    for _ in range(steps):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    return first, params["kernel"][...], -10 * updates["kernel"][...]


key = jax.random.key(0)
linear = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
x = jax.random.normal(key, (64, 8)) + 1
_, _, gradient = centred(linear, x)
outputs, inputs = jnp.max(jnp.abs(gradient.sum(0))), jnp.max(jnp.abs(gradient.sum(1)))
print(f"Linear: largest sum for an output {outputs:.2f}, for an input {inputs:.0e}")
assert outputs > 0.1 > 1e-4 > inputs, "it is centred over the inputs now"

conv = nnx.Conv(3, 4, kernel_size=(3, 3), rngs=nnx.Rngs(0))
_, _, gradient = centred(conv, jax.random.normal(key, (16, 8, 8, 3)) + 1)
filters, rows = (jnp.max(jnp.abs(gradient.sum(axes))) for axes in ((0, 1, 2), (1, 2, 3)))
print(f"Conv: largest sum for a filter {filters:.2f}, for a row of the window {rows:.0e}")
assert filters > 0.1 > 1e-4 > rows

before, after, _ = centred(linear, x, steps=10)
moved = jnp.max(jnp.abs(after.mean(0) - before.mean(0)))
print(f"the mean weight of an output after ten steps: moved by {moved:.3f}")
assert moved > 0.01
PYTHON
