"""Define what goes into the feedback store and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = [
    "EXPLAINED",
    "MODEL_MARK",
    "Adjudication",
    "Annotator",
    "Assignment",
    "AuditEntry",
    "Explained",
    "Item",
    "ItemExplanation",
    "Judgement",
    "LeaseLost",
    "NewItem",
    "NoSuchAnnotator",
    "OwnProgress",
    "Progress",
    "StoreError",
    "Suggestion",
]

EXPLAINED = ("withheld", "offered", "seen")  # see `Judgement.explained`
MODEL_MARK = "ai:"  # before the names of annotators that are models; no person may register one


class StoreError(RuntimeError):
    """Signal that the database cannot be used: it is locked, read-only, out of reach, or has another schema."""


class NoSuchAnnotator(ValueError):
    """Signal that nobody has this name, or that whoever had it has withdrawn."""


class LeaseLost(RuntimeError):
    """Signal that an assignment is no longer the annotator's: the lease went to another, or it was given back."""


@dataclass(frozen=True)
class NewItem:
    """Hold a question to put into the queue.

    Attributes:
        kind: a kind of feedback, a key of `KINDS`.
        prompt: what the completions continue.
        completions: the texts to judge. Their number must suit the kind.
        source: where the completions come from, such as a file or a run.
        policy: the policy that wrote them.
        meta: anything that JSON can hold. It comes back with the item.
        overlap: how many annotators judge the item.
        gold: the expected answer. It makes the item a gold question, which tests annotators and is not exported. Its
            key "answers" holds the expected answers to some of the project's own questions.
        priority: items with the highest priority are asked first.
        max_overlap: up to how many more are asked, one by one, while most of those asked disagree. None leaves that to
            the settings; the `overlap` itself stays it.
    """

    kind: str
    prompt: str
    completions: tuple[str, ...]
    source: str = ""
    policy: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    overlap: int = 1
    gold: dict[str, Any] | None = None
    priority: float = 0.0
    max_overlap: int | None = None


@dataclass(frozen=True)
class Item:
    """Hold a question in the queue: the fields of `NewItem`, its id, and when it was added (UTC)."""

    id: int
    kind: str
    prompt: str
    completions: tuple[str, ...]
    source: str
    policy: str
    meta: dict[str, Any]
    overlap: int
    gold: dict[str, Any] | None
    priority: float
    created: datetime
    max_overlap: int | None = None


@dataclass(frozen=True)
class Annotator:
    """Hold a person or a program that answers. `role` is "annotator" or "admin". Only `active` ones may sign in.

    `withdrawn` is when the person withdrew (UTC). Their labels are in no export.
    """

    id: int
    name: str
    role: str
    created: datetime
    active: bool = True
    withdrawn: datetime | None = None


@dataclass(frozen=True)
class Assignment:
    """Hold an item that is lent to an annotator until `expires` (UTC).

    `sides` is the order in which to show the completions. It is drawn at random: `completions[sides[0]]` comes first.
    """

    id: int
    item: Item
    annotator: Annotator
    sides: tuple[int, ...]
    expires: datetime


@dataclass(frozen=True)
class Judgement:
    """Hold an annotator's answer to an item.

    Attributes:
        value: the answer as `check_value` returns it. Indices in it count `item.completions`. None is a skip.
        seconds: how long the annotator took.
        sides: the order in which the completions were shown.
        key: the idempotency key with which the answer was submitted.
        answers: maps the names of the project's questions to the answers, see `rlhf_envs.feedback.answers`.
        version: which version of the settings was asked, a key of `FeedbackStore.versions`.
        explained: whether they could look at a reward model's view before they answered: "offered", "seen" or, by lot,
            "withheld"; "" where there was none.
    """

    id: int
    item_id: int
    annotator: str
    kind: str
    value: dict[str, Any] | None
    seconds: float
    comment: str
    sides: tuple[int, ...]
    key: str
    created: datetime
    answers: dict[str, Any] = field(default_factory=dict)
    version: int = 1
    explained: str = ""


@dataclass(frozen=True)
class Adjudication:
    """Hold the final answer to an item, given by somebody who saw the annotators' answers.

    Attributes:
        item_id: the item. It has one final answer at most.
        value: an answer of the item's kind, as `check_value` returns it.
        by: who gave it.
        comment: why.
        created: when it was given (UTC).
        answers: the final answers to the project's questions by their names, as a judgement has them.
        version: which version of the settings was asked, a key of `FeedbackStore.versions`.
    """

    item_id: int
    value: dict[str, Any]
    by: str
    comment: str
    created: datetime
    answers: dict[str, Any] = field(default_factory=dict)
    version: int = 1


@dataclass(frozen=True)
class AuditEntry:
    """Hold a change that somebody made to others' answers, to items or to accounts.

    Attributes:
        created: when (UTC).
        actor: who made the change.
        action: what was done, such as "fix" or "drop".
        item_id: the item that was changed, or whose judgement was.
        judgement_id: the judgement that was changed.
        annotator: whose judgement or account it is.
        before: what stood before.
        after: what stands now.
        reason: why, in the actor's words.
    """

    id: int
    created: datetime
    actor: str
    action: str
    item_id: int | None
    judgement_id: int | None
    annotator: str | None
    before: Any
    after: Any
    reason: str


@dataclass(frozen=True)
class Suggestion:
    """Hold the answer that a program suggests for an item.

    Attributes:
        source: the reward model or judge that suggests it.
        version: tells this state of the source from others.
        value: an answer, as of a judgement.
    """

    item_id: int
    source: str
    version: str
    value: dict[str, Any]
    created: datetime


Mark = tuple[int, int, float]  # start, end (characters), and by how much the piece has raised the score


@dataclass(frozen=True)
class Explained:
    """Hold which words a reward model's scores of an item's completions rest on.

    Attributes:
        scores: one per completion.
        marks: of each completion its marked pieces; None where annotators shall see nothing, to be compared with.
        value: the answer of the item's kind that the scores make; None where they make none.
    """

    scores: tuple[float, ...]
    marks: tuple[tuple[Mark, ...], ...] | None = None
    value: dict[str, Any] | None = None


@dataclass(frozen=True)
class ItemExplanation:
    """Hold an `Explained` as it is stored: of which item, by which reward model and method, and since when (UTC)."""

    item_id: int
    source: str
    version: str
    method: str
    scores: tuple[float, ...]
    marks: tuple[tuple[Mark, ...], ...] | None
    value: dict[str, Any] | None
    created: datetime


@dataclass(frozen=True)
class Progress:
    """Hold counts over the store.

    Attributes:
        items: all items.
        finished: items that need no more judgements.
        judgements: answers that stand. Skips and answers that were taken back do not count.
        skips: skips that stand.
        mine: the answers and skips of one annotator.
    """

    items: int
    finished: int
    judgements: int
    skips: int
    mine: int


@dataclass(frozen=True)
class OwnProgress:
    """Hold how far one annotator is.

    Attributes:
        done: their answers and skips that stand.
        left: the items that they may still be given.
        median_seconds: the median time of their last answers; None without any.
        per_hour: how many items they answer in an hour of looking at them; None without any.
        items: all items that the project asks.
        finished: those that need no judgement.
    """

    done: int
    left: int
    median_seconds: float | None
    per_hour: float | None
    items: int
    finished: int
