#!/usr/bin/env bash
# optax 0.2.8: projection_simplex of two large numbers does not lie on the simplex.
#
# Expected: entries between 0 and 1 that sum to 1. For [1e8, 1e8 + 8], both exact in float32, the
#     projection is [0, 1].
# Seen: [0.5, 8.5], a sum of 9: the threshold is a difference of sums that float32 rounds to
#     multiples of 16. The same numbers less their maximum are projected right, and the projection
#     is the same by definition.
#
#     of [100000000, 100000008]: [0.5 8.5]
#     of the same less 1e8 + 8: [0. 1.]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
import numpy as np
import optax

values = jnp.array([1e8, 1e8 + 8])
assert values.astype(int).tolist() == [100000000, 100000008]
far = np.asarray(optax.projections.projection_simplex(values))
near = np.asarray(optax.projections.projection_simplex(values - values.max()))
print("of [100000000, 100000008]:", far)
print("of the same less 1e8 + 8:", near)
assert near.tolist() == [0.0, 1.0]
assert far.sum() > 2, "it lies on the simplex now"
PYTHON
