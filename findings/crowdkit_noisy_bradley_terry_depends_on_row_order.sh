#!/bin/sh
# crowd-kit 1.4.2: `NoisyBradleyTerry` gives other scores when the same rows come in another order.
#
# Expected: a likelihood is a sum over comparisons, so their order does not matter.
# What happens: a score of the very same answers differs by 0.4, on a scale of 0 to 1. The gradient
# given to L-BFGS-B is not that of the likelihood: a worker's part is assigned (`=`), not
# added up, so only the worker's last row counts, and it is written one place too early
# (`labels + worker`, where the bias is read at `1 + labels + worker`).
# Source: crowdkit/aggregation/pairwise/noisy_bt.py, `NoisyBradleyTerry._compute_gradient`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check crowd-kit==1.4.2 numpy==2.4.6 pandas==3.1.1 scipy==1.17.1
venv/bin/python - <<'PY'
from importlib.metadata import version

import numpy as np
import pandas as pd
from crowdkit.aggregation import NoisyBradleyTerry
from scipy.optimize import approx_fprime

# w1 and w2 prefer a to b to c and err once in five; w3 always picks the left.
rows = []
for worker in ("w1", "w2", "w3"):
    for turn in range(5):
        for better, worse in ("ab", "bc", "ac"):
            left, right = (worse, better) if turn % 2 else (better, worse)
            label = left if worker == "w3" else worse if turn == 0 else better
            rows.append((worker, left, right, label))


def fit(ordered):
    data = pd.DataFrame(ordered, columns=["worker", "left", "right", "label"])
    return NoisyBradleyTerry().fit_predict(data)[list("abc")].to_numpy()


scores = {"as made": fit(rows), "reversed": fit(rows[::-1]), "sorted": fit(sorted(rows))}
print(*(f"{name} {version(name)}" for name in ("crowd-kit", "scipy")))
for name, values in scores.items():
    print(f"scores of a, b, c, rows {name:9}", values.round(3))
assert abs(scores["as made"] - scores["reversed"]).max() > 0.2

point = np.random.default_rng(0).normal(size=8)  # 1 + 3 labels + 2 biases + 2 skills
pairs = np.array([[1, 2, 1], [2, 3, 2], [1, 3, 3], [1, 2, 1], [2, 3, 3]])
arguments = (pairs, np.array([0, 0, 0, 1, 1]), 3, 2, 0.0)
given = NoisyBradleyTerry._compute_gradient(point, *arguments)
measured = approx_fprime(point, NoisyBradleyTerry._compute_log_likelihood, 1e-6, *arguments)
print("gradient given:   ", given.round(3))
print("gradient measured:", measured.round(3))
assert np.allclose(given[:3], measured[:3], atol=1e-4)  # scores that no worker's part overwrites
assert abs(given[3:] - measured[3:]).max() > 0.1
PY
