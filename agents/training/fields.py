"""Define the fields of configurations, which are flags of the command line: how they are declared and read."""

from __future__ import annotations

import ast
import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rlhf_envs.models import NAMES
from rlhf_envs.names import find_name, nearest
from rlhf_envs.registration import text_environments

from ..registry import available
from ..saving.provenance import MADE

__all__ = [
    "Algorithm",
    "Environment",
    "LogFolder",
    "Model",
    "Pairs",
    "Part",
    "Settings",
    "Trackers",
    "option",
    "parse_literal",
    "parse_pairs",
]

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")


def parse_pairs(value: Any) -> Any:
    """Turn `["batch_size:256", "data:my.jsonl"]` into a dict. Values are JSON or Python literals, or else strings.

    Any other value than a list is returned as it is.

    Raises:
        ValueError: a pair has no colon, or there are several in one text.
    """
    if not isinstance(value, list | tuple):
        return value
    pairs: dict[str, Any] = {}
    for pair in value:
        key, colon, text = str(pair).partition(":")
        if not colon or not key:
            meant = str(pair).replace("=", ":", 1) if "=" in str(pair) else "batch_size:256"
            raise ValueError(f"{pair!r} is no key:value pair, such as {meant}")
        first, comma, further = text.partition(",")
        if comma and re.match(r"\s*[A-Za-z_]\w*:", further) and not isinstance(parse_literal(first.strip()), str):
            raise ValueError(f"{pair!r} has several pairs: give each a flag of its own, {key}:{first} and {further}")
        pairs[key.strip()] = parse_literal(text.strip())
    return pairs


def parse_literal(text: str) -> Any:
    """Return the value of a JSON or Python literal; another text as it is."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError):
            continue
    return text


def _parse_part(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _parse_trackers(value: Any) -> Any:
    """Return the names of trackers, also of a text with commas between. TensorBoard is always written."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return value
    names = [name.strip().lower() for part in parts for name in str(part).split(",") if name.strip()]
    if unknown := [name for name in names if name not in TRACKERS]:
        raise ValueError(f"unknown tracker {unknown[0]!r}: {nearest(unknown[0], TRACKERS)}")
    return list(dict.fromkeys(names))


# Names in any case. One that is unknown passes: `check_name`, `check_environment` and `resolve` answer it.
Algorithm = Annotated[str, AfterValidator(lambda name: find_name(name, available()))]
Environment = Annotated[str, AfterValidator(lambda name: find_name(name, text_environments()))]
Model = Annotated[str, AfterValidator(lambda name: find_name(name, NAMES))]
Pairs = Annotated[dict[str, Any], BeforeValidator(parse_pairs)]  # a dict, also given as key:value texts
Part = Annotated[
    int | str | None,
    BeforeValidator(_parse_part),
    Field(description="What learns: full, lora, head, or a number of last blocks.", json_schema_extra={"type": "text"}),
]
Trackers = Annotated[
    list[str],
    BeforeValidator(_parse_trackers),
    Field(
        description="Where to log beside TensorBoard, with commas between: wandb, or trackio and mlflow, which write "
        "local files.",
        json_schema_extra={"type": "text"},
    ),
]
LogFolder = Annotated[
    str, Field(description="Folder of all runs.", json_schema_extra={"flags": ["-f", "--log-folder"]})
]


def option(default: Any, description: str, *flags: str, **limits: Any) -> Any:
    """Return a field with a default. `flags`, such as "-n", "--n-episodes", stand for the flag of the field's name."""
    extra: dict[str, Any] | None = {"flags": [*flags]} if flags else None
    return Field(default, description=description, json_schema_extra=extra, **limits)


class Settings(BaseModel):
    """Hold what a run or an experiment is configured with. Unknown names are refused.

    The `config.json` in a folder also has records of what made it. They are no settings, and are left out.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_records(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name != MADE}
