#!/usr/bin/env bash
# optax 0.2.8: moving averages of bfloat16 arrays stop halfway, and Adam's steps grow by 39 %.
#
# Expected: after 20,000 steps the average of a constant 1 is 1 by incremental_update (target
#     networks, averaged weights) with a step of 0.001, 0.86 with 0.0001, and 1 by ema with a decay of
#     0.999; Adam's step for a constant gradient is 1.
# Seen: averages are kept in the array's own type, where an addition below half a unit of the last of
#     eight digits is lost: they come to rest at 0.5 and 0.03. Adam's average of squares does so too,
#     the other one hardly, and the step is 1.39 long; mu_dtype=float32 does not help.
#
#     incremental_update(0.001) 0.50, (0.0001) 0.03, ema(0.999) 0.50, adam 1.39, with mu_dtype 1.42
#     the same in float32: 1.00, 0.86, 1.00, 1.00, 1.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import optax

STEPS = 20_000


def average(dtype, step_size):
    one = jnp.ones((), dtype)
    blend = lambda _, average: optax.incremental_update(one, average, step_size)
    return jax.lax.fori_loop(0, STEPS, blend, jnp.zeros((), dtype))


def last(tx, dtype):
    one = jnp.ones((), dtype)

    def step(state, _):
        update, state = tx.update(one, state)
        return state, update

    return jax.lax.scan(step, tx.init(one), length=STEPS)[1][-1]


found = {}
for dtype in (jnp.bfloat16, jnp.float32):
    found[dtype.__name__] = [
        float(x)
        for x in (
            average(dtype, 0.001),
            average(dtype, 0.0001),
            last(optax.ema(0.999, debias=False), dtype),
            last(optax.scale_by_adam(), dtype),
            last(optax.scale_by_adam(mu_dtype=jnp.float32), dtype),
        )
    ]
names = ["incremental_update(0.001)", "(0.0001)", "ema(0.999)", "adam", "with mu_dtype"]
low, full = found.values()
print(", ".join(f"{name} {x:.2f}" for name, x in zip(names, low, strict=True)))
print("the same in float32:", ", ".join(f"{x:.2f}" for x in full))
assert low[0] < 0.6 and low[1] < 0.1 and low[2] < 0.6, "the averages arrive now"
assert low[3] > 1.2 and low[4] > 1.2 and abs(full[3] - 1) < 0.01
PYTHON
