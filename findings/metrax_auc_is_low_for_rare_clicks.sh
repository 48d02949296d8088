#!/usr/bin/env bash
# google-metrax 0.2.4: the AUC of a rare task is far too low, however well its answers are ranked.
#
# Expected: the area under the ROC curve, as scikit-learn has it. It depends on the order of the
#     answers alone: half of each probability has the same.
# Seen: the curve is drawn through 200 thresholds that divide [0, 1] evenly, and what lies between two
#     of them counts as tied. Of purchases that happen once in 2,000 times, most probabilities lie
#     below the first one, 0.005. keras.metrics.AUC has the same thresholds.
#
#     1 in 2000: scikit-learn 0.897, metrax 0.690, of halved probabilities 0.631
#     1 in 100: scikit-learn 0.915, metrax 0.899, of halved probabilities 0.881
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 numpy==2.4.6 \
    scikit-learn==1.9.1 clu==0.0.12
"$work/venv/bin/pip" install --quiet --no-deps google-metrax==0.2.4
JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
import numpy as np
from metrax import AUCROC
from sklearn.metrics import roc_auc_score

rng = np.random.default_rng(0)


def aucs(rate):
    """Of the true probabilities, whose logits have the deviation 2."""
    logits = 2 * rng.normal(size=100_000)
    low, high = -20.0, 20.0
    for _ in range(60):
        shift = (low + high) / 2
        probabilities = 1 / (1 + np.exp(-logits - shift))
        low, high = (shift, high) if probabilities.mean() < rate else (low, shift)
    clicks = rng.random(len(logits)) < probabilities
    told = lambda x: float(AUCROC.from_model_output(jnp.asarray(x), jnp.asarray(clicks)).compute())
    return roc_auc_score(clicks, probabilities), told(probabilities), told(probabilities / 2)


for one_in in (2000, 100):
    true, found, halved = aucs(1 / one_in)
    print(f"1 in {one_in}: scikit-learn {true:.3f}, metrax {found:.3f},", end=" ")
    print(f"of halved probabilities {halved:.3f}")
    assert true - halved > 0.02, "it depends on the order alone now"
    assert one_in == 100 or true - found > 0.15
PYTHON
