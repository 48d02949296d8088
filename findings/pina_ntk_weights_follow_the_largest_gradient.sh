#!/usr/bin/env bash
# pina-mathlab 0.3.2.post2610: NeuralTangentKernelWeighting gives the most weight to the loss with the
# largest gradient.
#
# Expected: the reference that it names weighs a loss by the inverse of its share, so that none leads:
#     of gradients of lengths 10 and 1, the second gets the larger weight.
# Seen: after 50 epochs 0.91 and 0.09, the shares themselves: the step is 9.1 of the one and 0.09 of
#     the other, where it was 10 and 1 before.
#
#     weights [0.909, 0.091]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 pina-mathlab==0.3.2.post2610
"$work/venv/bin/python" - <<'PYTHON'
from types import SimpleNamespace

import torch
from pina.weighting import NeuralTangentKernelWeighting

model = torch.nn.Linear(2, 1, bias=False)
weighting = NeuralTangentKernelWeighting()
weighting._solver = SimpleNamespace(trainer=SimpleNamespace(current_epoch=0), model=model)
losses = {"equation": 10 * model.weight[0, 0], "data": model.weight[0, 1]}
for _ in range(50):
    weighting.aggregate(losses)
large, small = (float(weight) for weight in weighting.last_saved_weights().values())
print(f"weights [{large:.3f}, {small:.3f}]")
assert large > 0.85 and small < 0.15, "the smaller gradient is favoured now"
PYTHON
