#!/bin/sh
# datasets 5.2.0: a JSON Lines column whose every string looks like a date becomes timestamps.
#
# Expected: a JSON string stays a string. JSON has no dates, and the answers are text.
# What happens: `load_dataset("json")` gives `datetime` objects, so the answer `2020-01-01` reads
# `2020-01-01 00:00:00` as text. Whether it happens depends on the other rows: with one answer in
# words the column stays as written. A question-answering set with dates can change type per file.
# Source: datasets/packaged_modules/json/json.py, `Json._generate_tables` (pyarrow's `read_json`
# infers timestamps from strings).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 pandas==3.1.1 numpy==2.4.6
venv/bin/python - <<'PY'
import json
from importlib.metadata import version

from datasets import disable_progress_bars, load_dataset

disable_progress_bars()


def load(name, answers):
    with open(name, "w") as file:
        file.writelines(json.dumps({"prompt": "When?", "chosen": answer}) + "\n" for answer in answers)
    dataset = load_dataset("json", data_files=name, split="train", cache_dir="cache")
    return dataset.features["chosen"].dtype, [str(answer) for answer in dataset["chosen"]]


dates = load("dates.jsonl", ["2020-01-01", "1999-12-31"])
mixed = load("mixed.jsonl", ["2020-01-01", "never"])
print(*(f"{name} {version(name)}" for name in ("datasets", "pyarrow")))
print("dates only:    ", *dates)
print("dates and text:", *mixed)
assert dates == ("timestamp[s]", ["2020-01-01 00:00:00", "1999-12-31 00:00:00"])
assert mixed == ("string", ["2020-01-01", "never"])
PY
