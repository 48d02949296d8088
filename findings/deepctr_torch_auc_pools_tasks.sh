#!/usr/bin/env bash
# deepctr-torch 0.3.0: the AUC of a model of several tasks is that of all tasks' answers in one pot.
#
# Expected: evaluate, and val_auc by which one stops or keeps a model, give the mean AUC of the tasks,
#     or one for each. What says the same of every row has 0.5.
# Seen: labels and predictions of all tasks are ranked together. A model that knows no more than how
#     often each task has a positive has 0.78 where 60 and 10 % are positive (all other metrics are
#     means over tasks, for which it makes no difference).
#
#     rates 0.60 and 0.10: evaluate 0.78; by task 0.500 and 0.500
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 \
    deepctr-torch==0.3.0 pandas==3.1.1 requests==2.34.2
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch
from deepctr_torch.inputs import DenseFeat
from deepctr_torch.models import MMOE
from sklearn.metrics import roc_auc_score

rng = np.random.default_rng(0)
rates = np.array([0.6, 0.1])
clicks = (rng.random((2000, 2)) < rates).astype("float32")
nothing = [np.zeros(2000, "float32")]  # The one feature says nothing.

names = ["finished", "liked"]
model = MMOE([DenseFeat("x", 1)], task_types=["binary"] * 2, task_names=names, device="cpu")
model.compile("adam", loss=["binary_crossentropy"] * 2, metrics=["auc"])
with torch.no_grad():
    for out, rate in zip(model.out, rates, strict=True):
        out.bias.fill_(np.log(rate / (1 - rate)))
told = model.evaluate(nothing, clicks)["auc"]
answers = model.predict(nothing)
each = [roc_auc_score(clicks[:, t], answers[:, t]) for t in range(2)]
print("rates {:.2f} and {:.2f}".format(*answers[0]), end=": ")
print(f"evaluate {told:.2f}; by task {each[0]:.3f} and {each[1]:.3f}")
assert each == [0.5, 0.5] and told > 0.7, "tasks are no longer pooled"
PYTHON
