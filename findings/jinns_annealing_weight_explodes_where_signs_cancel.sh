#!/usr/bin/env bash
# jinns 1.10.2: lr_annealing divides by the size of a mean, where its formula has the mean of sizes.
#
# Expected: "mean(|grad|)", of its docstring and the paper: a gradient (0.5, -0.5) counts as (0.5, 0.5)
#     does, and the new weight is 0.1 + 0.9 * 2 / 0.5 = 3.7.
# Seen: |mean(grad)| is zero for it, so that the weight is 0.9 * 2 over an epsilon of 1e-6. The larger
#     a layer, the nearer to zero the mean of its gradient, and the larger all weights.
#
#     gradient [0.5, 0.5]: weight 3.7
#     gradient [0.5, -0.5]: weight 1800000.1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8 equinox==0.13.8 \
    jaxtyping matplotlib
"$work/venv/bin/pip" install --quiet --no-deps jinns==1.10.2
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import equinox
import jax
import jax.numpy as jnp
from jinns.loss._loss_weight_updates import lr_annealing


class Terms(equinox.Module):
    dyn_loss: jax.Array
    initial_condition: jax.Array


weights = Terms(jnp.array(1.0), jnp.array(1.0))
found = []
for gradient in ([0.5, 0.5], [0.5, -0.5]):
    terms = Terms(jnp.array([1.0, 2.0]), jnp.array(gradient))
    found.append(float(lr_annealing(weights, terms)[1]))
    print(f"gradient {gradient}: weight {found[-1]:.1f}")
assert abs(found[0] - 3.7) < 1e-3
assert found[1] > 1e6, "signs no longer matter"
PYTHON
