#!/usr/bin/env bash
# torchjd 0.18.0: autogram's Engine leaves out what losses read of a parameter beside the module.
#
# Expected: the Gram matrix of the gradients of two losses with weight decay in both, as autograd has
#     it, or an error where a loss reads a parameter that did not come through the module's output.
# Seen: the Gram matrix of the losses without the decay, silently. Two losses that share the decay
#     alone are told to have nothing in common.
#
#     autograd [[318.0, 32.0], [32.0, 638.0]]
#     autogram [[296.0, 0.0], [0.0, 596.0]]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 torchjd==0.18.0
"$work/venv/bin/python" - <<'PYTHON'
import torch
from torchjd.autogram import Engine

x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
layer = torch.nn.Linear(2, 2, bias=False)
layer.weight.data = torch.eye(2)


def losses():
    return (layer(x) ** 2).mean(0) + 0.5 * (layer.weight**2).sum()


rows = [torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].flatten() for loss in losses()]
wanted = torch.stack(rows) @ torch.stack(rows).T
engine = Engine(layer, batch_dim=None)
found = engine.compute_gramian(losses())
print("autograd", wanted.tolist())
print("autogram", found.tolist())
assert wanted.tolist() == [[318.0, 32.0], [32.0, 638.0]]
assert found.tolist() == [[296.0, 0.0], [0.0, 596.0]], "the decay counts now"
PYTHON
