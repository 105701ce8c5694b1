#!/bin/sh
# argilla 2.8.0: the JSON export does not say which answers are drafts or discarded.
#
# Expected: the exported answers keep their status (draft, submitted, discarded), as in
# `to_list(flatten=True)`, and reading the file back gives the same answers.
# What happens: `to_json` writes identical answers for all three statuses. Read back, every
# answer has status None, and the model for the server says `draft`: submitted answers become drafts.
# Source: argilla/records/_resource.py, `RecordResponses.to_dict` (writes value and user only);
# argilla/responses.py, `UserResponse._compute_status_from_responses` (None becomes draft).
# No server is needed: `DatasetRecords.to_json` and `from_json` call the `JsonIO` methods below.
# argilla 2.8.0 imports `requests` but does not declare it, hence its pin.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check argilla==2.8.0 datasets==5.2.0 requests==2.34.2
venv/bin/python - <<'PY'
import json
from importlib.metadata import version
from types import SimpleNamespace
from uuid import UUID

import argilla as rg
from argilla.records import Record
from argilla.records._io import GenericIO, JsonIO

client = SimpleNamespace(api=SimpleNamespace(fields=None, questions=None))
settings = rg.Settings(
    fields=[rg.TextField(name="prompt", client=client)],
    questions=[rg.LabelQuestion(name="best", labels=["a", "b"], client=client)],
)
dataset = SimpleNamespace(settings=settings, name="demo", _client=None)
exported, flattened, read_back, uploaded = {}, {}, {}, {}
for status in ("submitted", "draft", "discarded"):
    response = rg.Response("best", "a", user_id=UUID(int=1), status=status)
    record = Record(id="1", fields={"prompt": "p"}, responses=[response])
    JsonIO.to_json([record], f"{status}.json")
    exported[status] = json.load(open(f"{status}.json"))[0]["responses"]["best"]
    flattened[status] = GenericIO.to_list([record], flatten=True)[0]["best.responses.status"]
    (read,) = JsonIO._records_from_json(f"{status}.json")
    read_back[status] = next(iter(read.responses)).status
    read._dataset = dataset
    uploaded[status] = read.responses.api_models()[0].status.value

print("argilla", version("argilla"))
print("to_list(flatten=True):", flattened)
print("to_json:              ", exported["submitted"])
print("from_json:            ", read_back)
print("uploaded again:       ", uploaded)
assert flattened == {status: [status] for status in flattened}
assert exported["submitted"] == exported["draft"] == exported["discarded"]
assert set(exported["submitted"][0]) == {"value", "user_id"}
assert set(read_back.values()) == {None} and set(uploaded.values()) == {"draft"}
PY
