"""Make a JSON schema plain: no references, and nothing that outlines-core would leave out in silence.

What fits the plain schema fits the given one. The reverse does not hold:

- a field that is not required and has no plain form is left out, and so are fields that are not listed;
- a whole number with a bound is one of at most 1,000, from its lower bound on (or up to its upper one);
- a text with a length has at most 100 letters: each letter that it may have costs about ten rows of the table, each as
  long as the vocabulary;
- of alternatives without a plain form the others stay.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["LETTERS", "MOST", "PlainSchemaError", "plain_schema"]

logger = logging.getLogger(__name__)

MOST = 1000  # whole numbers that a bounded one may be
LETTERS = 100  # of a text with a length
ALL_LETTERS = 400  # of all texts with a length
NOTES = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "format"}
NOTES |= {"$schema", "$id", "$defs", "definitions", "discriminator"}
BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
KEYWORDS = {  # that each type may have
    "string": {"minLength", "maxLength"},
    "integer": BOUNDS,
    "number": set[str](),
    "boolean": set[str](),
    "null": set[str](),
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}


class PlainSchemaError(ValueError):
    """Raise when a schema has no plain form; the message names the place and the keyword."""


def plain_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain form of a schema.

    Raises:
        PlainSchemaError: it has none.
    """
    plain = _plain(schema, schema, "the action", ())
    if (letters := _letters(plain)) > ALL_LETTERS:
        raise PlainSchemaError(f"the action has texts of up to {letters} letters together, more than {ALL_LETTERS}")
    return plain


def _plain(node: Any, root: Mapping[str, Any], at: str, within: tuple[str, ...]) -> dict[str, Any]:
    """Return the plain form of a part of the schema `root`, which is found `at` and `within` references."""
    if not isinstance(node, Mapping) or not node.keys() - NOTES:
        raise PlainSchemaError(f"{at} may be anything")
    if "$ref" in node:
        ref = str(node["$ref"])
        if ref in within:
            raise PlainSchemaError(f"{at} refers to itself ({ref})")
        _refuse_others(node, {"$ref"}, at)
        return _plain(_resolve(root, ref), root, at, (*within, ref))
    for word in ("anyOf", "oneOf", "allOf"):
        if word in node:
            _refuse_others(node, {word}, at)
            return _choose(node, word, root, at, within)
    if "enum" in node or "const" in node:
        _refuse_others(node, {"enum", "const", "type"}, at)
        return {"enum": [node["const"]] if "const" in node else [*node["enum"]]}
    kinds = node.get("type")
    if isinstance(kinds, list):
        parts = [{**{k: v for k, v in node.items() if k in NOTES | KEYWORDS[kind]}, "type": kind} for kind in kinds]
        _refuse_others(node, {"type"}.union(*(KEYWORDS[kind] for kind in kinds)), at)
        return _choose({"anyOf": parts}, "anyOf", root, at, within)
    if kinds not in KEYWORDS:
        raise PlainSchemaError(f"{at} has no type")
    _refuse_others(node, {"type"} | KEYWORDS[kinds], at)
    if kinds == "object":
        return _plain_object(node, root, at, within)
    if kinds == "array":
        sizes = {key: node[key] for key in ("minItems", "maxItems") if key in node}
        return {"type": "array", "items": _plain(node.get("items"), root, f"{at}'s items", within), **sizes}
    if kinds == "integer" and BOUNDS & node.keys():
        return {"enum": _whole_numbers(node, at)}
    plain = {key: value for key, value in node.items() if key not in NOTES}
    return _shorten(plain, at) if kinds == "string" and plain.keys() > {"type"} else plain


def _shorten(node: dict[str, Any], at: str) -> dict[str, Any]:
    """Return the plain form of a text with a length."""
    if node.get("minLength", 0) > LETTERS:
        raise PlainSchemaError(f"{at} needs {node['minLength']} letters, more than {LETTERS}")
    if (most := node.get("maxLength", 0)) > LETTERS:
        logger.warning("no agent will write more than %d letters of %s, which may have %d", LETTERS, at, most)
        return {**node, "maxLength": LETTERS}
    return node


def _letters(node: Mapping[str, Any]) -> int:
    """Return how many letters the texts with a length of a plain form may have together."""
    inside = [*node.get("anyOf", ()), *node.get("properties", {}).values()]
    if "items" in node:
        times = max(node.get("maxItems", 1), node.get("minItems", 1))
        return int(times) * _letters(node["items"])
    return int(max(node.get("minLength", 0), node.get("maxLength", 0))) + sum(map(_letters, inside))


def _plain_object(node: Mapping[str, Any], root: Any, at: str, within: tuple[str, ...]) -> dict[str, Any]:
    """Return the plain form of an object."""
    fields, required = {}, list(node.get("required", ()))
    if unknown := [name for name in required if name not in node.get("properties", {})]:
        raise PlainSchemaError(f"{at} needs {unknown[0]}, which may be anything")
    for name, field in node.get("properties", {}).items():
        try:
            fields[name] = _plain(field, root, f"{at}'s {name}", within)
        except PlainSchemaError as error:
            if name in required:
                raise
            logger.info("no agent will write the optional field %s: %s", name, error)
    if not fields:
        raise PlainSchemaError(f"{at} lists no fields")
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


def _choose(node: Mapping[str, Any], word: str, root: Any, at: str, within: tuple[str, ...]) -> dict[str, Any]:
    """Return the plain form of alternatives, of those that have one."""
    parts = node[word]
    if word == "allOf" and len(parts) > 1:
        raise PlainSchemaError(f"{at} has allOf")
    if word == "oneOf" and "discriminator" not in node:  # else one of them at most can hold
        raise PlainSchemaError(f"{at} has oneOf")
    found, wrong = [], None
    for part in parts:
        try:
            found.append(_plain(part, root, at, within))
        except PlainSchemaError as error:
            wrong = error
    if not found:
        raise wrong or PlainSchemaError(f"{at} has no alternatives")
    return found[0] if len(found) == 1 else {"anyOf": found}


def _whole_numbers(node: Mapping[str, Any], at: str) -> list[int]:
    """Return the whole numbers that a bounded one may be, at most `MOST`."""
    low, high = node.get("minimum", -math.inf), node.get("maximum", math.inf)
    low = max(low, math.floor(node["exclusiveMinimum"]) + 1) if "exclusiveMinimum" in node else low
    high = min(high, math.ceil(node["exclusiveMaximum"]) - 1) if "exclusiveMaximum" in node else high
    by = node.get("multipleOf", 1)
    if by != int(by):
        raise PlainSchemaError(f"{at} has multipleOf {by}")
    by = int(by)
    if low > -math.inf:
        first = -(-math.ceil(low) // by) * by
        found = [n for n in range(first, first + MOST * by, by) if n <= high]
    else:
        last = (math.floor(high) if high < math.inf else (MOST // 2) * by) // by * by
        found = [*range(last - (MOST - 1) * by, last + 1, by)]
    if not found:
        raise PlainSchemaError(f"{at} can be no whole number")
    return found


def _resolve(root: Mapping[str, Any], ref: str) -> Any:
    """Return the part of a schema that a reference such as "#/$defs/Move" points to."""
    node: Any = root
    for step in ref.removeprefix("#").strip("/").split("/") if ref != "#" else ():
        step = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, Mapping) or step not in node:
            raise PlainSchemaError(f"{ref} is not followed")
        node = node[step]
    return node


def _refuse_others(node: Mapping[str, Any], known: set[str], at: str) -> None:
    """Raise a PlainSchemaError if a part has other keywords than these and notes."""
    if others := sorted(node.keys() - known - NOTES):
        raise PlainSchemaError(f"{at} has {others[0]}, which is not masked")
