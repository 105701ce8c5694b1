"""Read what people say of completions as numbers from -1 to 1: by the item's kind, or by a question of the project."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from rlhf_envs.datasets.messages import kept_prompt

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore, Item, Judgement

__all__ = ["Criterion", "check_criterion", "labels_of", "name_criterion", "rating_rows", "read_weights"]

Criterion = str | Mapping[str, float]  # one of the project's own questions, or several with weights


def read_weights(criterion: Criterion) -> dict[str, float]:
    """Return the questions whose answers are the reward, with their weights.

    Raises:
        ValueError: there is none, or a weight is no number or 0.
    """
    if isinstance(criterion, str):
        return {criterion: 1.0}
    if not isinstance(criterion, Mapping) or not criterion or not all(isinstance(name, str) for name in criterion):
        raise ValueError(
            f"the human reward's criterion is {criterion!r}: expected the name of a question, or several with weights, "
            "such as {'helpful': 1, 'kind': 0.5}"
        )
    for name, weight in criterion.items():
        if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight) or weight == 0:
            raise ValueError(f"the human reward's weight of criterion {name!r} is {weight!r}: a number other than 0")
    return {name: float(weight) for name, weight in criterion.items()}


def name_criterion(criterion: Criterion) -> str:
    """Return what messages call a criterion."""
    if isinstance(criterion, str):
        return repr(criterion)
    return " and ".join(f"{weight:g} of {name!r}" for name, weight in criterion.items())


def labels_of(
    store: FeedbackStore, items: Sequence[Item], judgements: Iterable[Judgement], criterion: Criterion | None
) -> dict[int, float]:
    """Map ids of judgements to their labels: -1 at the low end of the scale, 1 at the high end, thumbs -1 and 1.

    Skips have no label. With a criterion, neither have judgements that leave it out or answer another version of it.
    Of several criteria the label is the mean of their labels by the size of their weights, of one below 0 turned round;
    judgements that leave one of them out have none.

    Args:
        store: the store with the settings.
        items: the items that were judged, each with one completion.
        judgements: judgements of these items.
        criterion: the name of one of the project's own questions, or several with weights; None reads the answer to the
            item's kind.

    Raises:
        ValueError: there is no such criterion, or it rates no completion by itself.
    """
    if criterion is None:
        scale = store.settings.scale
        return {entry.id: _label(entry, scale) for entry in judgements if entry.value is not None}
    weights, judgements = read_weights(criterion), list(judgements)
    labels = {name: _labels_of_one(store, items, judgements, name) for name in weights}
    answered = set.intersection(*(set(found) for found in labels.values()))
    total = sum(map(abs, weights.values()))
    return {
        entry.id: sum(weight * labels[name][entry.id] for name, weight in weights.items()) / total
        for entry in judgements
        if entry.id in answered
    }


def rating_rows(store: FeedbackStore, kind: str, criterion: Criterion | None) -> list[dict[str, Any]]:
    """Return the judgements of a kind that have a label as rating rows, oldest first, without gold questions."""
    judgements = [judgement for judgement in store.judgements() if judgement.kind == kind]
    items = {item.id: item for item in store.items(sorted({judgement.item_id for judgement in judgements}))}
    single = {id: item for id, item in items.items() if item.gold is None and len(item.completions) == 1}
    labels = labels_of(store, list(single.values()), judgements, criterion)
    return [
        {
            "prompt": kept_prompt(item.prompt, item.meta),
            "completion": item.completions[0],
            "label": labels[judgement.id],
            "annotator": judgement.annotator,
            "item_id": item.id,
        }
        for judgement in judgements
        if (item := single.get(judgement.item_id)) is not None and judgement.id in labels
    ]


def _labels_of_one(
    store: FeedbackStore, items: Sequence[Item], judgements: Sequence[Judgement], criterion: str
) -> dict[int, float]:
    """Return the labels of the judgements that answer a criterion, by their ids."""
    from rlhf_envs.feedback.criteria import derive, find_criterion

    found = find_criterion(store.versions(), criterion)
    scale = (0, 1) if found.question.type == "labels" else found.question.scale
    derived = derive(items, judgements, found, "ratings").judgements
    return {entry.id: _label(entry, scale) for entry in derived}


def check_criterion(store: FeedbackStore, criterion: Criterion, kind: str) -> None:
    """Raise a ValueError unless a store asks questions about items of this kind that rate their completion."""
    from rlhf_envs.feedback import criteria, questions

    names, versions = read_weights(criterion), store.versions()
    for name in names:
        criteria.derive([], [], criteria.find_criterion(versions, name), "ratings")
    asked = [question.name for question in questions.asked_about(store.settings.questions, kind, 1)]
    if missing := [name for name in names if name not in asked]:
        raise ValueError(
            f"criterion {missing[0]!r} is not asked about items of kind {kind!r} in {store.url}; "
            f"asked are {', '.join(asked) or 'none'}: rlhf feedback settings study.toml"
        )


def _label(judgement: Judgement, scale: tuple[int, int]) -> float:
    """Return a judgement as a number from -1 to 1."""
    assert judgement.value is not None
    if judgement.kind == "thumbs":
        return 1.0 if judgement.value["up"] else -1.0
    low, high = scale
    return (2.0 * judgement.value["rating"] - low - high) / (high - low)
