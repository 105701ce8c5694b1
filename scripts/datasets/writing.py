"""Write a bundled sample."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["DATA", "assign_splits", "both_ways", "letters", "letters_share", "write"]

DATA = Path(__file__).resolve().parents[2] / "rlhf_envs/datasets/data"


def letters(text: str) -> str:
    """Return the lower-case letters and digits of a text: the same for two spellings of it."""
    return re.sub(r"[\W_]", "", text.lower())


def letters_share(text: str) -> float:
    """Return a number in [0, 1) that is the same for texts with the same letters: the start of their SHA-1."""
    return int(hashlib.sha1(letters(text).encode()).hexdigest()[:12], 16) / 16**12


def both_ways(row: Mapping[str, str]) -> list[dict[str, str]]:
    """Return a row with an English `prompt` and a Chinese `reference` as two rows: from English, and back."""
    back = {**row, "prompt": row["reference"], "reference": row["prompt"]}
    return [{**row, "source": "English", "target": "Chinese"}, {**back, "source": "Chinese", "target": "English"}]


def assign_splits(rows: Sequence[Mapping[str, Any]], key: str, shares: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the rows with a `split`, by the order of the SHA-1 of the letters of `key`: equal texts share a split.

    Args:
        shares: the share of the rows of each split, such as `{"test": 0.2, "validation": 0.1}`; the rest is "train".
    """
    order = sorted(rows, key=lambda row: hashlib.sha1(letters(str(row[key])).encode()).hexdigest())
    found: list[dict[str, Any]] = []
    for split, share in shares.items():
        n = round(share * len(order))
        found += [{**row, "split": split} for row in order[:n]]
        order = order[n:]
    return [{**row, "split": "train"} for row in order] + found[::-1]


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as JSON lines. A name that ends in .gz is compressed, without the time stamp that would change it."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
    if path.name.endswith(".gz"):
        with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as file:
            file.write(data)
    else:
        path.write_bytes(data)
    print(f"{path}: {len(rows):,} rows, {path.stat().st_size / 1e6:.2f} MB")
