#!/usr/bin/env bash
# optax 0.2.8: contrib.muon takes a stack of matrices, as vmap and scan over layers make them, and
# does not orthogonalise any of them.
#
# Expected: each matrix of the stack is treated as it is alone, or an error.
# Seen: a leaf of three axes silently goes to Adam: the update is that of adam(nesterov=True), and
#     the singular values of a matrix lie far apart, where those of the matrix alone are alike.
#
#     alone:      singular values from 0.069 to 0.113
#     in a stack: singular values from 0.000 to 0.799
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax
import numpy as np
import optax

gradient = jax.random.normal(jax.random.key(0), (3, 8, 8))
muon = optax.contrib.muon(0.1)
alone, _ = muon.update(gradient[0], muon.init(gradient[0]), gradient[0])
stacked, _ = muon.update(gradient, muon.init(gradient), gradient)
adam = optax.adam(0.1, nesterov=True)
wanted, _ = adam.update(gradient, adam.init(gradient), gradient)
for where, matrix in (("alone:", alone), ("in a stack:", stacked[0])):
    values = np.linalg.svd(np.asarray(matrix), compute_uv=False)
    print(f"{where:11} singular values from {values.min():.3f} to {values.max():.3f}")
    assert (values.max() < 2 * values.min()) == (where == "alone:")
assert np.allclose(stacked, wanted, rtol=1e-4), "the stack is no longer given to Adam"
PYTHON
