"""Split rows into training, validation and test rows that share no prompt."""

from __future__ import annotations

import hashlib
import logging
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .messages import Messages, as_messages
from .pictures import COLUMN, is_blank, picture_key

__all__ = [
    "SPLITS",
    "MissingSplitError",
    "asked_key",
    "check_split",
    "hash_share",
    "log_once",
    "prompt_key",
    "row_key",
    "split_name",
    "take_split",
]

SPLITS = ("train", "validation", "test")
OTHER_NAMES = {
    **dict.fromkeys(("training",), "train"),
    **dict.fromkeys(("dev", "val", "valid"), "validation"),
    **dict.fromkeys(("eval", "evaluation", "testing"), "test"),
}

logger = logging.getLogger(__name__)


class MissingSplitError(ValueError):
    """Raise where data has no rows of a split."""


def split_name(name: object) -> str:
    """Return the name that this package has for a split: "eval" is "test", "dev" and "valid" are "validation"."""
    text = str(name).strip()
    known = OTHER_NAMES.get(text.casefold(), text.casefold())
    return known if known in SPLITS else text


def check_split(name: object, task: str) -> str:
    """Return the name that this package has for a split of a task that makes its own rows.

    Raises:
        ValueError: there is no such split. The message names the task.
    """
    if (split := split_name(name)) not in SPLITS:
        raise ValueError(f"task {task!r} has no split {name!r}; there are {', '.join(SPLITS)}")
    return split


def prompt_key(prompt: str | Messages) -> str:
    """Return what equal prompts share: the text without differences in case, spaces and Unicode's forms."""
    messages = as_messages(prompt, "prompt")
    texts = [message["content"] for message in messages]
    if len(messages) > 1:
        texts = [f"{message['role']}: {text}" for message, text in zip(messages, texts, strict=True)]
    return "\n".join(" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts)


def row_key(row: Mapping[str, Any], column: str = "prompt") -> str:
    """Return what rows share that may not be in two splits: the prompt, or the picture where a row has one."""
    image = row.get(COLUMN)
    return prompt_key(row[column]) if is_blank(image) else f"picture {picture_key(image)}"


def asked_key(row: Mapping[str, Any]) -> str:
    """Return what rows share that ask the same: the prompt, with the picture where a row has one."""
    prompt = prompt_key(row["prompt"])
    return prompt if is_blank(row.get(COLUMN)) else f"{row_key(row)}: {prompt}"


def take_split(
    rows: Sequence[dict[str, Any]],
    split: str,
    source: str,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    column: str = "prompt",
) -> list[dict[str, Any]]:
    """Return the rows of a split. No prompt is in two splits, or of rows with an `image` no picture.

    Rows with a column `split` keep it; a prompt that is there in several splits stays in the first of train, test and
    validation. Other rows are split by a hash of their prompt, so a prompt that is there now stays where it is when
    rows are added. A split has at least one prompt if its share of all different prompts is at least one.

    Args:
        rows: the rows; all have a column `split`, or none.
        split: "train", "validation" or "test", one of their other names (see `split_name`), or a name in the column.
        source: where the rows come from, for messages.
        validation_share: the share of the different prompts, without a column `split`.
        test_share: the same for the test split.
        column: the column that has the prompt.

    Raises:
        MissingSplitError: there are no rows of this split; the message says what to do.
        ValueError: the shares are wrong.
    """
    shares = {"test": test_share, "validation": validation_share}
    if min(shares.values()) < 0 or sum(shares.values()) >= 1:
        raise ValueError(f"{validation_share=:g} and {test_share=:g}: expected shares from 0, below 1 together")
    wanted, keys = split_name(split), [row_key(row, column) for row in rows]
    named = bool(rows) and "split" in rows[0]
    places = _by_name(rows, keys, source) if named else _by_hash(keys, shares)
    counts = Counter(place for place in places if place is not None)
    log_once(logging.INFO, f"{source}: {', '.join(f'{n} {name}' for name, n in sorted(counts.items()))} rows")
    if wanted not in counts:
        raise MissingSplitError(f"{source}: {_missing(wanted, sorted(counts), named, shares, len(set(keys)))}")
    if not named and wanted == "train" and len(counts) == 1 and sum(shares.values()) > 0:
        log_once(logging.WARNING, f"{source}: too few prompts to hold any out, all of them are training prompts")
    return [row for row, place in zip(rows, places, strict=True) if place == wanted]


def _by_name(rows: Sequence[dict[str, Any]], keys: Sequence[str], source: str) -> list[str | None]:
    """Return the split of each row by its column; None for a row whose prompt is also in another split."""
    names = [split_name(row["split"]) for row in rows]
    renamed = {f"{row['split']!r} as {name!r}" for row, name in zip(rows, names, strict=True) if row["split"] != name}
    if renamed:
        log_once(logging.WARNING, f"{source}: the splits are taken as follows: {', '.join(sorted(renamed))}")
    rank = {name: i for i, name in enumerate(dict.fromkeys(["train", "test", "validation", *sorted(names)]))}
    owners: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        owners[key] = min(owners.get(key, name), name, key=rank.__getitem__)
    left_out = [i for i, (key, name) in enumerate(zip(keys, names, strict=True)) if owners[key] != name]
    if left_out:
        first = left_out[0]
        log_once(
            logging.WARNING,
            f"{source}: {len(left_out)} rows are left out, because their prompts are in another split too; the first "
            f"is row {first} of {names[first]!r}, which is also in {owners[keys[first]]!r}: {keys[first][:60]!r}",
        )
    return [name if owners[key] == name else None for key, name in zip(keys, names, strict=True)]


def _by_hash(keys: Sequence[str], shares: dict[str, float]) -> list[str | None]:
    """Return the split of each row by the hash of its prompt."""
    hashes = {key: hash_share(key) for key in keys}
    order = sorted(hashes, key=hashes.__getitem__)
    places: dict[str, str | None] = dict.fromkeys(order, "train")
    start, least = 0, 0.0
    for name, share in shares.items():
        least += share
        inside = sum(hashes[key] < least for key in order[start:])
        enough = len(order) * share >= 1
        end = min(start + max(inside, 1), len(order) - 1) if enough else start  # one prompt at least is for training
        places |= dict.fromkeys(order[start:end], name)
        start = end
    return [places[key] for key in keys]


def hash_share(key: str) -> float:
    """Return a number from 0 to 1 that is the same on every machine."""
    digest = hashlib.sha1(key.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _missing(wanted: str, there: list[str], named: bool, shares: dict[str, float], n_prompts: int) -> str:
    """Return why there are no rows of a split, and what to do."""
    if named:
        return f"no row has split {wanted!r}; there are: {', '.join(there)}"
    if wanted not in SPLITS:
        return f"no split {wanted!r}: the rows have no column 'split', so there are {', '.join(SPLITS)}"
    share = shares.get(wanted, 0.0)
    if not share:
        return f"{wanted}_share=0 leaves no {wanted} rows: raise it, or give the rows a column 'split'"
    counted = "1 different prompt is" if n_prompts == 1 else f"{n_prompts} different prompts are"
    return (
        f"{counted} too few for a {wanted} split: {wanted}_share={share:g} needs "
        f"{math.ceil(1 / share)}. Add rows, raise {wanted}_share, give the rows a column 'split', or measure on "
        "training prompts: --test-split train (of rlhf evaluate: --split train)"
    )


@lru_cache(maxsize=1024)
def log_once(level: int, message: str) -> None:
    """Log a message the first time: a run reads the same data several times."""
    logger.log(level, "%s", message)
