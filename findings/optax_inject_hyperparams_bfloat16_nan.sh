#!/usr/bin/env bash
# optax 0.2.8: inject_hyperparams(adam) gives NaN in its first step where parameters are bfloat16.
#
# Expected: the step of adam alone, -1e-3 in each entry, perhaps a little rounded.
# Seen: NaN. The hyper-parameters are cast to the parameters' dtype, in which b2 = 0.999 is 1, and
#     the bias correction divides zero by 1 - 1.
#
#     adam:                     [-0.000999451 -0.000999451]
#     inject_hyperparams(adam): [nan nan] with b2 = 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
import numpy as np
import optax

params = gradient = jnp.ones(2, jnp.bfloat16)
plain = optax.adam(1e-3)
step, _ = plain.update(gradient, plain.init(params), params)
injected = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)
state = injected.init(params)
other, _ = injected.update(gradient, state, params)
print("adam:                    ", np.asarray(step))
print("inject_hyperparams(adam):", np.asarray(other), "with b2 =", state.hyperparams["b2"])
assert jnp.isfinite(step).all()
assert jnp.isnan(other).all(), "it is finite now"
PYTHON
