"""Read the API keys of servers from the environment."""

from __future__ import annotations

import os

__all__ = ["read_api_key"]


def read_api_key(name: str) -> str | None:
    """Return the key in an environment variable without white space around it, None if there is none.

    Raises:
        ValueError: no header can carry the key. The message does not have it; those of HTTP libraries do.
    """
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError(f"the key in the variable {name} has characters that no header carries: set it anew")
    return key or None
