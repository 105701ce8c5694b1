"""Read the answers to one of a project's questions (a criterion) as comparisons or ratings of completions.

| question | comparisons | ratings |
|---|---|---|
| choice | as they are | - |
| rating with `each` | of each two completions: the higher rating is better, equal ones are a tie | of each completion |
| rating of an item with one completion | - | as they are |
| labels, one of exactly two, about one completion | - | thumbs: the first label is up; as numbers 1 and 0 |

Other questions do not say that one completion is better. Answers given under another version of a question, whose
meaning differed, are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from ..names import nearest
from .questions import Question, same_meaning
from .records import Item, Judgement
from .settings import Settings

if TYPE_CHECKING:
    from .store.store import FeedbackStore

__all__ = ["Criterion", "Derived", "Form", "all_criteria", "derive", "find_criterion", "form_for", "read_criterion"]

Form = Literal["pairs", "ratings", "thumbs"]


@dataclass(frozen=True)
class Criterion:
    """Hold a question of the project in one meaning.

    Attributes:
        question: the question, in the words of the newest version with this meaning.
        versions: the versions of the settings whose answers have this meaning.
    """

    question: Question
    versions: frozenset[int]


@dataclass(frozen=True)
class Derived:
    """Hold items and judgements of a kind of feedback, made from the answers to a criterion, and what was left out."""

    items: list[Item]
    judgements: list[Judgement]
    dropped: dict[str, int] = field(default_factory=dict)


def all_criteria(versions: Mapping[int, Settings]) -> dict[str, Criterion]:
    """Return each question that was ever asked by its name, in its newest meaning."""
    names = dict.fromkeys(question.name for asked in [*versions.values()][::-1] for question in asked.questions)
    return {name: find_criterion(versions, name) for name in names}


def find_criterion(versions: Mapping[int, Settings], name: str, version: int | None = None) -> Criterion:
    """Return a criterion: in its newest meaning, or as it was asked in a version.

    Args:
        versions: see `FeedbackStore.versions`.
        name: the name of the question.
        version: a number of a version.

    Raises:
        ValueError: there is no such question, or no such version. The message has those that exist.
    """
    asked = {number: {q.name: q for q in settings.questions} for number, settings in versions.items()}
    known = {number: questions[name] for number, questions in asked.items() if name in questions}
    if not known:
        every = {question for questions in asked.values() for question in questions}
        hint = nearest(name, every) if every else "the project asks none: rlhf feedback settings study.toml"
        raise ValueError(f"no criterion {name!r}; {hint}")
    if version is not None and version not in known:
        raise ValueError(f"version {version} does not ask {name!r}; these do: {', '.join(map(str, known))}")
    question = known[max(known) if version is None else version]
    return Criterion(question, frozenset(number for number, other in known.items() if same_meaning(other, question)))


def form_for(criterion: Criterion, format: str) -> Form:
    """Return the form of a criterion's answers that an export format takes.

    Raises:
        ValueError: the format is none of "preference", "ratings" and "kto".
    """
    forms: dict[str, Form] = {"preference": "pairs", "ratings": "ratings"}
    if format == "kto":
        by_type: dict[str, Form] = {"choice": "pairs", "labels": "thumbs"}
        return by_type.get(criterion.question.type, "ratings")
    if format not in forms:
        raise ValueError(f"format={format!r} takes no criterion: choose preference, ratings or kto; items has them all")
    return forms[format]


def read_criterion(
    store: FeedbackStore,
    name: str,
    form: Form,
    version: int | None = None,
    judgements: Iterable[Judgement] | None = None,
) -> Derived:
    """Return the answers of a store to a criterion as comparisons, ratings or thumbs.

    Args:
        store: has the items and the judgements.
        name: the name of the question.
        form: what is wanted, see `derive`.
        version: see `find_criterion`.
        judgements: takes these of the store's judgements. By default all that stand.

    Raises:
        ValueError: there is no such criterion, or its answers have no such form.
    """
    criterion = find_criterion(store.versions(), name, version)
    return derive(store.items(), store.judgements() if judgements is None else judgements, criterion, form)


def derive(items: Sequence[Item], judgements: Iterable[Judgement], criterion: Criterion, form: Form) -> Derived:
    """Return the answers to a criterion as items and judgements: "pairs" (kind "pairwise"), "ratings" or "thumbs".

    An item that becomes one item keeps its id. One that becomes several, since it has more completions than the kind
    takes, becomes items with ids above all others.

    Raises:
        ValueError: the answers have no such form.
    """
    question = criterion.question
    _check_form(question, form)
    parts = _Parts(items, question, form)
    dropped: Counter[str] = Counter()
    derived = []
    for judgement in judgements:
        if judgement.value is None or judgement.item_id not in parts.whole:
            continue
        if parts.whole[judgement.item_id].gold is not None:
            dropped["gold question"] += 1
        elif question.name not in judgement.answers:
            dropped[f"without an answer to {question.name!r}"] += 1
        elif judgement.version not in criterion.versions:
            dropped[f"answers to another version of {question.name!r} (--version {judgement.version} reads them)"] += 1
        else:
            found = parts.of(judgement.item_id)
            if not found:
                dropped[f"{question.name!r} asked of several completions together"] += 1
            for item, places in found:
                value = _value(judgement.answers[question.name], places, question, form)
                derived.append(replace(judgement, item_id=item.id, kind=item.kind, value=value, answers={}))
    return Derived(parts.items(), derived, dict(dropped))


class _Parts:
    """Make the items that the answers of an item are about, each with the places of its completions."""

    def __init__(self, items: Sequence[Item], question: Question, form: Form) -> None:
        self.whole = {item.id: item for item in items}
        self.kind = {"pairs": "pairwise", "ratings": "rating", "thumbs": "thumbs"}[form]
        self.size = 2 if form == "pairs" else 1
        self.each = question.each or question.type == "choice"
        self._made: dict[int, list[tuple[Item, tuple[int, ...]]]] = {}
        self._next = max(self.whole, default=0) + 1

    def of(self, item_id: int) -> list[tuple[Item, tuple[int, ...]]]:
        """Return the parts of an item. There is none if the answer is about several completions as a whole."""
        if item_id not in self._made:
            item = self.whole[item_id]
            n = len(item.completions)
            groups = list(combinations(range(n), self.size)) if self.each or n == self.size else []
            self._made[item_id] = [(self._part(item, places, alone=len(groups) == 1), places) for places in groups]
        return self._made[item_id]

    def items(self) -> list[Item]:
        """Return the parts of all items that were asked about."""
        return [part for parts in self._made.values() for part, _ in parts]

    def _part(self, item: Item, places: tuple[int, ...], alone: bool) -> Item:
        number = item.id if alone else self._next
        self._next += not alone
        texts = tuple(item.completions[place] for place in places)
        return replace(item, id=number, kind=self.kind, completions=texts)


def _check_form(question: Question, form: Form) -> None:
    is_thumbs = question.type == "labels" and not question.multiple and len(question.labels) == 2
    forms: tuple[Form, ...] = {
        "choice": ("pairs",),
        "rating": ("pairs", "ratings") if question.each else ("ratings",),
        "labels": ("ratings", "thumbs") if is_thumbs else (),
    }.get(question.type, ())
    if form in forms:
        return
    if not forms:
        several = "several" if question.multiple else len(question.labels)
        what = f"{several} labels" if question.type == "labels" else f"the type {question.type!r}"
        raise ValueError(f"criterion {question.name!r} ({what}) says of no completion that it is better or worse")
    wants = "compares no two completions" if form == "pairs" else "rates no completion by itself"
    instead = "comparisons" if forms == ("pairs",) else "ratings (--format ratings, --loss mse or ordinal)"
    raise ValueError(f"criterion {question.name!r} {wants}: its answers are {instead}")


def _value(answer: Any, places: tuple[int, ...], question: Question, form: Form) -> dict[str, Any]:
    """Return the value of a judgement about the completions at these places."""
    if question.type == "choice":
        return dict(answer)
    if question.type == "labels":
        up = answer == question.labels[0]
        return {"up": up} if form == "thumbs" else {"rating": int(up)}
    ratings = [answer[place] for place in places] if question.each else [answer]
    if form == "pairs":
        first, second = ratings
        return {"choice": None, "strength": 0} if first == second else {"choice": int(second > first), "strength": 1}
    return {"rating": ratings[0]}
