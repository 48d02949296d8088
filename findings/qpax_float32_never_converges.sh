#!/usr/bin/env bash
# qpax 0.1.4: in JAX's default float32 the min-norm weights of two task gradients are right, and the
# solver says that they are not, after all of its 30 rounds.
#
# Expected: a quadratic program of two unknowns ends in a few rounds with converged = 1, as in float64.
# Seen: the default tolerance is below what float32 residuals reach: every solve runs to its limit,
#     and who trusts the flag throws away answers that are exact to rounding. solver_tol=1e-3 mends it.
#
#     float32:                    weights 0.71068 0.28932, converged 0, rounds 30
#     float32, solver_tol=1e-3:   weights 0.71053 0.28947, converged 1, rounds 3
#     float64:                    weights 0.71068 0.28932, converged 1, rounds 4
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 qpax==0.1.4
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax
import numpy as np
import qpax

gradients = np.array([[1.0, 0.5], [0.3, -2.0]])
first, second = gradients
# The point of the segment that is closest to the origin.
share = (second - first) @ second / np.sum((first - second) ** 2)
exact = np.array([share, 1 - share])


def solved(dtype, **options):
    """The weights on the simplex whose combination of the gradients is the shortest."""
    gram = gradients @ gradients.T
    program = (gram, np.zeros(2), np.ones((1, 2)), np.ones(1), -np.eye(2), np.zeros(2))
    found = qpax.solve_qp(*(jax.numpy.asarray(part, dtype) for part in program), **options)
    return np.asarray(found[0]), int(found[-2]), int(found[-1])


def told(what, weights, converged, rounds):
    shown = " ".join(f"{weight:.5f}" for weight in weights)
    print(f"{what:27} weights {shown}, converged {converged}, rounds {rounds}")


for what, options, wanted in (
    ("float32:", {}, (0, 30)),
    ("float32, solver_tol=1e-3:", {"solver_tol": 1e-3}, (1, 3)),
):
    weights, *rest = solved("float32", **options)
    told(what, weights, *rest)
    assert tuple(rest) == wanted, "qpax ends otherwise in float32 now"
    assert np.abs(weights - exact).max() < (1e-3 if options else 5e-6)
jax.config.update("jax_enable_x64", True)
weights, converged, rounds = solved("float64")
told("float64:", weights, converged, rounds)
assert converged and rounds < 10
assert np.abs(weights - exact).max() < 5e-6
PYTHON
