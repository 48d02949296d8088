#!/usr/bin/env bash
# jax 0.8.1 and 0.10.2 on a CPU: jax.checkpoint and jax.lax.optimization_barrier have no effect.
#
# Expected: the gradient of sixteen layers in four blocks under jax.checkpoint computes most layers
#     twice, and holds half of the temporaries.
# Seen: not one operation more, and more memory. XLA removes barriers for the CPU before its last
#     search for what is computed twice, which undoes the recomputation, and before it fuses
#     operations. Without the pass that removes them checkpoints do what they say; so they do where
#     the blocks run in jax.lax.scan.
#
#     jax 0.8.1: plain 1.59 GFLOP 18.0 MB; checkpoint 1.59 GFLOP 21.0 MB;
#     with barriers kept 2.13 GFLOP 9.0 MB;
#     in a scan, temporaries 42.3 MB plain, 10.1 MB with checkpoint
#     jax 0.10.2: the same
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for version in 0.8.1 0.10.2; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install --quiet "jax==$version" "jaxlib==$version"
    JAX_PLATFORMS=cpu "$work/$version/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp

x = jnp.ones((4096, 64))
weights = [[jnp.ones((64, 64))] * 4] * 4
stacked = jnp.ones((4, 4, 64, 64))


def block(weights, x):
    for weight in weights:
        x = jnp.tanh(x @ weight)
    return x


def written_out(block):
    def loss(weights):
        out = x
        for part in weights:
            out = block(part, out)
        return jnp.sum(out * out)

    return loss


def scanned(block):
    return lambda weights: jnp.sum(jax.lax.scan(lambda x, w: (block(w, x), None), x, weights)[0])


def costs(loss, weights=weights, **options):
    program = jax.jit(jax.grad(loss)).lower(weights).compile(options)
    temporaries = program.memory_analysis().temp_size_in_bytes / 2**20
    return program.cost_analysis()["flops"] / 1e9, temporaries


kept = {"xla_disable_hlo_passes": "cse_barrier_expander"}
plain = costs(written_out(block))
checkpoint = costs(written_out(jax.checkpoint(block)))
with_barriers = costs(written_out(jax.checkpoint(block)), **kept)
loops = costs(scanned(block), stacked)[1], costs(scanned(jax.checkpoint(block)), stacked)[1]
show = "{:.2f} GFLOP {:.1f} MB".format
print(f"jax {jax.__version__}: plain {show(*plain)}; checkpoint {show(*checkpoint)};")
print(f"with barriers kept {show(*with_barriers)};")
print("in a scan, temporaries {:.1f} MB plain, {:.1f} MB with checkpoint".format(*loops))
assert checkpoint[0] < 1.01 * plain[0] and checkpoint[1] > plain[1], "it recomputes now"
assert with_barriers[0] > 1.3 * plain[0] and with_barriers[1] < 0.6 * plain[1]
assert loops[1] < 0.7 * loops[0]
PYTHON
done
