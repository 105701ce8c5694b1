"""Tell before a judge is trusted: how far it agrees with people, and with itself where the order is swapped."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rlhf_envs.feedback.agreement import (
    LEVELS,
    Level,
    alpha_interval,
    criterion_votes,
    krippendorff_alpha,
    votes_by_kind,
)
from rlhf_envs.feedback.criteria import all_criteria
from rlhf_envs.feedback.records import MODEL_MARK, Item, Judgement
from rlhf_envs.feedback.settings import Settings

from .annotator import ANSWERED, COMPARED, Answer, can_answer, judge_items
from .judge import AIJudge

__all__ = ["JudgeCheck", "check_judge", "judges_alpha"]

JUDGE, PEOPLE = "the judge", "people"
Vote = tuple[Any, str, float]


class JudgeCheck(NamedTuple):
    """Hold how far a judge can be trusted on items of one kind, or on a question of the project.

    Attributes:
        kind: the kind of the items, or the question as "question NAME".
        items: those that people and the judge have answered.
        agreement: the share of the judge's answers that are people's majority (for ratings their median, within a
            quarter of the scale), among items where people have one.
        alpha: Krippendorff's alpha of the judge with people's majority.
        low, high: its 95% interval over items; NaN for fewer than 10.
        people_alpha: Krippendorff's alpha of people among each other; NaN where nobody shares items.
        consistent: the share of pairs and rankings that the judge decides alike in both orders; NaN for other kinds.
        first: the share of its verdicts for the text shown first, ties left out: 0.5 without a liking for a place.
        failed: items without a verdict.
    """

    kind: str
    items: int
    agreement: float
    alpha: float
    low: float
    high: float
    people_alpha: float
    consistent: float
    first: float
    failed: int


def check_judge(
    judge: AIJudge, items: Sequence[Item], judgements: Sequence[Judgement], versions: Mapping[int, Settings]
) -> tuple[list[JudgeCheck], dict[int, Answer]]:
    """Ask a judge what people have answered already, and compare. Nothing is stored but in the judge's cache.

    Args:
        judge: who is checked.
        items: the items.
        judgements: what was said of them; answers of models are left out.
        versions: the store's settings by version, see `FeedbackStore.versions`; the judge is asked as at present.

    Returns:
        A check per kind and per question of the project, and the judge's answers by item id.

    Raises:
        ValueError: people have answered nothing that a judge answers.
        JudgeError: see `AIJudge.compare`.
    """
    now = max(versions)
    settings = versions[now]
    people = [one for one in judgements if not one.annotator.startswith(MODEL_MARK) and one.value is not None]
    asked = {one.item_id for one in people}
    known = [item for item in items if item.id in asked and item.kind in COMPARED and can_answer(item, settings)]
    if not known:
        raise ValueError(f"people have answered no {', '.join(COMPARED)}: a judge is checked against their answers")
    answers = judge_items(judge, known, settings)
    of_people = [one for one in people if one.item_id in answers]
    said = [_judgement(item.id, item.kind, JUDGE, answers[item.id], now) for item in known]
    found = []
    for kind in ANSWERED:
        own = {item.id: answers[item.id] for item in known if item.kind == kind}
        if own:
            # together: a harm that one side alone flags is a vote of the other side against it
            votes = votes_by_kind([*of_people, *said]).get(kind, [])
            failed = sum(one.value is None for one in own.values())
            near = _near(settings.scale) if kind == "rating" else 0.0
            found.append(_check(kind, own, len(own) - failed, failed, votes, LEVELS[kind], near))
    criteria = all_criteria(versions)
    for question in settings.questions:
        votes, level = criterion_votes(criteria[question.name], [*of_people, *said])
        if {who == JUDGE for _, who, _ in votes} == {True, False}:
            n = sum(question.name in one.answers for one in answers.values())
            failed = sum(question.name in one.unanswered for one in answers.values())
            near = _near(question.scale) if question.type == "rating" else 0.0
            found.append(_check(f"question {question.name}", {}, n, failed, votes, level, near))
    return found, answers


def judges_alpha(answers: dict[str, dict[int, Answer]], items: Sequence[Item]) -> dict[str, float]:
    """Return Krippendorff's alpha of several judges among each other, by kind.

    Args:
        answers: each judge's answers by item id, by the judges' names.
        items: the items.
    """
    kinds = {item.id: item.kind for item in items}
    said = [_judgement(i, kinds[i], name, one) for name, own in answers.items() for i, one in own.items()]
    votes = votes_by_kind([one for one in said if one.value is not None])
    return {kind: krippendorff_alpha(found, LEVELS[kind]) for kind, found in votes.items()}


def _check(
    what: str, answers: dict[int, Answer], n: int, failed: int, votes: list[Vote], level: Level, near: float
) -> JudgeCheck:
    """Compare a judge's votes with people's; answers count as equal up to `near`."""
    of_people = [vote for vote in votes if vote[1] != JUDGE]
    majority = _majority(of_people, takes_median=level == "interval")
    theirs = {unit: value for unit, _, value in majority}
    of_judge = [vote for vote in votes if vote[1] == JUDGE and vote[0] in theirs]
    same = [abs(theirs[unit] - value) <= near for unit, _, value in of_judge]
    shown = Counter(verdict for one in answers.values() for verdict in one.verdicts if None not in one.verdicts)
    decided = shown["A"] + shown["B"]
    consistent = [one.is_consistent for one in answers.values() if one.is_consistent is not None]
    both = majority + of_judge
    low, high = alpha_interval(both, level)
    return JudgeCheck(
        what,
        n,
        sum(same) / len(same) if same else math.nan,
        krippendorff_alpha(both, level),
        low,
        high,
        krippendorff_alpha(of_people, level),
        sum(consistent) / len(consistent) if consistent else math.nan,
        shown["A"] / decided if decided else math.nan,
        failed,
    )


def _near(scale: tuple[int, int]) -> float:
    return (scale[1] - scale[0]) / 4


def _majority(votes: Sequence[Vote], *, takes_median: bool) -> list[Vote]:
    """Return people's votes as one per unit: the most frequent one, or their median; none where two are equal."""
    units: dict[Any, dict[str, float]] = defaultdict(dict)
    for unit, annotator, value in votes:
        units[unit][annotator] = value
    found: list[Vote] = []
    for unit, given in units.items():
        values = sorted(given.values())
        if takes_median:
            middle = len(values) // 2
            found.append((unit, PEOPLE, (values[middle] + values[~middle]) / 2))
            continue
        (value, n), *others = Counter(values).most_common(2)
        if not others or others[0][1] < n:
            found.append((unit, PEOPLE, value))
    return found


def _judgement(item_id: int, kind: str, name: str, answer: Answer, version: int = 1) -> Judgement:
    at = datetime.now(UTC)
    return Judgement(0, item_id, name, kind, answer.value, 0.0, "", (), "", at, answer.answers, version)
