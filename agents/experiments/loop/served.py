"""Read what people said of a served model (`rlhf serve --store`) as comparisons of completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from rlhf_envs import feedback
from rlhf_envs.datasets.messages import kept_prompt
from rlhf_envs.feedback import Item, Judgement

__all__ = ["check_compared", "check_serving_store", "compared", "read_served", "served_items"]

FIRST_ID = 10**15  # so that no item of another store has the id of one that is made here
MOST_BY_THUMBS = 20  # pairs of a prompt: many thumbs of one prompt make many pairs of few texts


def check_serving_store(url: str) -> None:
    """Raise a ValueError if a store is a file that does not exist: opening it would make an empty one."""
    path = url.removeprefix("sqlite:///")
    if "://" not in path and not Path(path).is_file():
        raise ValueError(f"from_serving={url!r}: there is no such store; rlhf serve --store writes it")


def read_served(url: str) -> tuple[list[Item], list[Judgement]]:
    """Return what people said in a store as pairs of completions and comparisons of them, see `compared`."""
    with feedback.FeedbackStore(url) as store:
        items = served_items(store)
        return compared(items, store.judgements(item_ids=[item.id for item in items]))


def check_compared(url: str) -> None:
    """Raise a ValueError if people compared too little in a store for a reward model."""
    _, judgements = read_served(url)
    n = len({judgement.item_id for judgement in judgements})
    if n < 2:
        raise ValueError(
            f"from_serving={url!r}: people compared {n} {'pair' if n == 1 else 'pairs'} in it, a reward model needs 2 "
            "at least, and with labels=0 nobody else is asked: give --labels, or wait for corrections, comparisons, or "
            "thumbs up and down to one prompt"
        )


def served_items(store: feedback.FeedbackStore) -> list[Item]:
    """Return the items of a store that no loop has put there, without gold questions."""
    return [item for item in store.items() if "loop" not in item.meta and item.gold is None]


def compared(items: Sequence[Item], judgements: Sequence[Judgement]) -> tuple[list[Item], list[Judgement]]:
    """Return pairs and comparisons with ids of their own.

    Comparisons of two completions stay what they are. A correction is preferred to the text that it corrects, and a
    text with thumbs up to one of the same prompt with thumbs down. A text that got both thumbs is left out of the last.
    """
    by_id = {item.id: item for item in items}
    pairs: dict[tuple[int, str, str], Item] = {}
    given: list[Judgement] = []
    for item, (better, worse), judgement in _comparisons(by_id, judgements):
        if better == worse:
            continue
        first, second = (better, worse) if judgement.kind != "pairwise" else item.completions
        place = (item.id if judgement.kind == "pairwise" else 0, first, second)
        pair = pairs.setdefault(
            place, replace(item, id=FIRST_ID + len(pairs), kind="pairwise", completions=(first, second), overlap=1)
        )
        value: dict[str, Any] = {"choice": 0, "strength": 1}
        if judgement.kind == "pairwise" and judgement.value is not None:
            value = judgement.value
        about: dict[str, Any] = {"item_id": pair.id, "kind": "pairwise", "value": value, "sides": (0, 1)}
        given.append(replace(judgement, id=FIRST_ID + len(given), **about))
    return [*pairs.values()], given


def _comparisons(
    items: dict[int, Item], judgements: Sequence[Judgement]
) -> Iterator[tuple[Item, tuple[str, str], Judgement]]:
    """Yield an item, the better and the worse text, and the judgement that says so."""
    thumbs: dict[str, dict[bool, dict[str, tuple[Item, Judgement]]]] = defaultdict(lambda: {True: {}, False: {}})
    for judgement in judgements:
        item, value = items[judgement.item_id], judgement.value
        if value is None:
            continue
        if judgement.kind == "correction":
            yield item, (value["text"], item.completions[0]), judgement
        elif judgement.kind == "pairwise":
            yield item, (item.completions[0], item.completions[1]), judgement
        elif judgement.kind == "thumbs":
            prompt = repr(kept_prompt(item.prompt, item.meta))
            thumbs[prompt][bool(value["up"])][item.completions[0]] = (item, judgement)
    for up in thumbs.values():
        good, bad = ({text: up[side][text] for text in up[side].keys() - up[not side].keys()} for side in (True, False))
        for better, worse in [*product(sorted(good), sorted(bad))][:MOST_BY_THUMBS]:
            yield good[better][0], (better, worse), good[better][1]
