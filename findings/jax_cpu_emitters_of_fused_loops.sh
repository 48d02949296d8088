#!/usr/bin/env bash
# JAX 0.10.2, CPU: without its emitters of fused loops XLA compiles a loop of small linear algebra in
# half the time, and Adam's update of 200 leaves in several times the time.
#
# Guess: an option that leaves out a way to optimise makes every program compile faster, or none.
# Seen, CPU seconds of the compilation with xla_cpu_use_fusion_emitters true (the default) and false:
#
#     descent over supports, 3 x 3      0.31 -> 0.13
#     Adam, 200 leaves of (64, 64)      0.45 -> 3.08
#
#     With it on each fused loop costs some 10 ms, however small; with it off LLVM unrolls the long ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
cat > "$work/compile.py" <<'PYTHON'
import time

import jax
import jax.numpy as jnp
import optax


def descent(matrix):
    """Wolfe's minimum of w'Mw on the simplex, support by support."""

    def step(state):
        weights, support, _ = state
        cut = jnp.where(support[:, None] & support[None], matrix, jnp.eye(3))
        factor = jax.scipy.linalg.cho_factor(cut, lower=True)
        found = jax.scipy.linalg.cho_solve(factor, jnp.where(support, 1.0, 0.0))
        found += jax.scipy.linalg.cho_solve(factor, jnp.where(support, 1 - matrix @ found, 0.0))
        target = found / jnp.sum(found)
        ratios = jnp.where(support & (target <= 0), weights / (weights - target), jnp.inf)
        length = jnp.minimum(jnp.min(ratios), 1.0)
        weights = jnp.where(ratios <= length, 0.0, weights + length * (target - weights))
        slopes = matrix @ weights
        value = weights @ slopes
        lowest = jnp.argmin(slopes)
        done = (length == 1) & (slopes[lowest] > value - 1e-6)
        return weights, (weights > 0) | (jnp.arange(3) == lowest), done

    start = jnp.ones(3) / 3, jnp.ones(3, bool), jnp.array(False)
    return jax.lax.while_loop(lambda state: ~state[2], step, start)[0]


adam = optax.adam(1e-3)
tree = {f"leaf {i}": jnp.zeros((64, 64)) for i in range(200)}
programs = {
    "descent over supports, 3 x 3": (descent, (jnp.eye(3),)),
    "Adam, 200 leaves of (64, 64)": (adam.update, (tree, adam.init(tree))),
}


def seconds(function, arguments, emitters):
    jax.clear_caches()
    lowered = jax.jit(function).lower(*arguments)
    began = time.process_time()
    lowered.compile({"xla_cpu_use_fusion_emitters": emitters})
    return time.process_time() - began


ratios = []
for name, (function, arguments) in programs.items():
    seconds(function, arguments, True)
    on, off = (min(seconds(function, arguments, way) for _ in range(3)) for way in (True, False))
    print(f"{name}: {on:.2f} -> {off:.2f}")
    ratios.append(off / on)
assert ratios[0] < 0.75, ratios
assert ratios[1] > 2, ratios
PYTHON
JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/compile.py"
