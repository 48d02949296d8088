#!/usr/bin/env bash
# flax 0.12.8: nnx.BatchNorm of bfloat16 features and parameters answers in float32, where
# linen.BatchNorm and nnx.LayerNorm keep bfloat16.
#
# Expected: a network whose parameters and input are cast to bfloat16 computes in it, with running
#     statistics in float32 beside it, in NNX as in Linen.
# Seen: NNX promotes by the statistics too. Nothing is said, and every layer after the first
#     normalisation multiplies in float32.
#
#     linen.BatchNorm: bfloat16, training and evaluation
#     nnx.LayerNorm:   bfloat16
#     nnx.BatchNorm:   float32, training and evaluation
#     nnx.Linear:      bfloat16 without, float32 after nnx.BatchNorm
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
from flax import linen, nnx


def half(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)


features = jax.random.normal(jax.random.key(0), (8, 4), jnp.bfloat16)

found = []
variables = linen.BatchNorm(use_running_average=False).init(jax.random.key(0), features)
variables = {**variables, "params": half(variables["params"])}
assert variables["batch_stats"]["mean"].dtype == jnp.float32
for average in (False, True):
    norm = linen.BatchNorm(use_running_average=average)
    found.append(norm.apply(variables, features, mutable=["batch_stats"])[0].dtype.name)
print("linen.BatchNorm:", *found)
assert found == ["bfloat16", "bfloat16"]

layer = nnx.LayerNorm(4, rngs=nnx.Rngs(0))
nnx.update(layer, half(nnx.state(layer, nnx.Param)))
print("nnx.LayerNorm:  ", layer(features).dtype.name)
assert layer(features).dtype == jnp.bfloat16

found = []
batch = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
nnx.update(batch, half(nnx.state(batch, nnx.Param)))
assert batch.scale[...].dtype == jnp.bfloat16
assert batch.mean[...].dtype == jnp.float32
for average in (False, True):
    batch.use_running_average = average
    found.append(batch(features).dtype.name)
print("nnx.BatchNorm:  ", *found)
assert found == ["float32", "float32"]

following = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
nnx.update(following, half(nnx.state(following, nnx.Param)))
print("nnx.Linear:     ", following(features).dtype.name, following(batch(features)).dtype.name)
assert following(features).dtype == jnp.bfloat16
assert following(batch(features)).dtype == jnp.float32, "Flax no longer leaves bfloat16 here"
PYTHON
