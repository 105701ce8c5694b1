"""Wait for the people who label in a round of a loop (`.loop`)."""

from __future__ import annotations

import math
import shlex
import time
from collections import Counter
from collections.abc import Sequence

from rlhf_envs.feedback import Item, Judgement

from .state import Loop

__all__ = ["wait_for_people"]


def wait_for_people(loop: Loop, number: int, items: Sequence[Item]) -> None:
    """Wait until people have given enough judgements or have nothing left to label. Say where to label."""
    config, store, ids = loop.config, loop.store, [item.id for item in items]
    wanted = math.ceil(config.enough * sum(item.overlap for item in items))
    seen, since = None, 0.0
    while True:
        judgements = store.judgements(item_ids=ids, include_skips=True)
        skips = sum(judgement.value is None for judgement in judgements)
        have = len(judgements) - skips
        if have >= wanted:
            return
        if seen is None:
            loop.say(
                f"round {number} waits for people: {wanted} judgements of {len(ids)} {_what(items)}. "
                "Label at the page of\n"
                f"  rlhf feedback serve --store {shlex.quote(store.url)}\nor here, in another terminal, with\n"
                f"  rlhf feedback label --store {shlex.quote(store.url)}\n"
                "To go on with half of them, stop the loop and resume it with --enough 0.5"
            )
        done = _done_with_all(items, judgements)
        status = f"round {number}: {have} of {wanted} judgements" + (f", {skips} skips" if skips else "")
        if (have, skips) != seen:
            seen, since = (have, skips), time.monotonic()
            waits = f"; nothing is left for {done}: it goes on in {config.patience:g} s unless somebody else labels"
            loop.say(status + (waits if done else ""))
        elif done and time.monotonic() - since >= config.patience:
            loop.say(f"{status}; nothing is left for {done}, and nobody else came: it goes on with these")
            return
        time.sleep(config.poll)


def _done_with_all(items: Sequence[Item], judgements: Sequence[Judgement]) -> str:
    """Return the names of all who labelled; "" if one of them can still label something that needs judgements."""
    given = Counter(judgement.item_id for judgement in judgements if judgement.value is not None)
    needy = {item.id for item in items if given[item.id] < item.overlap}
    seen: dict[str, set[int]] = {}
    for judgement in judgements:
        seen.setdefault(judgement.annotator, set()).add(judgement.item_id)
    return ", ".join(sorted(seen)) if all(needy <= theirs for theirs in seen.values()) else ""


def _what(items: Sequence[Item]) -> str:
    """Return what items are called: pairs, unless some ask about one completion."""
    return "pairs" if all(item.kind == "pairwise" for item in items) else "pairs and completions"
