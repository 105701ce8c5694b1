"""Name the projects that one server has, from the stores on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["name_stores"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_NAMED = re.compile(_NAME.pattern + "=.")
# First parts of our own paths: a project of such a name would be mistaken for them.
_RESERVED = {"admin", "annotate", "api", "invite", "language", "login", "logout", "my-data", "panel", "static"}


def name_stores(given: Sequence[str]) -> str | dict[str, str]:
    """Return the one store, or for several {name of the project: store}.

    A store is "name=store", or a path, whose stem is the name. One store without a name is served without projects.

    Raises:
        ValueError: a name is not allowed, or two projects have it.
    """
    if len(given) == 1 and not _NAMED.match(given[0]):
        return given[0]
    found: dict[str, str] = {}
    for text in given:
        name, equals, url = text.partition("=")
        if not equals or not _NAME.fullmatch(name):  # a path or an address with a "=" in it
            url = text
            if "://" in text and not text.startswith("sqlite:///"):
                raise ValueError(f"--store {text}: among several stores a database needs a name: NAME={text}")
            name = re.sub(r"[^a-z0-9_-]+", "-", Path(text).stem.lower()).strip("-")
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise ValueError(
                f"--store {text}: {name!r} cannot be a project's name: take 1 to 40 letters a-z, digits, - and _, and "
                f"none of {', '.join(sorted(_RESERVED))}"
            )
        if name in found:
            raise ValueError(f"--store {text}: there is a project {name!r} already: write NAME={url}")
        found[name] = url
    return found
