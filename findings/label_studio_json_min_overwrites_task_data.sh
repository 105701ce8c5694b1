#!/bin/sh
# label-studio-sdk 2.1.2: JSON_MIN merges task data and answers under one key; CSV does not.
#
# Expected: an export keeps the task's data apart from the annotator's answers, and JSON_MIN and CSV
# of the same tasks agree.
# What happens where the task data has a key named like a control, here `answer`:
#   - answered: JSON_MIN drops the task's text. CSV keeps it as `_data_answer`.
#   - not answered: JSON_MIN shows the task's own text under `answer`, as if the annotator had
#     written it. CSV has an empty cell.
# A key `id` in the task data is Label Studio's task id in JSON_MIN, but the data's own id in CSV.
# Source: label_studio_sdk/converter/converter.py, `Converter.convert_to_json_min`;
# label_studio_sdk/converter/exports/csv2.py, `prepare_annotation`, `_input_column_name`.
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


data = {"prompt": "p", "answer": "the model's answer"}
tasks = [
    task(1, {"id": "mine-1", **data}, region("the annotator's answer")),
    task(2, {"id": "mine-2", **data}),
]
json.dump(tasks, open("tasks.json", "w"))
converter = Converter(CONFIG, project_dir=None)
converter.convert("tasks.json", "json", "JSON_MIN", is_dir=False)
converter.convert("tasks.json", "csv", "CSV", is_dir=False)
keys = ("id", "answer", "_data_answer")
from_json = [[row.get(key) for key in keys] for row in json.load(open("json/result.json"))]
from_csv = [[row[key] for key in keys] for row in csv.DictReader(open("csv/result.csv"))]

print("label-studio-sdk", version("label-studio-sdk"))
print("columns ", keys)
print("JSON_MIN", from_json)
print("CSV     ", from_csv)
assert from_json == [[1, "the annotator's answer", None], [2, "the model's answer", None]]
assert from_csv == [
    ["mine-1", "the annotator's answer", "the model's answer"],
    ["mine-2", "", "the model's answer"],
]
PY
