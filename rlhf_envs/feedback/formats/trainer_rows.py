"""Judgements as the rows that trainers take: TRL's formats, ratings, and texts to fine-tune on.

TRL's formats: https://huggingface.co/docs/trl/dataset_formats. Every function counts what it leaves out.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..records import Item, Judgement
from .messages import completion_messages, prompt_messages

__all__ = ["HOW", "Export", "kto_rows", "preference_rows", "rating_rows", "sft_rows"]

Row = dict[str, Any]

HOW = ("each", "majority", "soft")


@dataclass(frozen=True)
class Export:
    """Rows, and how many judgements (where the reason says so: items) did not make it into them, by reason."""

    rows: list[Row]
    dropped: dict[str, int] = field(default_factory=dict)


def preference_rows(
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    *,
    how: str = "each",
    min_judgements: int = 1,
    strength_margin: float = 0.0,
    conversational: bool = False,
    shares: Mapping[tuple[int, str, str], float] | None = None,
    item_ids: bool = False,
) -> Export:
    """TRL's preference rows `{prompt, chosen, rejected}` from comparisons, rankings and corrections.

    A ranking of n completions gives its n(n-1)/2 pairs, a correction is preferred to what it corrects.

    Args:
        items: that the judgements are of; those not among them are left out and counted.
        judgements: from `FeedbackStore.judgements(include_skips=True)`, or without the skips.
        how: "each": a row a judgement, with its "annotator". "majority": a row a pair, in the direction that more
            annotators chose, a tie counting half for either. "soft": the same with "probability", the share that chose
            it, in [0.5, 1]; 0.5 is a tie, and kept.
        min_judgements: pairs with fewer are left out.
        strength_margin: a preference of strength s gets "margin" `strength_margin * (s - 1)`, the mean where several
            are taken together; no margin at 0.
        conversational: messages instead of strings.
        shares: of "majority" and "soft": (item id, first text, second text) to how probable it is that the first is
            the better one, in place of the share that chose it; either order will do.
        item_ids: add the column "item_id", the item's id in the store.
    """
    if how not in HOW:
        raise ValueError(f"how={how!r}: choose {', '.join(HOW)}")
    dropped: Counter[str] = Counter()
    votes: dict[tuple[int, str, str], list[_Vote]] = defaultdict(list)
    known = _usable(items, judgements, dropped)
    for item, judgement in known:
        pairs = _pairs(item, judgement, dropped)
        for chosen, rejected, share, strength in pairs:
            first, second = sorted((chosen, rejected))
            vote = _Vote(judgement.annotator, share if chosen == first else 1 - share, strength)
            votes[item.id, first, second].append(vote)
    by_id = {item.id: item for item in items}
    rows: list[Row] = []
    for (item_id, first, second), given in votes.items():
        if len(given) < min_judgements:
            dropped[f"fewer than {min_judgements} judgements"] += len(given)
            continue
        groups = [[vote] for vote in given] if how == "each" else [given]
        known_share = _share_of(shares or {}, item_id, first, second)
        for group in groups:
            row = _preference(first, second, group, known_share, how, strength_margin, dropped)
            if row is not None:
                rows.append(
                    {**_texts(by_id[item_id], row, conversational), **row.extra, **_item_id(by_id[item_id], item_ids)}
                )
    return Export(rows, dict(dropped))


def kto_rows(
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    *,
    scale: tuple[int, int] = (1, 5),
    conversational: bool = False,
) -> Export:
    """TRL's unpaired rows `{prompt, completion, label}`, the label true or false, one or two a judgement.

    Thumbs say it themselves; of a comparison, a ranking and a correction the best is good and the worst is bad; a
    rating is good above the middle of the scale and bad below; a completion with any harm is bad.
    """
    dropped: Counter[str] = Counter()
    rows: list[Row] = []
    for item, judgement in _usable(items, judgements, dropped):
        labels = _labels(item, judgement, scale, dropped)
        for completion, label in labels:
            rows.append({**_completion_row(item, completion, conversational), "label": label})
            rows[-1]["annotator"] = judgement.annotator
    return Export(rows, dict(dropped))


def rating_rows(
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    *,
    how: str = "each",
    min_judgements: int = 1,
    conversational: bool = False,
    item_ids: bool = False,
) -> Export:
    """Return rows `{prompt, completion, label}` from ratings: one per judgement ("each"), or the mean per item.

    The label is a float. `item_ids` adds the column "item_id", the item's id in the store.
    """
    if how not in HOW:
        raise ValueError(f"how={how!r}: choose {', '.join(HOW)}")
    dropped: Counter[str] = Counter()
    given: dict[int, list[tuple[str, float]]] = defaultdict(list)
    for item, judgement in _usable(items, judgements, dropped):
        if judgement.kind != "rating" or judgement.value is None:
            dropped[f"{judgement.kind}: no rating"] += 1
        else:
            given[item.id].append((judgement.annotator, float(judgement.value["rating"])))
    rows: list[Row] = []
    by_id = {item.id: item for item in items}
    for item_id, ratings in given.items():
        if len(ratings) < min_judgements:
            dropped[f"fewer than {min_judgements} judgements"] += len(ratings)
            continue
        item = by_id[item_id]
        base = {**_completion_row(item, item.completions[0], conversational), **_item_id(item, item_ids)}
        if how == "each":
            rows += [{**base, "label": rating, "annotator": annotator} for annotator, rating in ratings]
        else:
            rows.append({**base, "label": sum(rating for _, rating in ratings) / len(ratings)})
    return Export(rows, dict(dropped))


def sft_rows(items: Sequence[Item], judgements: Sequence[Judgement], *, conversational: bool = False) -> Export:
    """Rows `{prompt, completion}` to fine-tune on: what people wrote as corrections, and what got thumbs up."""
    dropped: Counter[str] = Counter()
    rows: list[Row] = []
    for item, judgement in _usable(items, judgements, dropped):
        value = judgement.value or {}
        if judgement.kind == "correction":
            rows.append(_completion_row(item, value["text"], conversational))
        elif judgement.kind == "thumbs" and value["up"]:
            rows.append(_completion_row(item, item.completions[0], conversational))
        else:
            dropped["thumbs down" if judgement.kind == "thumbs" else f"{judgement.kind}: no text to imitate"] += 1
    return Export(rows, dict(dropped))


@dataclass(frozen=True)
class _Vote:
    annotator: str
    share: float  # for the first of the pair: 1, 0, or 0.5 for a tie
    strength: int


@dataclass(frozen=True)
class _Preferred:
    chosen: str
    rejected: str
    extra: Row


def _usable(
    items: Sequence[Item], judgements: Iterable[Judgement], dropped: Counter[str]
) -> list[tuple[Item, Judgement]]:
    """Judgements that say something about an item that is to be exported; the others are counted."""
    by_id = {item.id: item for item in items}
    judged: set[int] = set()
    usable = []
    for judgement in judgements:
        item = by_id.get(judgement.item_id)
        if item is None:
            dropped["of an item that was not asked for"] += 1
            continue
        judged.add(item.id)
        if item.gold is not None:
            dropped["gold question"] += 1
        elif judgement.value is None:
            dropped["skip"] += 1
        else:
            usable.append((item, judgement))
    unjudged = sum(item.id not in judged for item in items)
    if unjudged:
        dropped["not judged yet (item)"] += unjudged
    return usable


def _pairs(item: Item, judgement: Judgement, dropped: Counter[str]) -> list[tuple[str, str, float, int]]:
    """(chosen, rejected, share for the chosen, strength) of each pair that a judgement compares."""
    value = judgement.value or {}
    if judgement.kind == "pairwise":
        choice = value["choice"]
        first, second = item.completions if choice in (0, None) else item.completions[::-1]
        pairs = [(first, second, 0.5 if choice is None else 1.0, int(value["strength"]))]
    elif judgement.kind == "ranking":
        ordered = [item.completions[i] for i in value["order"]]
        pairs = [(better, worse, 1.0, 1) for better, worse in itertools.combinations(ordered, 2)]
    elif judgement.kind == "correction":
        pairs = [(value["text"], item.completions[0], 1.0, 1)]
    else:
        dropped[f"{judgement.kind}: nothing compared"] += 1
        return []
    different = [pair for pair in pairs if pair[0] != pair[1]]
    if len(different) < len(pairs):
        dropped["chosen equals rejected (pair)"] += len(pairs) - len(different)
    return different


def _share_of(shares: Mapping[tuple[int, str, str], float], item_id: int, first: str, second: str) -> float | None:
    if (item_id, first, second) in shares:
        return shares[item_id, first, second]
    if (item_id, second, first) in shares:
        return 1 - shares[item_id, second, first]
    return None


def _preference(
    first: str,
    second: str,
    votes: Sequence[_Vote],
    known_share: float | None,
    how: str,
    strength_margin: float,
    dropped: Counter[str],
) -> _Preferred | None:
    """One row of votes on a pair; None, counted, where they do not say which is better."""
    share = sum(vote.share for vote in votes) / len(votes)
    if known_share is not None and how != "each":
        share = known_share
    if share == 0.5 and how != "soft":
        dropped["tie" if all(vote.share == 0.5 for vote in votes) else "contradictory: no majority"] += len(votes)
        return None
    chosen, rejected = (first, second) if share >= 0.5 else (second, first)
    extra: Row = {"annotator": votes[0].annotator} if how == "each" else {}
    if how == "soft":
        extra["probability"] = max(share, 1 - share)
    if strength_margin:
        agreeing = [vote for vote in votes if vote.share != 0.5 and (vote.share > 0.5) == (share >= 0.5)]
        strengths = [vote.strength - 1 for vote in agreeing]
        extra["margin"] = strength_margin * sum(strengths) / len(strengths) if strengths else 0.0
    return _Preferred(chosen, rejected, extra)


def _labels(item: Item, judgement: Judgement, scale: tuple[int, int], dropped: Counter[str]) -> list[tuple[str, bool]]:
    """(completion, good or bad) for what a judgement is clear about."""
    value = judgement.value or {}
    if judgement.kind == "thumbs":
        return [(item.completions[0], value["up"])]
    if judgement.kind == "rating":
        middle = sum(scale) / 2
        if value["rating"] == middle:
            dropped["rating in the middle of the scale"] += 1
            return []
        return [(item.completions[0], value["rating"] > middle)]
    if judgement.kind == "flags":
        if not value["harms"]:
            dropped["flags: no harm does not make it good"] += 1
            return []
        return [(item.completions[0], False)]
    if judgement.kind == "pairwise" and value["choice"] is None:
        dropped["tie"] += 1
        return []
    pairs = _pairs(item, judgement, dropped)
    if not pairs:
        return []
    # of a ranking's pairs, which are in its order, the first chosen is the best and the last rejected the worst
    return [(pairs[0][0], True), (pairs[-1][1], False)]


def _texts(item: Item, row: _Preferred, conversational: bool) -> Row:
    if not conversational:
        return {"prompt": item.prompt, "chosen": row.chosen, "rejected": row.rejected}
    return {
        "prompt": prompt_messages(item.prompt, item.meta),
        "chosen": completion_messages(row.chosen),
        "rejected": completion_messages(row.rejected),
    }


def _item_id(item: Item, wanted: bool) -> Row:
    return {"item_id": item.id} if wanted else {}


def _completion_row(item: Item, completion: str, conversational: bool) -> Row:
    if not conversational:
        return {"prompt": item.prompt, "completion": completion}
    return {"prompt": prompt_messages(item.prompt, item.meta), "completion": completion_messages(completion)}
