#!/bin/sh
# snownlp 0.12.3: `SnowNLP(text).sentiments` as a reward is easily raised, and fails on empty text.
#
# Expected: a score of 0 to 1, near 0 for "rubbish film", neutral for neutral words, and
# negation lowers it clearly.
# What happens: "rubbish film" (0.35) followed by five times "film" scores 0.997, because each
# word counts again and "film" alone has 0.80. "This film is not worth seeing" scores 0.93, "worth"
# alone 0.75. A full stop alone is 0.53. The empty text, a generator that stops at once, raises
# ZeroDivisionError.
# Source: snownlp/classification/bayes.py, `Bayes.classify`; snownlp/sentiment/__init__.py, `handle`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check snownlp==0.12.3
venv/bin/python - <<'PY'
from importlib.metadata import version

from snownlp import SnowNLP


def score(text):
    try:
        return round(SnowNLP(text).sentiments, 3)
    except ZeroDivisionError as failure:
        return type(failure).__name__


texts = {
    "rubbish film": "垃圾电影",
    "rubbish film, film, film, film, film, film": "垃圾电影" + "，电影" * 5,
    "film": "电影",
    "worth": "值得",
    "this film is not worth seeing": "这部电影不值得一看",
    "a full stop": "。",
    "nothing": "",
}
scores = {name: score(text) for name, text in texts.items()}
print("snownlp", version("snownlp"))
for name, value in scores.items():
    print(f"{name:43} {value}")
assert list(scores.values()) == [0.347, 0.997, 0.803, 0.753, 0.929, 0.526, "ZeroDivisionError"]
PY
