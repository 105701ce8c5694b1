"""Turn an agent's text into an action of an OpenEnv server, and its observations into text, by the server's schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["JSON", "ActionForm", "InvalidActionError", "ObservationForm", "choose_action", "choose_observation"]

JSON = "json"  # the value of `action` and `observation` for all fields as one JSON object
UNREAD = ("metadata", "reward", "done")  # fields that every OpenEnv model has
SCALARS = ("string", "integer", "number", "boolean", "null")
SHOWN = 300  # characters of an error that the agent reads


class InvalidActionError(ValueError):
    """Raise when an agent's text is no action; the message is for the agent."""


@dataclass(frozen=True)
class ActionForm:
    """Say how a text becomes an action.

    Attributes:
        field: the field that takes the whole text; None if the text is the action in JSON.
        schema: the JSON schema of an action.
    """

    field: str | None
    schema: Mapping[str, Any]

    @property
    def hint(self) -> str:
        """Return what the agent is told about the form: nothing of a plain text."""
        if self.field is not None:
            return ""
        required = self.schema.get("required", ())
        parts = [
            f'"{name}": {_kind(field, self.schema)}{"" if name in required else " (optional)"}'
            for name, field in _fields(self.schema).items()
        ]
        return f"Answer with a JSON object: {{{', '.join(parts)}}}"

    @property
    def written(self) -> dict[str, Any]:
        """Return the schema of what the agent writes: without the fields that every model of OpenEnv has."""
        return {**self.schema, "properties": _fields(self.schema)}

    def encode(self, text: str) -> dict[str, Any]:
        """Return the action that a text stands for. Around a JSON object there may be other text.

        Raises:
            InvalidActionError: the text is no JSON object, or the schema does not allow it.
        """
        if self.field is not None:
            return {self.field: text}
        start, end = text.find("{"), text.rfind("}")
        if start < 0 or end < start:
            raise InvalidActionError(f"no JSON object. {self.hint}")
        try:
            action = json.loads(text[start : end + 1], parse_constant=_refuse_constant)
            json.dumps(action, ensure_ascii=False, allow_nan=False).encode()  # not for 1e999 and half characters
        except (ValueError, RecursionError) as error:
            raise InvalidActionError(f"no valid JSON ({error}). {self.hint}"[:SHOWN]) from error
        from jsonschema import Draft202012Validator
        from referencing import Registry

        known: Any = Registry()  # it fetches nothing, where the default one reads any file or address of a $ref
        validator = Draft202012Validator(dict(self.schema), registry=known)
        errors = sorted(validator.iter_errors(action), key=lambda one: [*map(str, one.path)])
        if errors:
            where = ".".join(map(str, errors[0].path))
            raise InvalidActionError(f"{where}{': ' if where else ''}{errors[0].message}. {self.hint}"[:SHOWN])
        return dict(action)


@dataclass(frozen=True)
class ObservationForm:
    """Say how an observation becomes a text.

    Attributes:
        field: the field that is the text; None for all fields that are not empty, as JSON.
    """

    field: str | None

    def show(self, observation: Mapping[str, Any]) -> str:
        """Return the text of an observation; "" if there is none.

        Raises:
            ValueError: the observation lacks the field.
        """
        if self.field is not None:
            if self.field not in observation:
                raise ValueError(f"the server's observation has no {self.field!r}: it has {', '.join(observation)}")
            value = observation[self.field]
            return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
        told = {k: v for k, v in observation.items() if k not in UNREAD and v not in (None, "", [], {})}
        return json.dumps(told, ensure_ascii=False) if told else ""


def choose_action(schema: Mapping[str, Any], action: str | None) -> ActionForm:
    """Return how a text becomes an action of a schema.

    By default the only required string takes the text, or the only field if that is a string. An action of several
    numbers, texts and truth values is written as JSON.

    Args:
        schema: the JSON schema of the server's actions.
        action: the field that takes the text, or "json".

    Raises:
        ValueError: there is no such field, no text can fill the schema, or it is none. The message says what to give.
    """
    _check_schema(schema, "actions")
    fields, required = _fields(schema), [name for name in schema.get("required", ()) if name not in UNREAD]
    texts = [name for name, field in fields.items() if _kind(field, schema) == "string"]
    listed = ", ".join(f"{name} ({_kind(field, schema)})" for name, field in fields.items()) or "no field"
    if action == JSON:
        return ActionForm(None, schema)
    if action is not None:
        others = [name for name in required if name != action]
        if action not in texts:
            raise ValueError(f"action={action!r} is no field of text: the server's actions have {listed}")
        if others:
            raise ValueError(
                f"action={action!r} leaves {', '.join(others)} empty, which must be filled: give action='json'"
            )
        return ActionForm(action, schema)
    if required and len(required) == 1 and required[0] in texts:
        return ActionForm(required[0], schema)
    if not required and len(fields) == 1 and texts:
        return ActionForm(texts[0], schema)
    wrong = [name for name in required if _kind(fields.get(name, {}), schema) not in (*SCALARS, "enum")]
    if wrong or len(fields) < 2:
        raise ValueError(
            f"the server's actions are no text: they have {listed}. Give action='json' if the agent is to write the "
            "whole object"
        )
    return ActionForm(None, schema)


def choose_observation(schema: Mapping[str, Any], observation: str | None) -> ObservationForm:
    """Return how an observation of a schema becomes a text.

    By default it is the only string, or the only required string; else all fields as JSON.

    Raises:
        ValueError: there is no such field, or the schema is none.
    """
    _check_schema(schema, "observations")
    fields = _fields(schema)
    if observation == JSON:
        return ObservationForm(None)
    if observation is not None:
        if observation not in fields:
            raise ValueError(
                f"observation={observation!r}: the server's observations have {', '.join(fields) or 'none'}"
            )
        return ObservationForm(observation)
    texts = [name for name, field in fields.items() if _kind(field, schema) == "string"]
    needed = [name for name in texts if name in schema.get("required", ())]
    one = texts if len(texts) == 1 else needed
    return ObservationForm(one[0] if len(one) == 1 else None)


def _check_schema(schema: Any, of: str) -> None:
    """Check that a server's answer is a JSON schema, whole in itself.

    Raises:
        ValueError: it is none, or a `$ref` points to something that is not in it, such as a file or an address.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    if not isinstance(schema, Mapping):
        raise ValueError(f"the server's schema of {of} is {schema!r:.100}, no object")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(
            f"the server's schema of {of} is no JSON schema: {error.json_path}: {error.message}"
        ) from error
    known: Any = Registry()
    resolver = known.resolver_with_root(Resource.from_contents(schema, default_specification=DRAFT202012))
    for ref in _refs(schema):
        try:
            resolver.lookup(ref)
        except Unresolvable as error:
            raise ValueError(f"the server's schema of {of} points to {ref!r}, which is not in it") from error


def _refs(value: Any) -> Iterator[str]:
    """Yield what a schema refers to, at any depth."""
    if isinstance(value, Mapping):
        yield from (ref for name, ref in value.items() if name in ("$ref", "$dynamicRef") and isinstance(ref, str))
    if isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _refs(one)


def _fields(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a model's schema, without those that every model of OpenEnv has."""
    return {name: field for name, field in schema.get("properties", {}).items() if name not in UNREAD}


def _kind(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return the type of a field: one of JSON's, "enum", or "any"."""
    if not isinstance(field, Mapping):  # a schema may be True
        return "any"
    if "$ref" in field:
        field = schema.get("$defs", {}).get(str(field["$ref"]).rpartition("/")[2], {})
    if "enum" in field or "const" in field:
        return "enum"
    if "anyOf" in field:
        kinds = {_kind(one, schema) for one in field["anyOf"]} - {"null"}
        return kinds.pop() if len(kinds) == 1 else "any"
    kind = field.get("type", "any")
    kinds = {*kind} - {"null"} if isinstance(kind, list) else {kind}
    return str(kinds.pop()) if len(kinds) == 1 else "any"


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
