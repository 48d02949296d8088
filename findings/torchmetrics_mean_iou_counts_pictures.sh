#!/usr/bin/env bash
# torchmetrics 1.9.0: segmentation.MeanIoU is not the mIoU that papers on dense tasks print (NYUv2,
# CityScapes).
#
# Expected: as JaccardIndex of the same package, the mean over the classes of intersection over union,
#     each summed over all pictures; or at least the mean of what `per_class=True` gives.
# Seen: the mean over all pairs of a picture and a class that is in it, so that a class counts as often
#     as there are pictures with it. Two pictures of ten pixels, one pixel told wrong, which is all there
#     is of its class in its picture: 0.63, where JaccardIndex says 0.90 and the classes' own values have
#     the mean 0.70. Pixels without a class, labelled -1 as in NYUv2, raise; JaccardIndex leaves them out.
#
#     JaccardIndex               0.9045
#     MeanIoU                    0.6333
#     MeanIoU, mean of classes   0.7000
#     MeanIoU with a label of -1 RuntimeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
"$work/venv/bin/python" - <<'PYTHON'
import torch
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

labels = torch.tensor([[[0] * 9 + [1]], [[1] * 10]])
told = torch.tensor([[[0] * 10], [[1] * 10]])
options = {"num_classes": 2, "input_format": "index"}
found = {
    "JaccardIndex": MulticlassJaccardIndex(num_classes=2)(told, labels),
    "MeanIoU": MeanIoU(**options)(told, labels),
    "MeanIoU, mean of classes": MeanIoU(**options, per_class=True)(told, labels).mean(),
}
for name, value in found.items():
    print(f"{name:26} {value:.4f}")
assert [round(float(value), 4) for value in found.values()] == [0.9045, 0.6333, 0.7]
# 9 / 10 and 10 / 11 are the intersections over unions of both pictures together; 9 / 10, 0 and 1 those
# of the three pairs.
torch.testing.assert_close(found["JaccardIndex"], torch.tensor((9 / 10 + 10 / 11) / 2))
torch.testing.assert_close(found["MeanIoU"], torch.tensor((9 / 10 + 0 + 1) / 3))

labels[0, 0, 0] = -1
assert MulticlassJaccardIndex(num_classes=2, ignore_index=-1)(told, labels) > 0.8
try:
    MeanIoU(**options)(told, labels)
except RuntimeError as error:
    print("MeanIoU with a label of -1", type(error).__name__)
else:
    raise SystemExit("a label of -1 no longer raises")
PYTHON
