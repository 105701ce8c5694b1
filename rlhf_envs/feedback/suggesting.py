"""Let a reward model suggest answers, and count how far people agree with it before they see what it suggests."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from .deciding import CAN_ADAPT, same_answer
from .records import Annotator, Assignment, Item
from .simulated import Scorer, SimulatedAnnotator

if TYPE_CHECKING:
    from .store.store import FeedbackStore

__all__ = ["SUGGESTED", "SuggestionAgreement", "compare_suggestions", "source_of", "suggest_answers", "version_of"]

SUGGESTED = ("pairwise", "ranking", "rating", "thumbs")  # what scores answer


class SuggestionAgreement(BaseModel):
    """Count people's answers that say the same as a model's suggestion, by source, version and kind.

    Every answer counts as it was before its annotator was shown a suggestion for the item. Ratings agree within a
    quarter of the scale. The interval (95%, Wilson) takes answers for independent.
    """

    source: str
    version: str
    kind: str
    agreed: int
    n: int
    share: float
    low: float
    high: float


def suggest_answers(
    items: Sequence[Item], scorer: Scorer, *, scale: tuple[int, int] = (1, 5), reference: Sequence[float] | None = None
) -> dict[int, dict[str, Any]]:
    """Return by item id the answer that a scorer gives: the higher score is better.

    Ratings and thumbs are set by the quantiles of `reference`, scores of completions like these. Corrections and flags
    are left out.
    """
    suggester = SimulatedAnnotator(scorer, "suggestion", scale=scale, reference=reference)
    found = {}
    for item in items:
        if item.kind in SUGGESTED:
            value = suggester(_shown(item)).value
            assert value is not None, "a scorer without noise and skips answers"
            found[item.id] = value
    return found


def _shown(item: Item) -> Assignment:
    """Return the item as if it were lent, with its completions in their order."""
    nobody = Annotator(0, "suggestion", "annotator", item.created)
    return Assignment(0, item, nobody, tuple(range(len(item.completions))), item.created)


def source_of(scorer: str) -> str:
    """Return a reward's name for annotators: of a path the last part alone, since its folders are not for them."""
    paths = scorer.partition("@")[0], scorer.rpartition(":")[0], scorer.partition(":")[2]
    return Path(scorer).resolve().name if any(path and Path(path).exists() for path in paths) else scorer


def version_of(scorer: str) -> str:
    """Return a version of a reward: for a folder the first 12 digits of a SHA-256 over its files, else ""."""
    folder = Path(scorer.partition("@")[0])
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def compare_suggestions(store: FeedbackStore) -> list[SuggestionAgreement]:
    """Return how far people agree with each source and version, by kind."""
    suggestions = store.suggestions()
    if not suggestions:
        return []
    answers: dict[int, list[Any]] = defaultdict(list)
    for judgement in store.unswayed_judgements():
        answers[judgement.item_id].append(judgement)
    scale = store.settings.scale
    counts: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    for suggestion in suggestions:
        for judgement in answers[suggestion.item_id]:
            if judgement.kind in CAN_ADAPT and judgement.value is not None:
                same = same_answer(judgement.kind, suggestion.value, judgement.value, scale)
                counts[suggestion.source, suggestion.version, judgement.kind].append(same)
    return [_agreement(key, same) for key, same in counts.items()]


def _agreement(key: tuple[str, str, str], same: Sequence[bool]) -> SuggestionAgreement:
    from scipy.stats import binomtest

    source, version, kind = key
    interval = binomtest(sum(same), len(same)).proportion_ci(method="wilson")
    return SuggestionAgreement(
        source=source,
        version=version,
        kind=kind,
        agreed=sum(same),
        n=len(same),
        share=sum(same) / len(same),
        low=float(interval.low),
        high=float(interval.high),
    )
