"""Write cards: the README.md with metadata that the Hugging Face Hub shows of a model or a dataset."""

from __future__ import annotations

import logging
from pathlib import Path

__all__ = ["CARD", "MARK", "write_card"]

logger = logging.getLogger(__name__)

CARD = "README.md"
MARK = "<!-- Written by rlhf-envs. Remove this line to keep your own text: it is then never replaced. -->"


def write_card(folder: str | Path, text: str, what: str = "model") -> Path | None:
    """Write a card into a folder, and return its path. A README of somebody else's is left alone.

    Args:
        folder: the folder of the model or the dataset.
        text: the card, with `MARK` in it.
        what: what it is the card of, for the warning.

    Returns:
        The path, or None where a README.md without our mark stands in the folder. A warning says so.
    """
    path = Path(folder) / CARD
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        logger.warning("%s is not replaced by a %s card: it is not one of ours", path, what)
        return None
    path.write_text(text, encoding="utf-8")
    return path
