#!/usr/bin/env bash
# optax 0.2.8: softmax_cross_entropy_with_integer_labels takes the label -1, which many data sets
# mean by "none", for the last class.
#
# Expected: an error or NaN, as for any label that is none of the classes.
# Seen: label 4 of four classes gives NaN, label -1 the finite loss of class 3 (and -4 that of
#     class 0), so that rows without a label are trained towards the last class.
#
#     label  3: 0.020012
#     label  4: nan
#     label -1: 0.020012
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
import optax

logits = jnp.array([0.0, 0.0, 0.0, 5.0])
losses = {
    label: optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array(label))
    for label in (3, 4, -1)
}
for label, loss in losses.items():
    print(f"label {label:2}: {loss:.6f}")
assert jnp.isnan(losses[4])
assert losses[-1] == losses[3], "label -1 is no longer the last class"
PYTHON
