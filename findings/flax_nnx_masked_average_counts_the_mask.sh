#!/usr/bin/env bash
# flax 0.12.8: a metric with a mask that is broadcast divides by the entries of the mask (a mend is
# proposed: google/flax, pull request 5588).
#
# Expected: any mask will do that can be broadcast to the values, as the documentation says. Of losses
#     (4, 3), each 0.5, the mean is 0.5 with a mask (4, 1) of rows, a mask (3,) of tasks, or the full
#     mask of the same entries; right answers are 100 %.
# Seen: nnx.metrics.Average and Accuracy sum the broadcast product and count the mask as it is. A
#     mask of rows makes the mean T times too large, a mask of tasks B times: an accuracy of 300 %.
#
#     mean: whole mask 0.50, of rows 1.50, of tasks 2.00; accuracy: whole 1.00, of rows 3.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
from flax import nnx


def told(metric, **given):
    metric.update(**given)
    return float(metric.compute())


losses = jnp.full((4, 3), 0.5)
rows = jnp.array([[True], [True], [False], [True]])  # One is padding.
tasks = jnp.array([True, False, True])
whole = jnp.broadcast_to(rows, losses.shape)
mean = [told(nnx.metrics.Average(), values=losses, mask=mask) for mask in (whole, rows, tasks)]

labels = jnp.ones((4, 3), jnp.int32)
right = {"logits": jnp.ones((4, 3)), "labels": labels}
accuracy = [told(nnx.metrics.Accuracy(threshold=0.5), **right, mask=mask) for mask in (whole, rows)]
print("mean: whole mask {:.2f}, of rows {:.2f}, of tasks {:.2f};".format(*mean), end=" ")
print("accuracy: whole {:.2f}, of rows {:.2f}".format(*accuracy))
assert mean[0] == 0.5 and accuracy[0] == 1
assert mean[1:] == [1.5, 2.0] and accuracy[1] == 3, "it counts what it sums now"
PYTHON
