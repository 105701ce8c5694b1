"""Check the values of arguments against their types and ranges, and read their meaning from docstrings.

This module imports no torch.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

__all__ = ["argument_texts", "check_value", "type_name"]

PLAIN = (bool, int, float, str, list, dict, NoneType)  # what a command line or a file can give
NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", NoneType: "null"}
RANGES: dict[str, tuple[float, float]] = {
    "gamma": (0, 1),
    "gae_lambda": (0, 1),
    "n_steps": (1, float("inf")),
    "n_epochs": (1, float("inf")),
    "learning_rate": (0, float("inf")),
}


def check_value(name: str, value: Any, hint: Any) -> None:
    """Check a plain value against the annotation of its argument, and against the argument's range.

    An annotation with other types than numbers, texts, literals and functions is not checked, nor is an object.

    Raises:
        TypeError: the value has another type.
        ValueError: the value is outside the range.
    """
    if type(value) not in PLAIN:
        return
    kinds = _kinds(hint)
    if isinstance(value, str) and str not in kinds and any(get_origin(kind) is type for kind in kinds):
        raise TypeError(f"{name}={value!r}: expected a class, which no text stands for: pass it in Python")
    if all(_is_plain(kind) for kind in kinds) and not any(_fits(value, kind) for kind in kinds):
        raise TypeError(f"{name}={value!r}: expected {type_name(hint)}")
    low, high = RANGES.get(name, (float("-inf"), float("inf")))
    if isinstance(value, int | float) and not low <= value <= high:
        bounds = f"from {low:g} to {high:g}" if high < float("inf") else f"of at least {low:g}"
        raise ValueError(f"{name}={value!r}: expected a number {bounds}")


def type_name(hint: Any) -> str:
    """Return an annotation in words, such as "a whole number or null"."""
    words: list[str] = []
    for kind in _kinds(hint):
        if get_origin(kind) is Literal:
            words += [repr(value) for value in get_args(kind)]
        elif kind in NAMES:
            words.append(NAMES[kind])
    return " or ".join(dict.fromkeys(words)) or "an object"


def _kinds(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, UnionType):
        return [kind for part in get_args(hint) for kind in _kinds(part)]
    return [hint]


def _is_plain(kind: Any) -> bool:
    return kind in NAMES or get_origin(kind) in (Literal, Callable)


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def argument_texts(cls: type[Any]) -> dict[str, str]:
    """Return the meaning of arguments of a class and its bases, by name, from docstrings of Google's or Sphinx's form.

    What a class says of an argument comes before what its bases say.
    """
    texts: dict[str, str] = {}
    for base in cls.__mro__[:-1]:
        init = vars(base).get("__init__")
        for doc in (vars(base).get("__doc__"), getattr(init, "__doc__", None)):
            texts = {**_google(inspect.cleandoc(doc or "")), **_sphinx(inspect.cleandoc(doc or "")), **texts}
    return texts


def _google(doc: str) -> dict[str, str]:
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", doc, re.M)
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1], re.M) if section else []
    return {name: " ".join(text.split()) for name, text in found}


def _sphinx(doc: str) -> dict[str, str]:
    found = re.findall(r"^:param (\w+): (.*(?:\n[ \t]+.*)*)", doc, re.M)
    return {name: " ".join(text.split()) for name, text in found}
