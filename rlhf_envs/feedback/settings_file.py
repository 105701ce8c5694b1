"""Read and write the settings of a project as TOML (`study.toml`), and as the plain values that the store keeps.

The top-level keys of the file are the fields of `Settings`, nested dataclasses are tables. A text may stand in a file
of its own, as in pyproject.toml: `guidelines = {file = "guidelines.md"}`, a path relative to the TOML file.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ..names import nearest
from .settings import Settings

__all__ = [
    "as_plain",
    "changes_for_audit",
    "describe_changes",
    "parse_settings",
    "read_setting",
    "read_settings_file",
    "read_stored_setting",
    "settings_as_toml",
]

_WORDS = {  # pydantic's names of problems, in words that suit TOML
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "dataclass_type": "must be a table",
    "missing": "is missing",
    "too_long": "has too many entries",
}


def read_settings_file(path: str | Path) -> dict[str, Any]:
    """Return the settings in a TOML file by name, checked. Settings that the file does not have are not in it.

    Raises:
        ValueError: the file, or a file that it names, cannot be read as such. The message says where and why.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    try:
        return parse_settings(path.read_text(encoding="utf-8"), path.parent)
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"{path}: {error}") from error


def parse_settings(text: str, folder: Path | None = None) -> dict[str, Any]:
    """Return the settings in the text of a TOML file by name, checked.

    Args:
        text: the TOML.
        folder: where the files are that it names. None refuses such names.

    Raises:
        ValueError: the text is no TOML, a key is no setting, or a value is not allowed.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"this is no TOML: {error}") from None
    changes = {name: read_setting(name, _with_files(value, name, folder)) for name, value in found.items()}
    Settings(**changes)  # checks them together
    return changes


def settings_as_toml(settings: Settings) -> str:
    """Return all settings as TOML that `parse_settings` reads back.

    A comment says what each setting is. Keys of tables that have their default stand there as comments.
    """
    plain = as_plain(settings, brief=True)
    told = _descriptions(Settings)
    parts: list[list[str]] = [[], []]  # TOML has the tables after everything else
    for name, value in plain.items():
        kind = type(getattr(settings, name))
        is_table = isinstance(value, dict) or name == "questions"
        if dataclasses.is_dataclass(kind):
            lines = _table(name, kind, value)
        elif is_table and not value:
            lines = [f"# [[{name}]]" if name == "questions" else f"# [{name}]"]
        else:
            lines = _dump({name: value})
        parts[is_table].append("\n".join([*_commented(told.get(name, "")), *lines]))
    return "\n\n".join(parts[0] + parts[1]) + "\n"


def _dump(plain: dict[str, Any]) -> list[str]:
    import tomli_w

    plain = _without_nothing(plain)
    # TOML reads a line end in a text over several lines as "\n", so texts with "\r" stand on one line.
    return tomli_w.dumps(plain, multiline_strings="\\r" not in json.dumps(plain)).strip("\n").split("\n")


def _commented(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)]


def _table(name: str, kind: type, plain: dict[str, Any]) -> list[str]:
    """Return the lines of a dataclass's table. Fields that `plain` leaves out stand there as comments."""
    told = _descriptions(kind)
    simple: list[str] = []
    tables: list[str] = []
    for field in dataclasses.fields(kind):
        value = plain.get(field.name)
        if field.name in plain:
            lines = _dump({name: {field.name: value}})
            lines = lines[lines[0] == f"[{name}]" :]
        else:
            lines = [f"# {field.name} = {json.dumps(as_plain(_default(field)), ensure_ascii=False)}"]
        holds_tables = isinstance(value, list) and any(isinstance(inner, dict) for inner in value)
        (tables if holds_tables else simple).extend([*_commented(told.get(field.name, "")), *lines])
    return [f"[{name}]", *simple, *tables]


@functools.cache
def _descriptions(kind: type) -> dict[str, str]:
    """Return what the docstring of a dataclass says of its fields."""
    told: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2].splitlines():
        if found := re.match(r"    (\w+): (.*)", line):
            name = found[1]
            told[name] = found[2]
        elif name and line.strip():
            told[name] += " " + line.strip()
    return {name: text[0].upper() + text[1:] for name, text in told.items()}


def describe_changes(before: Settings, after: Settings) -> list[str]:
    """Return a line for each setting that differs, with its value before and after."""
    lines = []
    for setting in dataclasses.fields(Settings):
        old, new = (as_plain(getattr(settings, setting.name), brief=True) for settings in (before, after))
        if old == new:
            continue
        if setting.name == "questions":
            lines += _describe_questions(old, new)
        else:
            lines.append(f"{setting.name}: {_short(old)} -> {_short(new)}")
    return lines


def changes_for_audit(before: Settings, after: Settings) -> list[str]:
    """Return the lines of `describe_changes` without the secret that signs webhooks."""
    return [re.sub(r"whsec_[\w+/=]+", "whsec_…", line) for line in describe_changes(before, after)]


def read_setting(name: str, value: Any) -> Any:
    """Return the value of a setting from its plain form (or from itself), checked by itself.

    Raises:
        ValueError: there is no such setting, or the value has another type, or fields that its type does not have.
    """
    hints = _hints(Settings)
    if name not in hints:
        raise ValueError(f"unknown setting {name!r}; {nearest(name, hints)}")
    plain = as_plain(value)
    if hints[name] is str and isinstance(plain, str):
        return plain  # also with a lone surrogate, which JSON lacks
    _check_keys(hints[name], plain, name)
    try:
        return _adapter(name).validate_json(json.dumps(plain), strict=True)
    except (TypeError, RecursionError):
        raise ValueError(f"{name}: only texts, numbers, true and false, lists and tables can be settings") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
        got = "" if kind in ("missing", "value_error") else f", got {_short(problem['input'])}"
        raise ValueError(f"{where}: {_WORDS.get(kind, message)}{got}") from None


@functools.lru_cache(maxsize=256)
def read_stored_setting(name: str, plain: str) -> Any:
    """Return the value of a setting from the JSON text of its plain form."""
    return read_setting(name, json.loads(plain))


def as_plain(value: Any, *, brief: bool = False) -> Any:
    """Return a setting as JSON and TOML have it: dataclasses as objects, tuples as lists.

    With `brief`, the dataclasses inside leave out the fields that have their default.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        leave_out = brief and not isinstance(value, Settings)
        return {
            field.name: as_plain(getattr(value, field.name), brief=brief)
            for field in dataclasses.fields(value)
            if not leave_out or getattr(value, field.name) != _default(field)
        }
    if isinstance(value, Mapping):
        return {key: as_plain(inner, brief=brief) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(inner, brief=brief) for inner in value]
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@functools.cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_hints(Settings)[name])


def _check_keys(hint: Any, plain: Any, where: str) -> None:
    """Raise a ValueError for a key that the dataclass at its place does not have, with the nearest one."""
    if dataclasses.is_dataclass(hint) and isinstance(plain, dict):
        hints = _hints(hint if isinstance(hint, type) else type(hint))
        for key, value in plain.items():
            if key not in hints:
                raise ValueError(f"{where}: unknown key {key!r}; {nearest(str(key), hints)}")
            _check_keys(hints[key], value, f"{where}.{key}")
    elif get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):
            _check_keys(option, plain, where)
    elif get_origin(hint) in (tuple, list) and isinstance(plain, list):
        for index, value in enumerate(plain):
            _check_keys(get_args(hint)[0], value, f"{where}[{index}]")
    elif get_origin(hint) is dict and isinstance(plain, dict):
        for key, value in plain.items():
            _check_keys(get_args(hint)[1], value, f"{where}.{key}")


def _with_files(value: Any, where: str, folder: Path | None) -> Any:
    """Return a value with the text of the file in place of each `{file = "..."}`."""
    if isinstance(value, list):
        return [_with_files(inner, f"{where}[{index}]", folder) for index, inner in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"file"} or not isinstance(value["file"], str):
        return {key: _with_files(inner, f"{where}.{key}", folder) for key, inner in value.items()}
    if folder is None:
        raise ValueError(f"{where}: the file {value['file']!r} cannot be read here: write its text in its place")
    path = folder / value["file"]
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ValueError(f"{where}: cannot read {path}: {why}") from None


def _without_nothing(plain: Any) -> Any:
    """Return plain settings without None, which TOML does not know."""
    if isinstance(plain, dict):
        return {key: _without_nothing(value) for key, value in plain.items() if value is not None}
    return [_without_nothing(value) for value in plain] if isinstance(plain, list) else plain


def _describe_questions(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    before, after = ({question["name"]: question for question in questions} for questions in (old, new))
    lines = [f"question {name!r}: new" for name in after if name not in before]
    lines += [f"question {name!r}: removed" for name in before if name not in after]
    for name in [name for name in after if name in before and before[name] != after[name]]:
        was, now = before[name], after[name]
        keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
        parts = (
            f"{key} {_short(was[key]) if key in was else 'default'} -> {_short(now[key]) if key in now else 'default'}"
            for key in keys
        )
        lines.append(f"question {name!r}: {', '.join(parts)}")
    return lines or ["questions: another order"]


def _short(value: Any, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
