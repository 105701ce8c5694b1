"""Find and mask private data: e-mail addresses, phone numbers, cards, IBANs, identity numbers, IPs, keys, some names.

The extra `privacy` brings what checks the numbers: `pip install 'rlhf-envs[privacy]'`. The patterns are compiled at the
first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .spans import KINDS, PrivacyError, Span

if TYPE_CHECKING:
    from .cues import LANGUAGES
    from .logs import MaskLogs, masked_logs
    from .masker import REGIONS, Masker, MaskStream

__all__ = [
    "KINDS",
    "LANGUAGES",
    "REGIONS",
    "MaskLogs",
    "MaskStream",
    "Masker",
    "PrivacyError",
    "Span",
    "masked_logs",
]

_HOMES = {
    "LANGUAGES": "cues",
    "REGIONS": "masker",
    "MaskLogs": "logs",
    "MaskStream": "masker",
    "Masker": "masker",
    "masked_logs": "logs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
