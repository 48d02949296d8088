#!/usr/bin/env bash
# pytorch-optimizer 4.1.0: PCGrad adds to a head's gradient what another task, that does not know the
# head, was projected by.
#
# Expected: a head that one task alone reads gets that task's own gradient, 3; it has no conflict.
# Seen: 3.15. The second task's gradient is projected on the first's with all its entries, and so
#     brings a share of the head's along. What both tasks share also moves by less than without heads.
#
#     with the head: shared [0.175, 0.7], head 3.15
#     shared alone:  shared [0.4, 0.7]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 pytorch-optimizer==4.1.0
"$work/venv/bin/python" - <<'PYTHON'
import torch
from pytorch_optimizer import PCGrad

rows = torch.tensor([[1.0, 0.0], [-0.5, 1.0]])


def gradients(with_head):
    theta, head = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
    wrapped = PCGrad(torch.optim.SGD([theta, head] if with_head else [theta], lr=1.0))
    wrapped.pc_backward([rows[0] @ theta + with_head * 3 * head.sum(), rows[1] @ theta])
    return theta.grad, head.grad


theta, head = gradients(with_head=True)
alone, _ = gradients(with_head=False)
rounded = lambda tensor: [round(x, 4) for x in tensor.tolist()]
print(f"with the head: shared {rounded(theta)}, head {head.item():.2f}")
print(f"shared alone:  shared {rounded(alone)}")
assert torch.allclose(alone, torch.tensor([0.4, 0.7]))
assert head.item() > 3.1, "the head keeps its own gradient now"
PYTHON
