#!/usr/bin/env bash
# torch-rechub 0.9.0: the trainer's GradNorm measures gradients of the first shared tensor, an
# embedding table, and the same gradient moves every task's weight.
#
# Expected: the weight of the last shared layer, as a comment there says and the paper has it; and
#     where one loss has fallen and another has not, another slope for each weight.
# Seen: it looks from the end for a matrix, from the index -0, which is the first. The rates are
#     averaged over tasks before they are used, so that the slopes are equal.
#
#     measured: embedding.embed_dict.user.weight
#     slopes where the second loss fell to a quarter: [1.0, 1.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 torch-rechub==0.9.0
"$work/venv/bin/python" - <<'PYTHON'
import torch
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.multi_task import SharedBottom
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.mtl import gradnorm

features, towers = [SparseFeature("user", 10, embed_dim=4)], [{"dims": [4]}] * 2
model = SharedBottom(features, ["classification"] * 2, {"dims": [8]}, towers)
trainer = MTLTrainer(model, ["classification"] * 2, adaptive_params={"method": "gradnorm"})
(name,) = [n for n, p in model.named_parameters() if p is trainer.last_share_layer]
print("measured:", name)

theta = torch.nn.Parameter(torch.zeros(2))
weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
losses = torch.tensor([1.0, 0.25]) + torch.eye(2) @ theta
gradnorm(list(losses), weights, theta, [1.0, 1.0], 1.0)
slopes = [weight.grad.item() for weight in weights]
print("slopes where the second loss fell to a quarter:", slopes)
assert any(n.startswith("bottom_mlp") and p.ndim == 2 for n, p in model.named_parameters())
assert name.startswith("embedding"), "another tensor is measured now"
assert slopes[0] == slopes[1], "the slopes differ now"
PYTHON
