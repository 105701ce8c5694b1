#!/bin/sh
# label-studio-sdk 2.1.2: JSON_MIN and CSV leave skipped annotations out, and the task with them.
#
# Expected: the three exports of the same tasks have the same tasks and annotators; who skipped what is an answer too
# (it tells how hard a task is, and who skips too much).
# What happens: JSON has each skip as `was_cancelled: true`. JSON_MIN and CSV have no row for it, and say nothing. A task
# that everybody skipped is gone from both, while a task that nobody saw has a row with an empty answer.
# Source: label_studio_sdk/converter/converter.py, `Converter.annotation_result_from_task`.
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
<Choices name="answer" toName="t"><Choice value="good"/><Choice value="bad"/></Choices></View>"""
GOOD = [{"from_name": "answer", "to_name": "t", "type": "choices", "value": {"choices": ["good"]}}]


def annotation(number, who, skipped=False):
    result = [] if skipped else GOOD
    return {"id": number, "completed_by": who, "was_cancelled": skipped, "result": result, "created_at": "2026-01-01"}


tasks = [
    {"id": 1, "data": {"prompt": "answered once, skipped once"}, "annotations": [annotation(1, 1), annotation(2, 2, True)]},
    {"id": 2, "data": {"prompt": "skipped by both"}, "annotations": [annotation(3, 1, True), annotation(4, 2, True)]},
    {"id": 3, "data": {"prompt": "seen by nobody"}, "annotations": []},
]
json.dump(tasks, open("tasks.json", "w"))
converter = Converter(CONFIG, project_dir=None)
for form in ("JSON", "JSON_MIN", "CSV"):
    converter.convert("tasks.json", form, form, is_dir=False)
full = json.load(open("JSON/result.json"))
seen = {
    "JSON": [(task["id"], one["completed_by"]) for task in full for one in task["annotations"]],
    "JSON_MIN": [(row["id"], row.get("annotator")) for row in json.load(open("JSON_MIN/result.json"))],
    "CSV": [(int(row["id"]), row["annotator"]) for row in csv.DictReader(open("CSV/result.csv"))],
}
print("label-studio-sdk", version("label-studio-sdk"))
for form, rows in seen.items():
    print(f"{form:8} (task, annotator): {rows}")
assert seen["JSON"] == [(1, 1), (1, 2), (2, 1), (2, 2)]
assert seen["JSON_MIN"] == [(1, 1), (3, None)]
assert seen["CSV"] == [(1, "1"), (3, "")]
PY
