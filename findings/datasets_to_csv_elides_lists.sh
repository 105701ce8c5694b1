#!/bin/sh
# datasets 5.2.0: `Dataset.to_csv` writes lists as numpy prints them, so they cannot be read back.
#
# Expected: a list column (messages, tags, token ids) is written as JSON or Python text, or refused.
# What happens: a cell holds numpy's printed form, without commas. A conversation parses neither as
# JSON nor as Python. `['a' 'b']` parses as Python, but to the one string `ab`. Of a list with more
# than 1,000 items only the first and last three are written, around `...`: the rest is lost, silently.
# Source: datasets/io/csv.py, `CsvDatasetWriter._batch_csv` (Arrow to pandas, then `DataFrame.to_csv`).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 pandas==3.1.1 numpy==2.4.6
venv/bin/python - <<'PY'
import ast
import csv
import json
from importlib.metadata import version

from datasets import Dataset, disable_progress_bars

disable_progress_bars()
messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
row = {"chosen": messages, "tags": ["a", "b"], "token_ids": list(range(2000))}
Dataset.from_list([row]).to_csv("rows.csv")
(cells,) = csv.DictReader(open("rows.csv"))


def error(parse, text):
    try:
        parse(text)
    except (ValueError, SyntaxError) as failure:
        return type(failure).__name__


print(*(f"{name} {version(name)}" for name in ("datasets", "pandas", "numpy")))
print("chosen:   ", cells["chosen"].replace("\n", " "))
print("  as JSON:  ", error(json.loads, cells["chosen"]))
print("  as Python:", error(ast.literal_eval, cells["chosen"]))
print("tags:     ", cells["tags"], " as Python:", ast.literal_eval(cells["tags"]))
print("token_ids:", cells["token_ids"])
assert error(json.loads, cells["chosen"]) and error(ast.literal_eval, cells["chosen"])
assert ast.literal_eval(cells["tags"]) == ["ab"]
assert "..." in cells["token_ids"] and "1000" not in cells["token_ids"]
PY
