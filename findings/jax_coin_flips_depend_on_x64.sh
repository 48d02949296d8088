#!/usr/bin/env bash
# jax 0.10.2: the same key flips other coins where 64 bits are enabled.
#
# Expected: 1000 booleans of one key and p = 0.5 do not depend on the width of floats; if enabling
#     64 bits changed draws, it would change all that are not floats alike.
# Seen: half of the coins differ, since uniform numbers are drawn in the dtype of p, which a Python
#     float takes from that setting. With p in float32 none does, nor does a permutation.
#
#     p = 0.5:          542 of 1000 differ
#     p = float32(0.5): 0 of 1000 differ
#     permutation:      0 of 1000 differ
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

draws = {
    "p = 0.5": lambda key: jax.random.bernoulli(key, 0.5, (1000,)),
    "p = float32(0.5)": lambda key: jax.random.bernoulli(key, jnp.float32(0.5), (1000,)),
    "permutation": lambda key: jax.random.permutation(key, 1000),
}
differ = {}
for name, draw in draws.items():
    found = []
    for wide in (False, True):
        with jax.enable_x64(wide):
            found.append(np.asarray(draw(jax.random.key(0))))
    differ[name] = int((found[0] != found[1]).sum())
    print(f"{name + ':':17} {differ[name]} of 1000 differ")
assert differ["p = float32(0.5)"] == differ["permutation"] == 0
assert differ["p = 0.5"] > 300, "the coins no longer depend on it"
PYTHON
