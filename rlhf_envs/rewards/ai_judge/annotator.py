"""Let a judge answer the items of a feedback store, as an annotator whose name marks a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rlhf_envs.datasets.messages import kept_prompt, shown
from rlhf_envs.feedback.annotating import Response, join, work
from rlhf_envs.feedback.questions import asked_about
from rlhf_envs.feedback.records import Assignment, Item
from rlhf_envs.feedback.settings import Settings

from .backends import JudgeError
from .judge import AIJudge
from .own_questions import answer_own
from .prompts import LETTERS

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore

__all__ = ["ANSWERED", "COMPARED", "Answer", "JudgeAnnotator", "JudgeWork", "annotate", "judge_items"]

ANSWERED = ("pairwise", "rating", "thumbs", "ranking", "flags")  # kinds whose answers can be compared with people's
COMPARED = (*ANSWERED, "questions")  # by the answers to the project's own questions
KINDS = (*COMPARED, "correction")  # a correction is a text of the judge's own
PER_CALL = 4  # items per request that may be under way, asked together
LONGEST_COMMENT = 2000  # characters


@dataclass(frozen=True)
class Answer:
    """Hold a judge's answer to an item.

    Attributes:
        value: as of a judgement; None without a verdict.
        comment: the judge's words.
        verdicts: of a pair, see `Comparison`.
        is_consistent: of a pair and a ranking, whether it is the same in both orders; else None.
        answers: to the project's own questions, as of a judgement.
        unanswered: names of the project's questions without a verdict.
    """

    value: dict[str, Any] | None
    comment: str
    verdicts: tuple[str | None, ...] = ()
    is_consistent: bool | None = None
    answers: dict[str, Any] = field(default_factory=dict)
    unanswered: tuple[str, ...] = ()


@dataclass
class JudgeWork:
    """Hold what a judge did in a store.

    Attributes:
        answered: answers that were stored.
        failed: items without a verdict, stored as skips.
        left_out: answers to optional questions of the project without a verdict. The item counts as answered.
        others: items that a judge cannot answer, stored as skips: of more than 26 texts, and of the kind "questions"
            where nothing is asked any more.
        stopped: why the judge stopped before the end; empty if it did not.
    """

    answered: int = 0
    failed: int = 0
    left_out: int = 0
    others: int = 0
    stopped: str = field(default="")


def judge_items(judge: AIJudge, items: Sequence[Item], settings: Settings) -> dict[int, Answer]:
    """Return by item id what a judge answers, the project's own questions among it.

    A correction is the judge's own revision, after a critique, which is the comment. A thumb is up for a rating in the
    upper half of the judge's own scale. Without a verdict on a required question the item has no value. What a judge
    cannot answer is left out, see `JudgeWork.others`.

    Args:
        judge: who answers.
        items: what is asked.
        settings: the store's, with the scale, the harms and the project's questions.

    Raises:
        JudgeError: see `AIJudge.compare`.
    """
    items = [item for item in items if can_answer(item, settings)]
    by_kind = {kind: [item for item in items if item.kind == kind] for kind in KINDS}
    found: dict[int, Answer] = {item.id: Answer({}, "") for item in by_kind["questions"]}
    for kind, answer in _ANSWERS.items():
        if by_kind[kind]:
            found.update(answer(judge, by_kind[kind], settings))
    asked = [item for item in items if settings.questions and found[item.id].value is not None]
    own = answer_own(judge, asked, _prompts(asked), settings.questions)
    for item_id, said in own.items():
        first = found[item_id]
        found[item_id] = replace(
            first,
            value=None if said.missing else first.value,
            comment=_cut("\n\n".join(filter(None, [first.comment, *said.words]))),
            answers={} if said.missing else said.answers,
            unanswered=(*said.missing, *said.left_out),
        )
    return found


def can_answer(item: Item, settings: Settings) -> bool:
    """Return whether a judge can answer an item."""
    n = len(item.completions)
    return n <= len(LETTERS) and (item.kind != "questions" or bool(asked_about(settings.questions, item.kind, n)))


def _pairs(judge: AIJudge, items: Sequence[Item], settings: Settings) -> dict[int, Answer]:
    first, second = ([item.completions[i] for item in items] for i in range(2))
    found = {}
    for item, one in zip(items, judge.compare(_prompts(items), first, second), strict=True):
        value = None if one.failed else {"choice": one.choice, "strength": 0 if one.choice is None else 1}
        consistent = None if one.failed else one.is_consistent
        words = _both(("as it is", "swapped"), one.reasons)
        found[item.id] = Answer(value, words, one.verdicts, consistent)
    return found


def _ratings(judge: AIJudge, items: Sequence[Item], settings: Settings) -> dict[int, Answer]:
    found = judge.rate(_prompts(items), _firsts(items), settings.scale)
    return {
        item.id: Answer(None if one.rating is None else {"rating": one.rating}, _cut(one.reason))
        for item, one in zip(items, found, strict=True)
    }


def _thumbs(judge: AIJudge, items: Sequence[Item], settings: Settings) -> dict[int, Answer]:
    middle = sum(judge.settings.scale) / 2
    return {
        item.id: Answer(None if one.rating is None else {"up": one.rating > middle}, _cut(one.reason))
        for item, one in zip(items, judge.rate(_prompts(items), _firsts(items)), strict=True)
    }


def _rankings(judge: AIJudge, items: Sequence[Item], settings: Settings) -> dict[int, Answer]:
    found = {}
    for item, one in zip(items, judge.rank(_prompts(items), [item.completions for item in items]), strict=True):
        words = _both(("in one order", "in its reverse"), one.reasons)
        value = None if one.order is None else {"order": list(one.order)}
        found[item.id] = Answer(value, words, is_consistent=None if value is None else one.is_consistent)
    return found


def _flags(judge: AIJudge, items: Sequence[Item], settings: Settings) -> dict[int, Answer]:
    found = judge.flag(_prompts(items), _firsts(items), settings.harms)
    return {
        item.id: Answer(
            None if one.harms is None else {"harms": [settings.harms[place] for place in one.harms]}, _cut(one.reason)
        )
        for item, one in zip(items, found, strict=True)
    }


def _corrections(judge: AIJudge, items: Sequence[Item], settings: Settings) -> dict[int, Answer]:
    found = judge.revise(_prompts(items), _firsts(items))
    return {
        item.id: Answer(None if one.text is None else {"text": one.text}, _cut(one.critique))
        for item, one in zip(items, found, strict=True)
    }


_ANSWERS = {
    "pairwise": _pairs,
    "rating": _ratings,
    "thumbs": _thumbs,
    "ranking": _rankings,
    "flags": _flags,
    "correction": _corrections,
}


class JudgeAnnotator:
    """Answer assignments, and ask the judge about the next items of the queue in the same call.

    Args:
        judge: who answers.
        queue: the items that may come, in their order.
        settings: the store's.
    """

    def __init__(self, judge: AIJudge, queue: Sequence[Item], settings: Settings) -> None:
        self._judge, self._queue, self._settings = judge, list(queue), settings
        self._ready: dict[int, Answer] = {}
        self.work = JudgeWork()

    def __call__(self, assignment: Assignment) -> Response:
        """Answer an assignment; without a verdict it is skipped, and the comment says why.

        Raises:
            JudgeError: see `AIJudge.compare`.
        """
        item = assignment.item
        if not can_answer(item, self._settings):
            self.work.others += 1
            return Response(None, comment=f"a judge reads at most {len(LETTERS)} texts, and needs a question")
        if item.id not in self._ready:
            self._ask(item)
        answer = self._ready.pop(item.id)
        if answer.value is None:
            self.work.failed += 1
            return Response(None, comment=f"no verdict: {answer.comment}"[:LONGEST_COMMENT])
        self.work.answered += 1
        self.work.left_out += len(answer.unanswered)
        return Response(answer.value, comment=answer.comment, answers=answer.answers)

    def _ask(self, item: Item) -> None:
        waiting = [other for other in self._queue if can_answer(other, self._settings) and other.id != item.id]
        together = [item, *waiting[: PER_CALL * self._judge.settings.concurrency - 1]]
        asked = {one.id for one in together}
        self._queue = [other for other in self._queue if other.id not in asked]
        try:
            self._ready.update(judge_items(self._judge, together, self._settings))
        except JudgeError:  # a limit may have been reached after this item's answers
            self._ready.update(judge_items(self._judge, [item], self._settings))


def annotate(judge: AIJudge, store: FeedbackStore, *, finished: bool = False, limit: int | None = None) -> JudgeWork:
    """Let a judge answer the open items of a store that it has not answered; again, it answers the new ones alone.

    Args:
        judge: who answers, under the name `AIJudge.annotator`.
        store: holds the items.
        finished: also ask about items that have all their judgements; the overlap of those that it answers grows by
            one.
        limit: the most answers, skips among them.

    Returns:
        What was done, also where the judge stopped: then what it said so far is stored.
    """
    name = judge.annotator
    join(store, name)
    done = {one.item_id for one in store.judgements(include_skips=True) if one.annotator == name}
    reopened = _reopen(store, done, name, limit) if finished else {}
    queue = [item for item in store.queue() if item.id not in done]
    annotator = JudgeAnnotator(judge, queue[:limit], store.settings)
    try:
        work(store, name, annotator, limit)
    except JudgeError as error:
        annotator.work.stopped = str(error)
    finally:
        _close(store, reopened, name)
    return annotator.work


def _reopen(store: FeedbackStore, done: set[int], name: str, limit: int | None) -> dict[int, list[int]]:
    """Raise the overlap of finished items that the judge has not answered, by one: so many as open ones leave room.

    Returns:
        The ids of these items, by the overlap that they had.
    """
    open_items = {item.id for item in store.queue()}
    waiting = open_items | done | set(store.withdrawn_items())
    room = None if limit is None else max(limit - len(open_items - done), 0)
    closed = [
        item
        for item in store.items()
        if item.id not in waiting and item.kind in (*ANSWERED, "questions") and item.gold is None
    ]
    by_overlap: dict[int, list[int]] = {}
    for item in closed[:room]:
        by_overlap.setdefault(item.overlap, []).append(item.id)
    for overlap, ids in by_overlap.items():
        store.set_overlap(ids, overlap + 1, by=name, reason="asked of a judge, too")
    return by_overlap


def _close(store: FeedbackStore, reopened: Mapping[int, Sequence[int]], name: str) -> None:
    """Give items that a judge has not answered the overlap that they had, so that no person is asked instead of it."""
    if not reopened:
        return
    done = {one.item_id for one in store.judgements(include_skips=True) if one.annotator == name}
    for overlap, ids in reopened.items():
        if left := [item_id for item_id in ids if item_id not in done]:
            store.set_overlap(left, overlap, by=name, reason="the judge did not answer")


def _prompts(items: Sequence[Item]) -> list[str]:
    """Return the prompts as people read them."""
    return [shown(kept_prompt(item.prompt, item.meta)) for item in items]


def _firsts(items: Sequence[Item]) -> list[str]:
    """Return the texts of items with one completion."""
    return [item.completions[0] for item in items]


def _both(orders: tuple[str, str], reasons: tuple[str, str]) -> str:
    """Return what a judge said in two orders."""
    return _cut("\n\n".join(f"{order}: {text}" for order, text in zip(orders, reasons, strict=True)))


def _cut(text: str) -> str:
    """Return a judge's words for a comment; the cache has them whole."""
    return text if len(text) <= LONGEST_COMMENT else f"{text[: LONGEST_COMMENT - 2]} …"
