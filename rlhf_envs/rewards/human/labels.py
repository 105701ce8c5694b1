"""Read what people say of completions as numbers from -1 to 1: by the item's kind, or by a question of the project."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore, Item, Judgement

__all__ = ["check_criterion", "labels_of"]


def labels_of(
    store: FeedbackStore, items: Sequence[Item], judgements: Iterable[Judgement], criterion: str | None
) -> dict[int, float]:
    """Map ids of judgements to their labels: -1 at the low end of the scale, 1 at the high end, thumbs -1 and 1.

    Skips have no label. With a criterion, neither have judgements that leave it out or answer another version of it.

    Args:
        store: the store with the settings.
        items: the items that were judged, each with one completion.
        judgements: judgements of these items.
        criterion: the name of one of the project's own questions; None reads the answer to the item's kind.

    Raises:
        ValueError: there is no such criterion, or it rates no completion by itself.
    """
    if criterion is None:
        scale = store.settings.scale
        return {entry.id: _label(entry, scale) for entry in judgements if entry.value is not None}
    from rlhf_envs.feedback.criteria import derive, find_criterion

    found = find_criterion(store.versions(), criterion)
    scale = (0, 1) if found.question.type == "labels" else found.question.scale
    derived = derive(items, judgements, found, "ratings").judgements
    return {entry.id: _label(entry, scale) for entry in derived}


def check_criterion(store: FeedbackStore, criterion: str, kind: str) -> None:
    """Raise a ValueError unless a store asks a question about items of this kind that rates their completion."""
    from rlhf_envs.feedback import criteria, questions

    criteria.derive([], [], criteria.find_criterion(store.versions(), criterion), "ratings")
    asked = [question.name for question in questions.asked_about(store.settings.questions, kind, 1)]
    if criterion not in asked:
        raise ValueError(
            f"criterion {criterion!r} is not asked about items of kind {kind!r} in {store.url}; "
            f"asked are {', '.join(asked) or 'none'}: rlhf feedback settings study.toml"
        )


def _label(judgement: Judgement, scale: tuple[int, int]) -> float:
    """Return a judgement as a number from -1 to 1."""
    assert judgement.value is not None
    if judgement.kind == "thumbs":
        return 1.0 if judgement.value["up"] else -1.0
    low, high = scale
    return (2.0 * judgement.value["rating"] - low - high) / (high - low)
