#!/usr/bin/env bash
# conflictfree 0.1.8: ConFIGOperator() of two gradients is NaN where they agree, are opposite, or one
# of them is zero.
#
# Expected: their sum, zero, and the other gradient; its general function gives these.
# Seen: NaN in all three. By default two gradients take a shortcut, which divides by what is left of
#     each beside the other. A loss that is solved so ends the run.
#
#     equal:      shortcut [nan, nan], general [2.0, 4.0]
#     opposite:   shortcut [nan, nan], general [0.0, 0.0]
#     one zero:   shortcut [nan, nan], general [1.0, 0.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 conflictfree==0.1.8
"$work/venv/bin/python" - <<'PYTHON'
import torch
from conflictfree.grad_operator import ConFIGOperator

shortcut, general = ConFIGOperator(), ConFIGOperator(allow_simplified_model=False)
for name, rows, wanted in (
    ("equal:", [[1.0, 2.0], [1.0, 2.0]], [2.0, 4.0]),
    ("opposite:", [[1.0, 0.0], [-1.0, 0.0]], [0.0, 0.0]),
    ("one zero:", [[1.0, 0.0], [0.0, 0.0]], [1.0, 0.0]),
):
    gradients = torch.tensor(rows)
    short = shortcut.calculate_gradient(gradients)
    right = general.calculate_gradient(gradients)
    print(f"{name:11} shortcut {short.tolist()}, general {[round(x, 4) for x in right.tolist()]}")
    assert torch.allclose(right, torch.tensor(wanted), atol=1e-5)
    assert short.isnan().all(), "the shortcut is finite now"
PYTHON
