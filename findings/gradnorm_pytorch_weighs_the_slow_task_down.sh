#!/usr/bin/env bash
# gradnorm-pytorch 0.2.3: with a restoring force, the task that trains slowly loses weight.
#
# Expected: as in GradNorm, whose target norm is the mean times the relative inverse training rate to
#     the power alpha: of two equal gradients, that whose loss has not fallen gets more weight.
# Seen: less. The rate has the exponent -alpha.
#
#     losses (1, 1), then (1, 0.25): weights [0.95, 1.05]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 gradnorm-pytorch==0.2.3
"$work/venv/bin/python" - <<'PYTHON'
import torch
from gradnorm_pytorch import GradNormLossWeighter

theta = torch.nn.Parameter(torch.zeros(2))
weighter = GradNormLossWeighter(
    num_losses=2, learning_rate=0.1, restoring_force_alpha=1.0, grad_norm_parameters=theta
)
for losses in ([1.0, 1.0], [1.0, 0.25]):
    weighter.backward(list(torch.tensor(losses) + torch.eye(2) @ theta))
slow, fast = weighter.loss_weights.tolist()
print(f"losses (1, 1), then (1, 0.25): weights [{slow:.2f}, {fast:.2f}]")
assert abs(slow + fast - 2) < 1e-6
assert slow < 0.99 < 1.01 < fast, "the slow task is favoured now"
PYTHON
