#!/bin/sh
# crowd-kit 1.4.2: `BradleyTerry` stops after two rounds for every `n_iter` and every positive `tol`.
#
# Expected: with `n_iter=1000` the scores are the maximum likelihood. In a chain where a beats b,
# b beats c and c beats d 8 times of 10, each score is 4 times the next.
# What happens: the scores are those of `n_iter=2`. The stopping rule compares an array with itself
# (`p_old = p_new` makes no copy), so the change is always 0. Only `tol=0` runs all rounds,
# because 0 < 0 is false. The order is right here, but a's score is 1.8 times b's instead of 4.
# Source: crowdkit/aggregation/pairwise/bradley_terry.py, `BradleyTerry.fit`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check crowd-kit==1.4.2 numpy==2.4.6 pandas==3.1.1
venv/bin/python - <<'PY'
from importlib.metadata import version

import numpy as np
import pandas as pd
from crowdkit.aggregation import BradleyTerry

rows = [
    pair
    for left, right in ("ab", "bc", "cd")
    for pair in [(left, right, left)] * 8 + [(left, right, right)] * 2
]
data = pd.DataFrame(rows, columns=["left", "right", "label"])


def fit(n_iter, tol):
    return BradleyTerry(n_iter=n_iter, tol=tol).fit_predict(data)[list("abcd")].to_numpy()


exact = np.array([64, 16, 4, 1]) / 85
print("crowd-kit", version("crowd-kit"))
print("closed form            ", exact.round(4))
print("n_iter=1000, tol=0     ", fit(1000, 0).round(4))
print("n_iter=1000, tol=1e-5  ", fit(1000, 1e-5).round(4))
print("n_iter=1000, tol=1e-300", fit(1000, 1e-300).round(4))
print("n_iter=2,    tol=0     ", fit(2, 0).round(4))
assert np.allclose(fit(1000, 0), exact, atol=1e-6)
for tol in (1e-5, 1e-300):
    assert np.array_equal(fit(1000, tol), fit(2, 0))
assert abs(fit(1000, 1e-5)[0] - exact[0]) > 0.2
PY
