"""Count how far people agree with a reward model where they could look at what its scores rest on, and where not."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from .deciding import CAN_ADAPT, same_answer
from .records import MODEL_MARK, ItemExplanation, Judgement

if TYPE_CHECKING:
    from .store.store import FeedbackStore

__all__ = ["ExplanationAgreement", "ExplanationSway", "compare_explanations", "is_drawn"]

Group = Literal["none", "withheld", "offered", "seen"]
GROUPS: tuple[Group, ...] = ("none", "withheld", "offered", "seen")


class ExplanationAgreement(BaseModel):
    """Count people's answers that say the same as a reward model's scores, by what they could look at before.

    `group` is "seen" (they looked at the explanation), "offered" (they could have), "withheld" (by lot) or "none".
    Ratings agree within a quarter of the scale. The interval (95%, Wilson) takes answers for independent.
    """

    source: str
    version: str
    kind: str
    group: Group
    agreed: int
    n: int
    share: float
    low: float
    high: float


class ExplanationSway(BaseModel):
    """Tell by how much more people agree with a reward model where an explanation was offered, seen or not.

    It is compared with the items where it was withheld by lot, so the difference is what the offer does. Who opens an
    explanation is no draw: "seen" alone also tells who they are. The interval (95%) is Newcombe's (1998, method 10).
    """

    source: str
    version: str
    kind: str
    difference: float
    low: float
    high: float


def is_drawn(item_id: int, share: float, seed: int = 0) -> bool:
    """Return whether an item is among a share of all that is drawn at random: the same answer for the same seed."""
    digest = hashlib.sha256(f"{seed}:{item_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def compare_explanations(store: FeedbackStore) -> tuple[list[ExplanationAgreement], list[ExplanationSway]]:
    """Return how far people agree with the explanations of items, by model, kind and group, and the sway.

    An answer is compared with the explanation that was shown or withheld then, and without one with the newest, in the
    group "none". The answers of models do not count.
    """
    explained: dict[int, list[ItemExplanation]] = defaultdict(list)  # by item, the newest last
    for said in store.explanations(with_marks=False):
        if said.value is not None:
            explained[said.item_id].append(said)
    if not explained:
        return [], []
    scale = store.settings.scale
    counts: dict[tuple[str, str, str], dict[Group, list[bool]]] = defaultdict(lambda: {group: [] for group in GROUPS})
    for judgement in store.judgements():
        one = _compared(explained.get(judgement.item_id, []), judgement)
        if one is None or one.value is None or judgement.value is None or judgement.kind not in CAN_ADAPT:
            continue
        if judgement.annotator.startswith(MODEL_MARK):
            continue
        group: Group = next((group for group in GROUPS if group == judgement.explained), "none")
        same = same_answer(judgement.kind, one.value, judgement.value, scale)
        counts[one.source, one.version, judgement.kind][group].append(same)
    agreements, sways = [], []
    for (source, version, kind), groups in sorted(counts.items()):
        whose: dict[str, Any] = {"source": source, "version": version, "kind": kind}
        agreements += [
            ExplanationAgreement(**whose, group=group, **_share(same)) for group, same in groups.items() if same
        ]
        offered, withheld = [*groups["offered"], *groups["seen"]], groups["withheld"]
        if offered and withheld:
            sways.append(ExplanationSway(**whose, **_difference(offered, withheld)))
    return agreements, sways


def _compared(those: Sequence[ItemExplanation], judgement: Judgement) -> ItemExplanation | None:
    """Return which of an item's explanations a judgement is compared with."""
    if judgement.explained:  # an import keeps the time of a judgement, and its explanations are computed anew
        those = [one for one in those if one.created <= judgement.created] or those[:1]
    return those[-1] if those else None


def _share(same: Sequence[bool]) -> dict[str, Any]:
    from scipy.stats import binomtest

    interval = binomtest(sum(same), len(same)).proportion_ci(method="wilson")
    counts = {"agreed": sum(same), "n": len(same), "share": sum(same) / len(same)}
    return {**counts, "low": float(interval.low), "high": float(interval.high)}


def _difference(one: Sequence[bool], other: Sequence[bool]) -> dict[str, Any]:
    a, b = _share(one), _share(other)
    difference = a["share"] - b["share"]
    return {
        "difference": difference,
        "low": difference - sqrt((a["share"] - a["low"]) ** 2 + (b["high"] - b["share"]) ** 2),
        "high": difference + sqrt((a["high"] - a["share"]) ** 2 + (b["share"] - b["low"]) ** 2),
    }
