#!/bin/sh
# choix 0.4.1: with `alpha`, `ilsr_pairwise` and `mm_pairwise` can rank an uncompared item second.
#
# Expected: regularization pulls an item without comparisons to the middle, below an item that beats
# most others. `opt_pairwise`, whose `alpha` has the same name and description, does so.
# What happens: the two pull it to the mean of the exponentiated scores. One strong item raises that
# mean, so the item that nobody compared gets ahead of one that wins 19 of 30 comparisons. More
# data and a smaller `alpha` do not help.
# Source: choix/lsr.py, `_init_lsr` and `_ilsr`; choix/mm.py, `_mm`; choix/opt.py, `PairwiseFcts`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check choix==0.4.1 numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PY'
from importlib.metadata import version

import choix
import numpy as np

# Of items 0 to 3 the lower number wins 9 times of 10. Item 4 is never compared.
data = [
    pair
    for better in range(4)
    for worse in range(better + 1, 4)
    for pair in [(better, worse)] * 9 + [(worse, better)]
]
wins = [sum(winner == item for winner, _ in data) for item in range(5)]
games = [sum(item in pair for pair in data) for item in range(5)]

print(*(f"{name} {version(name)}" for name in ("choix", "numpy", "scipy")))
print("wins", wins, "of", games)
for alpha in (0.1, 0.01, 0.0001):
    for name, expected in (("ilsr_pairwise", 1), ("mm_pairwise", 1), ("opt_pairwise", 2)):
        scores = getattr(choix, name)(5, data, alpha=alpha)
        place = int((scores > scores[4]).sum())
        print(f"alpha={alpha:<6} {name:13}", scores.round(2), "items ahead of item 4:", place)
        assert place == expected
PY
