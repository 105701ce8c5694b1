"""Under the masks of a schema, whatever is sampled parses and fits it, and is finished before its room is."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel, Field

from rlhf_envs.interop.openenv.plain_schema import PlainSchemaError, plain_schema
from rlhf_envs.models import load_tokenizer
from tests.rlhf_envs.small_models import byte_level, llama_style

pytest.importorskip("outlines_core", reason="needs outlines-core, of the extra openenv")
pytest.importorskip("jsonschema", reason="needs the extra openenv")

from jsonschema import Draft202012Validator

from rlhf_envs.interop.openenv.json_masks import JsonMasks


class Colour(StrEnum):
    red = 'deep "red"'
    other = "héé\n"


class Inner(BaseModel):
    few: list[bool] = Field(max_length=2)
    size: int = Field(gt=5)


class Move(BaseModel):
    move: Literal["take", "stop"]
    amount: int = Field(ge=0, le=3)


class Everything(Move):
    note: str = Field(max_length=12)
    share: float
    colour: Colour
    inner: Inner
    maybe: int | None = None
    steps: int = Field(lt=0, multiple_of=7)
    free: dict[str, Any] = {}


def sample(masks: JsonMasks, tokenizer: Any, room: int, rng: np.random.Generator) -> str:
    """Draw evenly from the allowed tokens until one ends the turn, within `room` tokens."""
    turn: list[int] = []
    while True:
        (allowed,) = masks([np.array(turn, dtype=np.int64)], np.array([room - len(turn)]))
        token = int(rng.choice(np.flatnonzero(allowed)))
        if token == tokenizer.eos_token_id:
            return str(tokenizer.decode(turn))
        turn.append(token)
        assert len(turn) < room


@pytest.mark.parametrize("schema", [Move, Everything])
@pytest.mark.parametrize("name", ["tiny", "bytes", "llama"])
def test_every_sample_is_an_action_in_any_room(name: str, schema: type[BaseModel]) -> None:
    tokenizer = {"bytes": byte_level, "llama": llama_style}.get(name, lambda: load_tokenizer("tiny"))()
    given, rng = schema.model_json_schema(), np.random.default_rng(0)
    masks, validator = JsonMasks(given, tokenizer, [tokenizer.eos_token_id]), Draft202012Validator(given)
    found = []
    for i in range(40):
        action = json.loads(sample(masks, tokenizer, masks.least + i, rng))
        validator.validate(action)
        schema.model_validate(action)
        json.dumps(action, allow_nan=False).encode()
        found.append(action)
    assert {one["amount"] for one in found} == {0, 1, 2, 3} and {one["move"] for one in found} == {"take", "stop"}
    assert all("free" not in one for one in found)  # it may be anything


def test_a_room_that_is_too_short_is_told_with_the_number_of_tokens() -> None:
    tokenizer = load_tokenizer("tiny")
    masks = JsonMasks(Move.model_json_schema(), tokenizer, [tokenizer.eos_token_id])
    with pytest.raises(ValueError, match=rf"room for 5 more tokens, and the shortest action has {masks.least}"):
        masks([np.zeros(0, np.int64)], np.array([5]))


def test_what_is_no_action_any_more_is_masked_no_further() -> None:
    tokenizer = load_tokenizer("tiny")
    masks = JsonMasks(Move.model_json_schema(), tokenizer, [tokenizer.eos_token_id])
    turn = np.array(tokenizer(" was")["input_ids"])
    assert masks([turn], np.array([50])).all()


def test_numbers_stay_within_what_python_reads_as_finite() -> None:
    tokenizer = load_tokenizer("tiny")
    given = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
    masks, rng = JsonMasks(given, tokenizer, [tokenizer.eos_token_id]), np.random.default_rng(1)
    assert all(np.isfinite(json.loads(sample(masks, tokenizer, 120, rng))["x"]) for _ in range(40))


PLAIN: list[tuple[Any, Any]] = [
    ({"type": "integer", "minimum": 2, "exclusiveMaximum": 5}, {"enum": [2, 3, 4]}),
    ({"type": "integer", "maximum": 4, "multipleOf": 2, "exclusiveMinimum": -3}, {"enum": [-2, 0, 2, 4]}),
    ({"anyOf": [{"type": "object"}, {"type": "null"}]}, {"type": "null"}),
    ({"type": ["string", "null"], "maxLength": 2}, {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "null"}]}),
    ({"const": 3, "title": "three"}, {"enum": [3]}),
    ({"type": "string", "minLength": 1, "maxLength": 4096}, {"type": "string", "minLength": 1, "maxLength": 100}),
    ({"$ref": "#/$defs/Word"}, {"type": "string"}),
]


@pytest.mark.parametrize(("field", "expected"), PLAIN)
def test_a_field_has_a_plain_form(field: Any, expected: Any) -> None:
    schema = {"type": "object", "properties": {"x": field}, "required": ["x"], "$defs": {"Word": {"type": "string"}}}
    assert plain_schema(schema)["properties"]["x"] == expected


REFUSED: list[tuple[Any, str]] = [
    ({}, "the action's x may be anything"),
    ({"type": "object"}, "the action's x lists no fields"),
    ({"type": "number", "minimum": 0}, "the action's x has minimum, which is not masked"),
    ({"type": "string", "pattern": "a+"}, "the action's x has pattern"),
    ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "the action's x has uniqueItems"),
    ({"oneOf": [{"type": "string"}, {"type": "null"}]}, "the action's x has oneOf"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "the action's x can be no whole number"),
    ({"$ref": "#/$defs/Tree"}, "refers to itself"),
    ({"type": "string", "minLength": 101}, "the action's x needs 101 letters, more than 100"),
]


@pytest.mark.parametrize(("field", "message"), REFUSED)
def test_what_cannot_be_masked_is_refused_by_name_where_it_is_required(field: Any, message: str) -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}, "required": ["left"]}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"x": field, "y": {"type": "null"}},
        "$defs": {"Tree": tree},
    }
    with pytest.raises(PlainSchemaError, match=message):
        plain_schema({**schema, "required": ["x"]})
    assert plain_schema(schema)["properties"] == {"y": {"type": "null"}}


def test_more_texts_with_a_length_than_a_table_holds_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    text = {"type": "string", "maxLength": 500}
    words = {"type": "array", "items": text, "maxItems": 4}
    schema: dict[str, Any] = {"type": "object", "properties": {"words": words}, "required": ["words"]}
    assert plain_schema(schema)["properties"]["words"]["items"]["maxLength"] == 100
    assert "no agent will write more than 100 letters of the action's words's items, which may have 500" in caplog.text
    schema["properties"]["note"] = text
    with pytest.raises(PlainSchemaError, match="has texts of up to 500 letters together, more than 400"):
        plain_schema(schema)


def test_a_tokenizer_that_cannot_spell_every_text_is_refused() -> None:
    from rlhf_envs.tasks.token_bandit import TokenBandit

    with pytest.raises(ValueError, match=r"json_mask=True: the tokenizer's decoder is unknown"):
        JsonMasks(Move.model_json_schema(), TokenBandit().tokenizer(None), [1])
