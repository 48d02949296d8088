#!/usr/bin/env bash
# jaxopt 0.8.5: the min-norm weights of two task gradients depend on the unit of the losses. For
# gradients of length 1e-3 both solvers give nearly equal weights; OSQP says that it has solved it.
#
# Expected: the weights of MGDA do not change where all gradients are multiplied by one number; a
#     solver whose tolerance does not fit says that it has not converged.
# Seen: the tolerances are absolute. The first guess, equal weights, already passes them.
#
#     unit 1: exact 0.7107 0.2893, OSQP 0.7109 0.2895 (solved), ProjectedGradient 0.7111 0.2889
#     unit 0.001: exact 0.7107 0.2893, OSQP 0.5001 0.4991 (solved), ProjectedGradient 0.5000 0.5000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 jaxopt==0.8.5
JAX_PLATFORMS=cpu "$work/venv/bin/python" -W ignore - <<'PYTHON'
import jax.numpy as jnp
import numpy as np
from jaxopt import OSQP, BoxOSQP, ProjectedGradient
from jaxopt.projection import projection_simplex

gradients = np.array([[1.0, 0.5], [0.3, -2.0]])
first, second = gradients
share = (second - first) @ second / np.sum((first - second) ** 2)
exact = np.array([share, 1 - share])


def shown(weights):
    return " ".join(f"{weight:.4f}" for weight in weights)


for unit, follows in ((1.0, True), (1e-3, False)):
    gram = jnp.asarray(unit**2 * gradients @ gradients.T, jnp.float32)
    solution = OSQP().run(
        params_obj=(gram, jnp.zeros(2)),
        params_eq=(jnp.ones((1, 2)), jnp.ones(1)),
        params_ineq=(-jnp.eye(2), jnp.zeros(2)),
    )
    assert solution.state.status == BoxOSQP.SOLVED, "OSQP no longer says that it has solved it"
    projected = ProjectedGradient(lambda w, gram=gram: w @ gram @ w / 2, projection_simplex)
    descended = projected.run(jnp.full(2, 0.5)).params
    print(
        f"unit {unit:g}: exact {shown(exact)}, OSQP {shown(solution.params.primal)} (solved), "
        f"ProjectedGradient {shown(descended)}"
    )
    for weights in (solution.params.primal, descended):
        off = np.abs(np.asarray(weights) - exact).max()
        assert (off < 0.01) == follows, "the weights no longer depend on the unit as they did"
        assert follows or np.abs(np.asarray(weights) - 0.5).max() < 0.01
PYTHON
