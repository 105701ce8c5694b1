"""Define what is found: a stretch of text and the kind of private data in it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["KINDS", "PrivacyError", "Span", "Window", "need"]

# In the order in which they win where two cover the same text.
KINDS = ("key", "iban", "card", "national_id", "email", "ip", "phone", "name")


class PrivacyError(ImportError):
    """Signal that the packages of the extra `privacy` are missing."""


class Span(NamedTuple):
    """Hold where private data stands in a text: `text[start:end]`, and its kind, one of `KINDS`."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Window:
    """Hold a folded stretch of text that is searched: `text[begin:]` is the segment, before it is what came before.

    Attributes:
        text: the folded text, up to the end of the segment.
        begin: where the segment begins in it.
        after: a few folded characters that follow the segment.
    """

    text: str
    begin: int
    after: str


def need(module: str) -> Any:
    """Return a module of the extra `privacy`.

    Raises:
        PrivacyError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PrivacyError(
            f"masking needs {module.partition('.')[0]}: pip install 'rlhf-envs[privacy]'", name=error.name
        ) from error
