#!/usr/bin/env bash
# optax 0.2.8: clip_by_global_norm makes a large finite gradient zero.
#
# Expected: a gradient of norm 2e20 comes out with norm 1, in its own direction; one of four times
#     1000 in float16 likewise.
# Seen: zeros, both times. The squares overflow (in float32 above 1.8e19, in float16 above 256), the
#     norm is infinite, and the gradient is divided by it. The step is lost without a word.
#
#     float32 norm inf update [0. 0. 0. 0.]
#     float16 norm inf update [0. 0. 0. 0.]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
import numpy as np
import optax

clip = optax.clip_by_global_norm(1.0)
for dtype, entry in (("float32", 1e20), ("float16", 1000.0)):
    gradient = jnp.full(4, entry, dtype)
    assert jnp.isfinite(gradient).all()
    update, _ = clip.update(gradient, clip.init(gradient))
    print(dtype, "norm", optax.global_norm(gradient), "update", np.asarray(update))
    assert (update == 0).all(), "it is no longer dropped"
PYTHON
