"""Summarise a project for its admin: the throughput, the agreement, and the quality of each annotator's work."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from ..agreement import alpha_by_kind, peer_agreement
from ..kinds import matches_gold
from ..quality import AnnotatorCheck, check_annotators, describe_checks
from ..records import Item, Judgement
from ..store.store import FeedbackStore
from ..suggesting import SuggestionAgreement, compare_suggestions

__all__ = ["AnnotatorSummary", "Check", "Hour", "Summary", "gold_correct", "summarise"]


class Hour(BaseModel):
    """Count the judgements, skips too, of one hour, which begins at `start` (UTC)."""

    start: datetime
    judgements: int


class Check(BaseModel):
    """Hold what `rlhf_envs.feedback.quality` finds about how somebody's answers were made. Intervals are of 95%."""

    random_share: float | None  # of the answers, that seem to be given at random; null if nobody gave the same
    random_interval: tuple[float, float]
    left: int  # how often the first shown won
    sided: int  # of so many comparisons with a winner
    left_interval: tuple[float, float]
    left_p: float  # of the binomial test for one half, times the number of annotators
    at_random: bool
    by_side: bool

    @property
    def suspect(self) -> bool:
        return self.at_random or self.by_side


class AnnotatorSummary(BaseModel):
    """Describe one annotator's work. A metric is null if there is nothing to compute it from."""

    id: int
    name: str
    role: str
    active: bool
    judged: int
    skips: int
    median_seconds: float | None
    gold_right: int
    gold_asked: int
    agreement: float | None  # with others on the same items; 1 is the same answer every time
    agreement_n: int  # the number of comparisons behind it
    last: datetime | None
    check: Check | None = None  # null before the first answer


class Summary(BaseModel):
    """Show the whole project at a glance."""

    items: int
    finished: int
    judgements: int
    skips: int
    last_hour: int
    hours: list[Hour]  # the last 24, oldest first
    alpha: dict[str, float | None]  # Krippendorff's alpha per kind; null if it is undefined
    annotators: list[AnnotatorSummary]
    paused: bool
    suspicions: list[str] = []  # a sentence for each annotator whose answers look wrong, or one that says there is none
    suggestions: list[SuggestionAgreement] = []


def summarise(store: FeedbackStore, now: datetime | None = None) -> Summary:
    """Compute the metrics of the admin page from the store."""
    now = now or datetime.now(UTC)
    everything = store.judgements(include_skips=True)
    given = [judgement for judgement in everything if judgement.value is not None]
    gold = {item.id: item for item in store.items() if item.gold is not None}
    alpha = {kind: None if math.isnan(value) else value for kind, value in alpha_by_kind(given).items()}
    progress = store.progress()
    checks = check_annotators(given)
    return Summary(
        items=progress.items,
        finished=progress.finished,
        judgements=progress.judgements,
        skips=progress.skips,
        last_hour=sum(now - judgement.created <= timedelta(hours=1) for judgement in everything),
        hours=_by_hour(everything, now),
        alpha=alpha,
        annotators=_by_annotator(store, everything, gold, checks),
        paused=store.settings.paused,
        suspicions=describe_checks(checks),
        suggestions=compare_suggestions(store),
    )


def gold_correct(item: Item, judgement: Judgement) -> bool:
    """Return whether a judgement gives a gold question's expected answer. Strength does not count."""
    expected, value = item.gold, judgement.value
    if expected is None or value is None:
        raise ValueError(f"item {item.id} is no gold question, or judgement {judgement.id} is a skip")
    return matches_gold(item.kind, expected, value)


def _by_hour(judgements: list[Judgement], now: datetime) -> list[Hour]:
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    counts = Counter(judgement.created.replace(minute=0, second=0, microsecond=0) for judgement in judgements)
    starts = [this_hour - timedelta(hours=back) for back in reversed(range(24))]
    return [Hour(start=start, judgements=counts[start]) for start in starts]


def _by_annotator(
    store: FeedbackStore, judgements: list[Judgement], gold: dict[int, Item], checks: dict[str, AnnotatorCheck]
) -> list[AnnotatorSummary]:
    theirs: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        theirs[judgement.annotator].append(judgement)
    # Without gold questions: they have one right answer, so agreement on them says nothing about the rest.
    peers = peer_agreement(judgement for judgement in judgements if judgement.item_id not in gold)
    rows = []
    for annotator in store.annotators():
        own = theirs[annotator.name]
        answers = [judgement for judgement in own if judgement.value is not None]
        asked = [judgement for judgement in answers if judgement.item_id in gold]
        agreement, n = peers.get(annotator.name, (None, 0))
        rows.append(
            AnnotatorSummary(
                id=annotator.id,
                name=annotator.name,
                role=annotator.role,
                active=annotator.active,
                judged=len(answers),
                skips=len(own) - len(answers),
                median_seconds=statistics.median(judgement.seconds for judgement in answers) if answers else None,
                gold_right=sum(gold_correct(gold[judgement.item_id], judgement) for judgement in asked),
                gold_asked=len(asked),
                agreement=agreement,
                agreement_n=n,
                last=max((judgement.created for judgement in own), default=None),
                check=_check(checks.get(annotator.name)),
            )
        )
    return sorted(rows, key=lambda row: (-row.judged - row.skips, row.name))


def _check(found: AnnotatorCheck | None) -> Check | None:
    if found is None:
        return None
    share = None if math.isnan(found.random_share) else found.random_share
    return Check(
        **{name: getattr(found, name) for name in Check.model_fields if name != "random_share"}, random_share=share
    )
