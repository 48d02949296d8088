#!/usr/bin/env bash
# JAX 0.10.2, CPU: sums over the leading axis of a wide array take tens of times as long as they took
# with 0.10.1, and as a product with ones takes.
#
# Expected: the sum over the tasks of stacked gradients, `jax.tree.map(lambda g: g.sum(0), grads)`, is
#     bound by memory: all entries are read once.
# Seen: 43 ms for a leaf of (4, 1024, 1024) on two cores, 0.8 ms as `jnp.tensordot(ones, g, 1)`; with
#     (20, 1000000) 187 ms and 3 ms. So are means, maxima and what is fused with them. 0.8.1, 0.9.2,
#     0.10.0 and 0.10.1 take no longer for the sum than for the product. The compiler option
#     xla_cpu_experimental_ynn_fusion_type="" makes the sum of 0.10.2 as quick as theirs, but a sum over
#     all axes but the last, as batch normalisation's, 40 times as slow.
#
#     0.10.1: sum over product   0.8, with the option   0.5
#     0.10.2: sum over product  29.8, with the option   0.9
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/sums.py" <<'PYTHON'
import time

import jax
import jax.numpy as jnp

stacked = jnp.ones((4, 1024, 1024))
option = {"xla_cpu_experimental_ynn_fusion_type": ""}
programs = {
    "product": jax.jit(lambda g: jnp.tensordot(jnp.ones(len(g)), g, 1)),
    "sum": jax.jit(lambda g: g.sum(0)),
    "with the option": jax.jit(lambda g: g.sum(0), compiler_options=option),
}
least = dict.fromkeys(programs, float("inf"))
for _ in range(21):
    for name, program in programs.items():
        began = time.perf_counter()
        program(stacked).block_until_ready()
        least[name] = min(least[name], time.perf_counter() - began)
ratio, mended = (least[name] / least["product"] for name in ("sum", "with the option"))
print(f"{jax.__version__}: sum over product {ratio:5.1f}, with the option {mended:5.1f}")
slow = jax.__version__ == "0.10.2"
assert (ratio > 10) == slow, ratio
assert mended < 5, mended
PYTHON
for version in 0.10.1 0.10.2; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install --quiet "jax==$version" "jaxlib==$version"
    JAX_PLATFORMS=cpu "$work/$version/bin/python" "$work/sums.py"
done
