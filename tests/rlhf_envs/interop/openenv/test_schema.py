"""By a server's schemas texts become actions, and observations texts, or the schema is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.interop.openenv.schema import ActionForm, InvalidActionError, choose_action, choose_observation

pytest.importorskip("jsonschema", reason="needs the extra openenv")

from referencing.exceptions import Unresolvable

TEXT = {"type": "string"}
METADATA = {"metadata": {"type": "object"}}


def schema(required: str = "", **fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**METADATA, **fields},
        "required": required.split(),
        "additionalProperties": False,
    }


MOVE = schema("move amount", move={"enum": ["call", "raise"]}, amount={"type": "integer", "minimum": 0}, note=TEXT)


@pytest.mark.parametrize(
    ("given", "action", "expected"),
    [
        (schema("message", message=TEXT), None, {"message": "hi {}"}),
        (schema("message", message=TEXT, seconds={"type": "number"}), None, {"message": "hi {}"}),
        (schema(message=TEXT), None, {"message": "hi {}"}),
        (schema(a=TEXT, b={"anyOf": [TEXT, {"type": "null"}]}), "b", {"b": "hi {}"}),
    ],
)
def test_a_text_is_the_one_field_that_takes_it(given: dict[str, Any], action: str | None, expected: Any) -> None:
    form = choose_action(given, action)
    assert form.encode("hi {}") == expected and form.hint == ""


def test_several_fields_are_written_as_json_which_the_hint_explains() -> None:
    form = choose_action(MOVE, None)
    assert form.hint == 'Answer with a JSON object: {"move": enum, "amount": integer, "note": string (optional)}'
    assert form.encode('I go: {"move": "raise", "amount": 3} now') == {"move": "raise", "amount": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise 3", "no JSON object"),
        ("", "no JSON object"),
        ('{"move": raise}', "no valid JSON"),
        ('{"move": "raise", "amount": NaN}', "NaN is no number"),
        ('{"move": "raise", "amount": 1e999}', "no valid JSON"),
        ('{"move": "raise", "amount": 3, "note": "\\ud800"}', "no valid JSON"),
        ("{" * 5000 + "}", "no valid JSON"),
        ('{"move": "fold", "amount": 1}', "move: 'fold' is not one of"),
        ('{"move": "call"}', "'amount' is a required property"),
        ('{"move": "call", "amount": -1}', "amount: -1 is less than the minimum"),
        ('{"move": "call", "amount": 1, "x": 2}', "Additional properties are not allowed"),
    ],
)
def test_a_text_that_is_no_action_is_told_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InvalidActionError, match=message) as found:
        choose_action(MOVE, None).encode(text)
    assert len(str(found.value)) <= 300


@pytest.mark.parametrize(
    ("given", "action", "message"),
    [
        (schema("cell", cell={"type": "integer"}), None, r"no text: they have cell \(integer\)"),
        (schema("text image", text=TEXT, image={"type": "object"}), None, r"no text: they have text \(string\), image"),
        (schema(), None, "no text: they have no field"),
        (schema("a", a=TEXT), "b", r"action='b' is no field of text: the server's actions have a \(string\)"),
        (schema("a n", a=TEXT, n={"type": "integer"}), "a", "leaves n empty, which must be filled: give action='json'"),
    ],
)
def test_a_schema_that_is_no_text_is_refused_by_name(given: dict[str, Any], action: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_action(given, action)
    choose_action(given, "json")


@pytest.mark.parametrize("choose", [choose_action, choose_observation])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"is \[\], no object"),
        ({"properties": [1]}, r"is no JSON schema: \$\.properties: \[1\] is not of type 'object'"),
        (schema("a", a={"type": "text"}), r"no JSON schema: \$\.properties\.a\.type: 'text' is not valid"),
        (schema("a", a={"$ref": "#/$defs/None"}), r"points to '#/\$defs/None', which is not in it"),
        (schema("a", a={"allOf": [{"$ref": "http://127.0.0.1:9/a"}]}), "points to 'http://127.0.0.1:9/a', which is"),
    ],
)
def test_what_is_no_schema_or_leads_elsewhere_is_refused(choose: Any, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(given, "json")


def test_a_servers_schema_reads_no_file_of_this_machine(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text('{"type": "number"}', encoding="utf-8")
    given = schema("a b", a={"$ref": kept.as_uri()}, b=TEXT)
    with pytest.raises(ValueError, match=r"points to 'file:.*kept\.json', which is not in it"):
        choose_action(given, "json")
    with pytest.raises(Unresolvable):
        ActionForm(None, given).encode('{"a": 1, "b": "x"}')


def test_fields_of_several_types_and_of_any_are_told_apart() -> None:
    form = choose_action(schema("a b", a={"type": ["string", "null"]}, b=TEXT, c=True), None)
    assert form.hint == 'Answer with a JSON object: {"a": string, "b": string, "c": any (optional)}'
    assert choose_action({"properties": {"a": TEXT}, "required": ["a", "z"]}, "json").encode('{"a": "x", "z": 1}')
    with pytest.raises(ValueError, match="no text: they have a"):
        choose_action({"properties": {"a": TEXT}, "required": ["z"]}, None)


def test_an_observation_is_its_one_text_or_json() -> None:
    one, several = schema(echo=TEXT, length={"type": "integer"}), schema("text", text=TEXT, split=TEXT)
    seen = {"echo": "hi", "length": 2, "metadata": {"a": 1}, "done": False, "reward": None}
    assert choose_observation(one, None).show(seen) == "hi"
    assert choose_observation(one, "length").show(seen) == "2"
    assert choose_observation(one, "json").show(seen) == '{"echo": "hi", "length": 2}'
    assert choose_observation(several, None).field == "text"
    assert choose_observation(schema(a=TEXT, b=TEXT), None).show({"a": "x", "b": ""}) == '{"a": "x"}'
    with pytest.raises(ValueError, match="observation='board': the server's observations have echo, length"):
        choose_observation(one, "board")
    with pytest.raises(ValueError, match="has no 'echo': it has other"):
        choose_observation(one, None).show({"other": 1})
