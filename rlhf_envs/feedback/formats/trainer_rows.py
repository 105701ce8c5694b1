"""Turn judgements into the rows that trainers take: TRL's formats, ratings, and texts to fine-tune on.

TRL's formats: https://huggingface.co/docs/trl/dataset_formats. Every function counts what it leaves out.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ...datasets.messages import as_answer, as_text, kept_prompt, kept_turns
from ..records import Item, Judgement

__all__ = [
    "HOW",
    "Export",
    "flag_rows",
    "kto_rows",
    "preference_rows",
    "rating_rows",
    "sft_rows",
    "with_ties_both_ways",
]

Row = dict[str, Any]

HOW = ("each", "majority", "soft")


class _Pair(NamedTuple):
    chosen: str
    rejected: str
    share: float = 1.0  # how likely the chosen text is the better one; 0.5 for a tie
    strength: int = 1
    margin: float | None = None


@dataclass(frozen=True)
class Export:
    """Hold rows, and per reason how many judgements (or items, if the reason says so) were left out of them."""

    rows: list[Row]
    dropped: dict[str, int] = field(default_factory=dict)
    doubled: int = 0  # ties that stand in two rows, see `with_ties_both_ways`
    finals: int = 0  # items with a final answer, which "adjudicated" takes in place of votes
    fixed: int = 0  # judgements that an admin has changed; the audit has what they were


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
    """Return TRL's preference rows `{prompt, chosen, rejected}` from comparisons, rankings and corrections.

    A ranking of n completions gives its n(n-1)/2 pairs. A correction is preferred to the text that it corrects.

    Args:
        items: the items that were judged. Judgements of other items are left out and counted.
        judgements: the result of `FeedbackStore.judgements(include_skips=True)`, or without the skips.
        how: "each" gives one row per judgement, with its "annotator", and its "probability" if it has one. "majority"
            gives one row per pair, in the direction that more annotators chose; a tie counts half for either text, a
            judgement with a probability as much as that. "soft" adds "probability" to that, the share of annotators who
            chose the text, from 0.5 to 1; 0.5 is a tie, and kept.
        min_judgements: leave out pairs with fewer judgements.
        strength_margin: give a preference of strength s, which has no margin of its own, the "margin"
            `strength_margin * (s - 1)`, and several preferences their mean. At 0, and where no judgement has a margin,
            there is no such column.
        conversational: write messages instead of strings; of a completion of several turns, all of its turns.
        shares: for "majority" and "soft": maps (item id, first text, second text) to the probability that the first is
            better, which replaces the share of annotators who chose it. The texts may be in either order.
        item_ids: add the column "item_id", the item's id in the store.

    Raises:
        ValueError: `how` is unknown.
    """
    if how not in HOW:
        raise ValueError(f"how={how!r}: choose {', '.join(HOW)}")
    dropped: Counter[str] = Counter()
    votes: dict[tuple[int, str, str], list[_Vote]] = defaultdict(list)
    for item, judgement in _usable(items, judgements, dropped):
        for pair in _pairs(item, judgement, dropped):
            first, second = sorted((pair.chosen, pair.rejected))
            share = pair.share if pair.chosen == first else 1 - pair.share
            votes[item.id, first, second].append(_Vote(judgement.annotator, share, pair.strength, pair.margin))
    # In all rows or in none, since TRL takes no row without a margin beside one with it.
    has_margins = strength_margin > 0 or any(vote.margin is not None for given in votes.values() for vote in given)
    by_id = {item.id: item for item in items}
    rows: list[Row] = []
    for (item_id, first, second), given in votes.items():
        if len(given) < min_judgements:
            dropped[f"fewer than {min_judgements} judgements"] += len(given)
            continue
        groups = [[vote] for vote in given] if how == "each" else [given]
        given_share = None if how == "each" else _share_of(shares or {}, item_id, first, second)
        for group in groups:
            found = _preference(first, second, group, given_share, how, dropped)
            if found is None:
                continue
            chosen, rejected, extra = found
            if has_margins:
                extra["margin"] = _margin(group, chosen == first, strength_margin)
            texts = _texts(by_id[item_id], conversational, True, chosen=chosen, rejected=rejected)
            rows.append({**texts, **extra, **_item_id(by_id[item_id], item_ids)})
    return Export(rows, dict(dropped))


def with_ties_both_ways(export: Export) -> Export:
    """Return preference rows with every tie (a "probability" of 0.5) written twice, the other way round as well.

    TRL reads no "probability" and would learn that the first text is better; from both rows it learns nothing. The
    "weight" of 0.5 makes them one judgement to `rlhf reward fit`.
    """
    rows: list[Row] = []
    for row in export.rows:
        if row.get("probability") == 0.5:
            half = {**row, "weight": 0.5}
            rows += [half, {**half, "chosen": row["rejected"], "rejected": row["chosen"]}]
        else:
            rows.append(row)
    return replace(export, rows=rows, doubled=len(rows) - len(export.rows))


def kto_rows(
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    *,
    scale: tuple[int, int] = (1, 5),
    conversational: bool = False,
) -> Export:
    """Return TRL's unpaired rows `{prompt, completion, label}`, with the label true (good) or false (bad).

    A judgement gives one row or two. Thumbs are the label. In a comparison, a ranking and a correction the best text is
    good and the worst is bad. A rating is good above the middle of the `scale` and bad below. A completion with any
    harm is bad.
    """
    dropped: Counter[str] = Counter()
    rows: list[Row] = []
    for item, judgement in _usable(items, judgements, dropped):
        for completion, label in _labels(item, judgement, scale, dropped):
            texts = _texts(item, conversational, True, completion=completion)
            rows.append({**texts, "label": label, "annotator": judgement.annotator})
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
        base = {**_texts(item, conversational, completion=item.completions[0]), **_item_id(item, item_ids)}
        if how == "each":
            rows += [{**base, "label": rating, "annotator": annotator} for annotator, rating in ratings]
        else:
            rows.append({**base, "label": sum(rating for _, rating in ratings) / len(ratings)})
    return Export(rows, dict(dropped))


def flag_rows(items: Sequence[Item], judgements: Sequence[Judgement], *, conversational: bool = False) -> Export:
    """Return rows `{prompt, completion, flag, harms}` from flags, one per judgement, which a cost is fitted to.

    The flag says whether the person named any harm.
    """
    dropped: Counter[str] = Counter()
    rows: list[Row] = []
    for item, judgement in _usable(items, judgements, dropped):
        if judgement.kind != "flags" or judgement.value is None:
            dropped[f"{judgement.kind}: no flags of harm"] += 1
            continue
        harms = list(judgement.value["harms"])
        texts = _texts(item, conversational, completion=item.completions[0])
        rows.append({**texts, "flag": bool(harms), "harms": harms, "annotator": judgement.annotator})
    return Export(rows, dict(dropped))


def sft_rows(items: Sequence[Item], judgements: Sequence[Judgement], *, conversational: bool = False) -> Export:
    """Return rows `{prompt, completion}` to fine-tune on: corrections that people wrote, and texts with thumbs up."""
    dropped: Counter[str] = Counter()
    rows: list[Row] = []
    for item, judgement in _usable(items, judgements, dropped):
        value = judgement.value or {}
        if judgement.kind == "correction":
            rows.append(_texts(item, conversational, completion=value["text"]))
        elif judgement.kind == "thumbs" and value["up"]:
            rows.append(_texts(item, conversational, completion=item.completions[0]))
        else:
            dropped["thumbs down" if judgement.kind == "thumbs" else f"{judgement.kind}: no text to imitate"] += 1
    return Export(rows, dict(dropped))


@dataclass(frozen=True)
class _Vote:
    annotator: str
    share: float  # how likely the first text of the pair is the better one: 1 or 0, 0.5 for a tie
    strength: int
    margin: float | None


def _usable(
    items: Sequence[Item], judgements: Iterable[Judgement], dropped: Counter[str]
) -> list[tuple[Item, Judgement]]:
    """Return (item, judgement) for each judgement that can be exported, and count the others in `dropped`."""
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


def _pairs(item: Item, judgement: Judgement, dropped: Counter[str]) -> list[_Pair]:
    """Return each pair of texts that a judgement compares."""
    value = judgement.value or {}
    if judgement.kind == "pairwise":
        choice = value["choice"]
        first, second = item.completions if choice in (0, None) else item.completions[::-1]
        share = 0.5 if choice is None else value.get("probability", 1.0)
        pairs = [_Pair(first, second, share, int(value["strength"]), value.get("margin"))]
    elif judgement.kind == "ranking":
        ordered = [item.completions[i] for i in value["order"]]
        pairs = [_Pair(better, worse) for better, worse in itertools.combinations(ordered, 2)]
    elif judgement.kind == "correction":
        pairs = [_Pair(value["text"], item.completions[0])]
    else:
        dropped[f"{judgement.kind}: nothing compared"] += 1
        return []
    different = [pair for pair in pairs if pair.chosen != pair.rejected]
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
    first: str, second: str, votes: Sequence[_Vote], share: float | None, how: str, dropped: Counter[str]
) -> tuple[str, str, Row] | None:
    """Return (chosen, rejected, further columns) from votes on a pair. If neither wins, count it and return None."""
    if share is None:
        share = sum(vote.share for vote in votes) / len(votes)
    if share == 0.5 and how != "soft":
        dropped["tie" if all(vote.share == 0.5 for vote in votes) else "contradictory: no majority"] += len(votes)
        return None
    chosen, rejected = (first, second) if share >= 0.5 else (second, first)
    if how == "soft":
        return chosen, rejected, {"probability": max(share, 1 - share)}
    if how == "majority":
        return chosen, rejected, {}
    unsure = {} if share in (0, 1) else {"probability": max(share, 1 - share)}
    return chosen, rejected, {"annotator": votes[0].annotator, **unsure}


def _margin(votes: Sequence[_Vote], for_first: bool, strength_margin: float) -> float:
    """Return the mean margin of the votes for one text, 0 without such votes."""
    margins = [
        strength_margin * (vote.strength - 1) if vote.margin is None else vote.margin
        for vote in votes
        if vote.share != 0.5 and (vote.share > 0.5) == for_first
    ]
    return sum(margins) / len(margins) if margins else 0.0


def _labels(item: Item, judgement: Judgement, scale: tuple[int, int], dropped: Counter[str]) -> list[tuple[str, bool]]:
    """Return (completion, whether it is good) for each completion about which a judgement is clear."""
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
    # A ranking's pairs are in its order: the first chosen text is the best and the last rejected the worst.
    return [(pairs[0].chosen, True), (pairs[-1].rejected, False)]


def _texts(item: Item, conversational: bool, turns: bool = False, **completions: str) -> Row:
    """Return the prompt and the named completions, as the strings that a model reads or as messages.

    With `turns`, those of several turns are several messages; otherwise what follows the first turn is in role lines.
    """
    prompt = kept_prompt(item.prompt, item.meta)
    if conversational:
        said = {name: kept_turns(text, item.completions, item.meta) for name, text in completions.items() if turns}
        spoken = {name: said.get(name, text) for name, text in completions.items()}
        messages = {name: as_answer(one) if isinstance(one, str) else one for name, one in spoken.items()}
        return {"prompt": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, **messages}
    texts = {name: as_text(prompt, text) for name, text in completions.items()}
    return {"prompt": next(head for head, _ in texts.values()), **{name: text for name, (_, text) in texts.items()}}


def _item_id(item: Item, wanted: bool) -> Row:
    return {"item_id": item.id} if wanted else {}
