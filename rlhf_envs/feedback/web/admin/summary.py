"""Summarise a project for its admin: the throughput, the agreement, and the quality of each annotator's work."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from ...agreement import (
    LEVELS,
    CrowdFigures,
    alpha_interval,
    alpha_of,
    krippendorff_alpha,
    peer_agreement,
    votes_by_kind,
)
from ...answers import matches
from ...criteria import all_criteria, find_criterion
from ...explaining import ExplanationAgreement, ExplanationSway, compare_explanations
from ...kinds import matches_gold
from ...quality import AnnotatorCheck, check_annotators, describe_checks
from ...records import Item, Judgement
from ...settings import Cost
from ...store.store import FeedbackStore
from ...suggesting import SuggestionAgreement, compare_suggestions

__all__ = ["AnnotatorSummary", "Check", "Hour", "QuestionSummary", "Summary", "gold_correct", "summarise"]


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
    ability: float | None = None  # the probability of a right answer, by Dawid-Skene
    ability_n: int = 0  # the number of answers behind it
    hours: float = 0.0  # at the page, skips included
    last: datetime | None
    check: Check | None = None  # null before the first answer


class QuestionSummary(BaseModel):
    """Describe the answers to one of the project's own questions, in one meaning."""

    name: str
    type: str
    versions: list[int]  # of the settings, whose answers count here
    answers: int
    left_out: int  # answers under other versions, in which the question meant something else
    alpha: float | None  # Krippendorff's alpha; null if it is undefined


class CostSummary(BaseModel):
    """Count the time that people have spent, and what it costs by the setting `cost`; null if that is not set."""

    hours: float
    money: float | None
    currency: str
    labels_left: int  # judgements that the open items still need
    hours_left: float | None  # at the mean time so far; null without a judgement
    money_left: float | None

    def of_labels(self, labels: float, given: int, price: Cost) -> tuple[float, float | None]:
        """Return (hours, money) of so many labels at the mean time of the `given` ones. No money if no price is set."""
        hours = labels * self.hours / max(1, given)
        is_set = price.per_label > 0 or price.per_hour > 0
        return hours, labels * price.per_label + hours * price.per_hour if is_set else None


class Summary(BaseModel):
    """Show the whole project at a glance."""

    items: int
    finished: int
    judgements: int
    skips: int
    last_hour: int
    hours: list[Hour]  # the last 24, oldest first
    alpha: dict[str, float | None]  # Krippendorff's alpha per kind; null if it is undefined
    alpha_interval: dict[str, list[float] | None]  # its 95% bootstrap interval over items; null if there are too few
    cost: CostSummary
    as_of: datetime
    annotators: list[AnnotatorSummary]
    paused: bool
    suspicions: list[str] = []  # a sentence for each annotator whose answers look wrong, or one that says there is none
    suggestions: list[SuggestionAgreement] = []
    explanations: list[ExplanationAgreement] = []
    sways: list[ExplanationSway] = []
    questions: list[QuestionSummary] = []


def summarise(
    store: FeedbackStore, now: datetime | None = None, *, version: int | None = None, crowd: CrowdFigures | None = None
) -> Summary:
    """Compute the metrics of the admin page from the store.

    Args:
        store: the store.
        now: the time; by default the present.
        crowd: the annotators' ability, if it has been estimated.
        version: count the answers to the project's questions as this version asked them; by default the newest.

    Raises:
        ValueError: there is no such version.
    """
    now = now or datetime.now(UTC)
    everything = store.judgements(include_skips=True)
    given = [judgement for judgement in everything if judgement.value is not None]
    gold = {item.id: item for item in store.items() if item.gold is not None}
    votes = votes_by_kind(given)
    alpha = {kind: _or_none(krippendorff_alpha(own, LEVELS[kind])) for kind, own in votes.items()}
    intervals = {kind: alpha_interval(own, LEVELS[kind]) for kind, own in votes.items()}
    progress = store.progress()
    checks = check_annotators(given)
    explained, sways = compare_explanations(store)
    return Summary(
        items=progress.items,
        finished=progress.finished,
        judgements=progress.judgements,
        skips=progress.skips,
        last_hour=sum(now - judgement.created <= timedelta(hours=1) for judgement in everything),
        hours=_by_hour(everything, now),
        alpha=alpha,
        alpha_interval={kind: None if math.isnan(low) else [low, high] for kind, (low, high) in intervals.items()},
        cost=_cost(store, everything),
        as_of=now,
        annotators=_by_annotator(store, everything, gold, crowd, checks),
        paused=store.settings.paused,
        questions=_by_question(store, given, version),
        suspicions=describe_checks(checks),
        suggestions=compare_suggestions(store),
        explanations=explained,
        sways=sways,
    )


def gold_correct(item: Item, judgement: Judgement) -> bool:
    """Return whether a judgement gives a gold question's expected answer. Strength does not count.

    So must its answers to the project's own questions, as far as they are there and expected.
    """
    expected, value = item.gold, judgement.value
    if expected is None or value is None:
        raise ValueError(f"item {item.id} is no gold question, or judgement {judgement.id} is a skip")
    given = judgement.answers
    own = {name: answer for name, answer in expected.get("answers", {}).items() if name in given}
    return matches_gold(item.kind, expected, value) and matches(own, given)


def _by_question(store: FeedbackStore, given: list[Judgement], version: int | None) -> list[QuestionSummary]:
    versions = store.versions()
    if version is not None and version not in versions:
        raise ValueError(f"there is no version {version} of what is asked; there are {', '.join(map(str, versions))}")
    found = all_criteria(versions)
    if version is not None:
        found = {q.name: find_criterion(versions, q.name, version) for q in versions[version].questions}
    summaries = []
    for name, criterion in found.items():
        answered = [judgement for judgement in given if name in judgement.answers]
        counted = [judgement for judgement in answered if judgement.version in criterion.versions]
        alpha = alpha_of(criterion, counted)
        summaries.append(
            QuestionSummary(
                name=name,
                type=criterion.question.type,
                versions=sorted(criterion.versions),
                answers=len(counted),
                left_out=len(answered) - len(counted),
                alpha=None if math.isnan(alpha) else alpha,
            )
        )
    return summaries


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cost(store: FeedbackStore, judgements: list[Judgement]) -> CostSummary:
    """Return what was spent, and what the open items will take at the mean time so far."""
    price = store.settings.cost
    hours = sum(judgement.seconds for judgement in judgements) / 3600
    labels = sum(judgement.value is not None for judgement in judgements)
    left = store.labels_left()
    hours_left = left * hours / labels if labels else None
    is_set = price.per_label > 0 or price.per_hour > 0

    def money(labels: int, hours: float | None) -> float | None:
        return labels * price.per_label + hours * price.per_hour if is_set and hours is not None else None

    return CostSummary(
        hours=hours,
        money=money(labels, hours),
        currency=price.currency,
        labels_left=left,
        hours_left=hours_left,
        money_left=money(left, hours_left if price.per_hour > 0 else 0.0),
    )


def _by_hour(judgements: list[Judgement], now: datetime) -> list[Hour]:
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    counts = Counter(judgement.created.replace(minute=0, second=0, microsecond=0) for judgement in judgements)
    starts = [this_hour - timedelta(hours=back) for back in reversed(range(24))]
    return [Hour(start=start, judgements=counts[start]) for start in starts]


def _by_annotator(
    store: FeedbackStore,
    judgements: list[Judgement],
    gold: dict[int, Item],
    crowd: CrowdFigures | None,
    checks: dict[str, AnnotatorCheck],
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
        ability, ability_n = (crowd.ability if crowd else {}).get(annotator.name, (None, 0))
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
                ability=ability,
                ability_n=ability_n,
                hours=sum(judgement.seconds for judgement in own) / 3600,
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
