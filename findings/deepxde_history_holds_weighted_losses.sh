#!/usr/bin/env bash
# deepxde 1.15.0: the loss history holds the losses times `loss_weights`, and one weight in the list
# is stretched over all losses without a word.
#
# Expected: `loss_train` is what the equation and the boundary condition miss, whatever they weigh,
#     so that a weighting by the course of the losses can read it; and a list of another length than
#     the losses is an error.
# Seen: with weights 1 and 10 a boundary error of 9 stands there as 90. A list of one weight, 10,
#     multiplies both losses; a list of three raises.
#
#     no weights: [1.0, 9.0]
#     [1, 10]: [1.0, 90.0]
#     [10]: [10.0, 90.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scikit-optimize==0.10.2 \
    matplotlib deepxde==1.15.0
DDE_BACKEND=pytorch "$work/venv/bin/python" - 2> /dev/null <<'PYTHON'
import contextlib
import io

import deepxde


def history(weights):
    domain = deepxde.geometry.Interval(0, 1)
    equation = lambda x, y: deepxde.grad.jacobian(y, x) - 1
    ends = deepxde.icbc.DirichletBC(domain, lambda x: 3.0, lambda x, on_boundary: on_boundary)
    data = deepxde.data.PDE(domain, equation, ends, num_domain=4, num_boundary=2)
    model = deepxde.Model(data, deepxde.nn.FNN([1, 4, 1], "tanh", "zeros"))
    with contextlib.redirect_stdout(io.StringIO()):
        model.compile("sgd", lr=1e-9, loss_weights=weights)
        found = model.train(iterations=1, display_every=1)[0].loss_train[0]
    return [round(float(loss), 4) for loss in found]


print("no weights:", history(None))
print("[1, 10]:", history([1, 10]))
print("[10]:", history([10]))
assert history(None) == [1, 9]
assert history([1, 10]) == [1, 90], "the history is of the losses themselves now"
assert history([10]) == [10, 90], "one weight is no longer stretched"
PYTHON
