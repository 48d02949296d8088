#!/usr/bin/env bash
# jax 0.10.2 on a CPU: a number below 1.2e-38 is held, but is zero for all that computes with it.
#
# Expected: float32 as NumPy has it, down to 1.4e-45: 1e-40 is above zero, and 1e-38 times 0.1 is
#     1e-39. (A flush to zero is known of GPUs; NumPy on the same processor has none.)
# Seen: the array holds 1e-40, and equals zero; products below the smallest normal number are zero.
#
#     held 1e-40, above zero False, equal to zero True
#     1e-38 times 0.1: jax 0.0, NumPy 1e-39
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
import numpy as np

small = jnp.float32(1e-40)
held = np.asarray(small)
print(f"held {held:.0e}, above zero {small > 0}, equal to zero {small == 0}")
tenth = jnp.float32(1e-38) * jnp.float32(0.1)
of_numpy = np.float32(1e-38) * np.float32(0.1)
print(f"1e-38 times 0.1: jax {tenth}, NumPy {of_numpy:.0e}")
assert held > 0 and of_numpy > 0
assert small == 0 and tenth == 0, "small numbers count now"
PYTHON
