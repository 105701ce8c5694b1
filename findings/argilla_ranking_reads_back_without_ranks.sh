#!/bin/sh
# argilla 2.8.0: a ranking answer loses its ranks when the SDK reads it.
#
# Expected: the ranks that the SDK sends for a RankingQuestion come back, or at least
# the values come back ordered by rank.
# What happens: `UserResponse.api_model` sends `{"value": ..., "rank": ...}` as given.
# `UserResponse.from_model` keeps only the values, in the order of the list. The last choice
# can then stand first, ties vanish, and uploading the record again sends no ranks.
# Source: argilla/responses.py, `UserResponse.from_model`, `__ranking_from_model_value`.
# No server is needed: the two methods run on the models that the SDK exchanges with it.
# argilla 2.8.0 imports `requests` but does not declare it, hence its pin.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check argilla==2.8.0 datasets==5.2.0 requests==2.34.2
venv/bin/python - <<'PY'
from importlib.metadata import version
from types import SimpleNamespace
from uuid import uuid4

import argilla as rg
from argilla.records import Record
from argilla.responses import UserResponse

client = SimpleNamespace(api=SimpleNamespace(fields=None, questions=None))
settings = rg.Settings(
    fields=[rg.TextField(name="prompt", client=client)],
    questions=[rg.RankingQuestion(name="ranking", values=["a", "b", "c"], client=client)],
)
dataset = SimpleNamespace(settings=settings, name="demo", _client=None)
record = Record(fields={"prompt": "p"}, _dataset=dataset)
answer = [{"value": "a", "rank": 3}, {"value": "b", "rank": 1}, {"value": "c", "rank": 1}]

response = rg.Response("ranking", answer, user_id=uuid4(), status="submitted")
sent = UserResponse([response], _record=record).api_model()
read = UserResponse.from_model(sent, record)
again = read.api_model()

print("argilla", version("argilla"))
print("sent:      ", sent.values["ranking"]["value"])
print("read:      ", read.responses[0].value)
print("sent again:", again.values["ranking"]["value"])
assert sent.values["ranking"]["value"] == answer
assert read.responses[0].value == ["a", "b", "c"]
assert again.values["ranking"]["value"] == [{"value": "a"}, {"value": "b"}, {"value": "c"}]
PY
