#!/usr/bin/env bash
# softadapt 0.2.0: the slope of a history of losses is taken at its oldest point.
#
# Expected: a loss that fell at first and has been rising for two epochs counts for more than one that
#     stands still; SoftAdapt weighs by the latest rate of change.
# Seen: it counts for less. The finite difference over the history, of the highest order by default,
#     is a forward one. With accuracy_order=1, which is the last two losses, it counts for more.
#
#     all six losses: [0.42, 0.58]
#     the last two:   [0.60, 0.40]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 softadapt==0.2.0
KERAS_BACKEND=torch "$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from keras.ops import convert_to_numpy
from softadapt import SoftAdapt

turns, stands = np.array([1.0, 0.8, 0.7, 0.7, 0.9, 1.3]), np.ones(6)
found = {}
for name, options in (("all six losses:", {}), ("the last two:", {"accuracy_order": 1})):
    method = SoftAdapt(beta=1.0, **options)
    found[name] = convert_to_numpy(method.get_component_weights(turns, stands))
    print(f"{name:15} [{found[name][0]:.2f}, {found[name][1]:.2f}]")
assert found["the last two:"][0] > 0.5
assert found["all six losses:"][0] < 0.5, "the rising loss counts for more now"
PYTHON
