#!/usr/bin/env bash
# deepctr-torch 0.3.0: PLE makes as many shared experts as specific ones, whatever shared_expert_num.
#
# Expected: shared_expert_num shared experts at each level, all of them in use.
# Seen: specific_expert_num are made and shared_expert_num used. With 3 specific and 1 shared expert,
#     two shared ones of each level take memory and weight decay and have no gradient; with fewer
#     specific than shared ones, the first call raises an IndexError.
#
#     1 shared expert wanted, 3 specific: [3, 3] made, 16 of their 24 arrays without a gradient
#     2 shared experts wanted, 1 specific: IndexError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 \
    deepctr-torch==0.3.0 pandas==3.1.1 requests==2.34.2
"$work/venv/bin/python" - <<'PYTHON'
import torch
from deepctr_torch.inputs import DenseFeat
from deepctr_torch.models import PLE


def made(shared, specific):
    return PLE(
        [DenseFeat("x", 1)],
        shared_expert_num=shared,
        specific_expert_num=specific,
        task_types=["binary"] * 2,
        task_names=["finished", "liked"],
        device="cpu",
    )


model = made(shared=1, specific=3)
model(torch.ones(4, 1)).sum().backward()
counts = [len(level[0]) for level in model.shared_experts]
gradients = [parameter.grad for parameter in model.shared_experts.parameters()]
idle = sum(gradient is None for gradient in gradients)
print(f"1 shared expert wanted, 3 specific: {counts} made,", end=" ")
print(f"{idle} of their {len(gradients)} arrays without a gradient")
assert counts == [3, 3] and idle == 16 and len(gradients) == 24, "it makes what is wanted now"
try:
    made(shared=2, specific=1)(torch.ones(4, 1))
except IndexError:
    print("2 shared experts wanted, 1 specific: IndexError")
else:
    raise SystemExit("no error now")
PYTHON
