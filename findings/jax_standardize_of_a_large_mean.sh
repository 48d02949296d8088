#!/usr/bin/env bash
# jax 0.10.2, flax 0.12.8: jax.nn.standardize does not give columns of a large mean the deviation 1.
#
# Expected: 100 columns of 256 pressures of 4000 +- 1, or temperatures of 300 +- 0.1 kelvin, in
#     float32, come out with the deviation 1: so they do by NumPy's mean and std in float32.
# Seen: the variance is the mean of squares less the square of the mean, 1.6e7 less 1.6e7, whose
#     roundings are as large as it is. Below zero it counts as zero, and 1e-5 is left to divide by.
#     nnx.BatchNorm (and LayerNorm) do the same unless use_fast_variance=False.
#
#     4000 +- 1: NumPy 1.00 to 1.00; jax.nn.standardize 0.43 to 340.41; BatchNorm 0.43 to 340.41;
#         with its switch 1.00 to 1.00
#     300 +- 0.1: NumPy 1.00 to 1.00; jax.nn.standardize 0.48 to 33.97; BatchNorm 0.48 to 33.97;
#         with its switch 1.00 to 1.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 numpy==2.4.6
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def layer(**options):
    return nnx.BatchNorm(100, rngs=nnx.Rngs(0), **options)


for mean, deviation in ((4000, 1), (300, 0.1)):
    columns = np.random.default_rng(0).normal(size=(256, 100))
    columns = (mean + deviation * columns).astype(np.float32)
    found = {
        "NumPy": (columns - columns.mean(0)) / columns.std(0),
        "jax.nn.standardize": jax.nn.standardize(jnp.asarray(columns), axis=0),
        "BatchNorm": layer()(jnp.asarray(columns)),
        "with its switch": layer(use_fast_variance=False)(jnp.asarray(columns)),
    }
    said = []
    for name, out in found.items():
        deviations = np.std(np.asarray(out), axis=0)
        low, high = deviations.min(), deviations.max()
        said.append(f"{name} {low:.2f} to {high:.2f}")
        if name in ("NumPy", "with its switch"):
            assert 0.99 < low < high < 1.01
        else:
            assert low < 0.7 and high > 3, "it has the deviation 1 now"
    print(f"{mean} +- {deviation}:", "; ".join(said))
PYTHON
