#!/bin/sh
# label-studio-sdk 2.1.2: in the CSV export two text answers and one text can be the same cell.
#
# Expected: a TextArea column has one encoding, so that a reader can tell how many texts there are.
# What happens: one text is written as it is. Two texts in one region become the JSON object
# `{"text":["yes","no"]}`, in two regions the JSON list `["yes","no"]`. An annotator's single
# text `["yes","no"]` (answers about JSON or code look so) gives the very same cell.
# Source: label_studio_sdk/converter/utils.py, `prettify_result`;
# label_studio_sdk/converter/exports/csv2.py, `prepare_annotation` (JSON only for non-strings).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check label-studio-sdk==2.1.2
venv/bin/python - <<'PY'
import csv
import json
from importlib.metadata import version

from label_studio_sdk.converter import Converter

CONFIG = """<View><Text name="t" value="$prompt"/>
<TextArea name="answer" toName="t" maxSubmissions="5"/></View>"""


def region(*texts):
    return {"from_name": "answer", "to_name": "t", "type": "textarea", "value": {"text": texts}}


def task(number, data, *regions):
    annotation = {"id": number, "completed_by": 1, "result": regions, "created_at": "2026-01-01"}
    return {"id": number, "data": data, "annotations": [annotation]}


tasks = [
    task(1, {"prompt": "p"}, region("yes")),
    task(2, {"prompt": "p"}, region("yes", "no")),
    task(3, {"prompt": "p"}, region("yes"), region("no")),
    task(4, {"prompt": "p"}, region('["yes","no"]')),
]
json.dump(tasks, open("tasks.json", "w"))
Converter(CONFIG, project_dir=None).convert("tasks.json", "out", "CSV", is_dir=False)
cells = [row["answer"] for row in csv.DictReader(open("out/result.csv"))]

print("label-studio-sdk", version("label-studio-sdk"))
for name, cell in zip(("one text", "two, one region", "two, two regions", "one text, JSON"), cells):
    print(f"{name:17} {cell}")
assert cells == ["yes", '{"text":["yes","no"]}', '["yes","no"]', '["yes","no"]']
PY
