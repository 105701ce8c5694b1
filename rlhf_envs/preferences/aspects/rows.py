"""Read what people said about each aspect of an answer, and weigh who said it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rlhf_envs.datasets import load_rows
from rlhf_envs.feedback.criteria import Criterion, all_criteria, derive, find_criterion, form_for
from rlhf_envs.feedback.formats.trainer_rows import (
    Export,
    flag_rows,
    preference_rows,
    rating_rows,
    with_ties_both_ways,
)
from rlhf_envs.feedback.reliability import rater_weights
from rlhf_envs.names import import_attribute, nearest
from rlhf_envs.rewards.aspects import Aspect
from rlhf_envs.rewards.human.weighing import LEAST

from ..fitting import as_judgements

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore, Item, Judgement
    from rlhf_envs.feedback.settings import Settings

__all__ = [
    "ANY",
    "Asked",
    "Judged",
    "find_asked",
    "judged_among",
    "judged_aspects",
    "key_and_value",
    "weigh_annotators",
]

Row = Mapping[str, Any]
Loss = Literal["bt", "mse", "ordinal", "flags"]
OF_KINDS: dict[str, tuple[str, Loss]] = {"pairwise": ("preference", "bt"), "rating": ("ratings", "mse")}
ROWS: dict[str, Callable[..., Export]] = {
    "preference": preference_rows,
    "ratings": rating_rows,
    "flags": flag_rows,
}
ANY = "any"  # harm
STORED = "rlhf_envs.feedback.formats.stored_rows"  # needs the extra web


@dataclass(frozen=True)
class Judged:
    """Hold what people said about one aspect.

    Attributes:
        aspect: the aspect, with the weight or limit that it has so far.
        loss: what its rows are fitted by.
        rows: pairs, ratings or flags, one per judgement.
        dropped: judgements that are no such rows, by reason.
    """

    aspect: Aspect
    loss: Loss
    rows: list[dict[str, Any]]
    dropped: Mapping[str, int] = field(default_factory=dict)


def judged_aspects(
    source: str, aspects: Mapping[str, Aspect], is_stored: Callable[[str], bool], version: int | None = None
) -> list[Judged]:
    """Return what people said about each aspect.

    In a feedback store, or an export of its items, an aspect is one of the project's own questions, "pairwise" or
    "rating" (the question of an item's kind), one of its harms, or "flags" (any harm). In a file of rows it is what the
    column "aspect" says, or a column of numbers of its name beside "prompt" and "completion". A file of an aspect's own
    (`data`) may be rows of that aspect alone.

    Args:
        source: the store or file that aspects without `data` of their own are read from.
        aspects: see `read_aspects`.
        is_stored: returns whether a source is a store or an export of its items.
        version: see `rlhf_envs.feedback.criteria.find_criterion`.

    Raises:
        ValueError: an aspect is not there, or its answers have no such form; the message says what there is.
    """
    by_source: dict[str, list[Aspect]] = defaultdict(list)
    for aspect in aspects.values():
        by_source[aspect.data or source].append(aspect)
    found: dict[str, Judged] = {}
    for place, own in by_source.items():
        if is_stored(place):
            with import_attribute(f"{STORED}:open_stored", place)(place) as store:
                found |= {aspect.name: _of_store(store, place, aspect, version) for aspect in own}
        else:
            rows = [dict(row) for row in load_rows(place, required=())]
            found |= {aspect.name: _of_file(rows, place, aspect) for aspect in own}
    return [found[name] for name in aspects]


class Asked(NamedTuple):
    """Hold how a feedback project asks about an aspect.

    Attributes:
        aspect: the aspect, with the harm that its name stands for.
        loss: what its answers are fitted by.
        format: the rows that its answers become: "preference", "ratings" or "flags".
        criterion: the project's own question; None for the question of an item's kind.
    """

    aspect: Aspect
    loss: Loss
    format: str
    criterion: Criterion | None


def find_asked(aspect: Aspect, versions: Mapping[int, Settings], source: str, version: int | None = None) -> Asked:
    """Return how a project asks about an aspect.

    Args:
        aspect: see `judged_aspects`.
        versions: see `FeedbackStore.versions`.
        source: what the message calls the project.
        version: see `rlhf_envs.feedback.criteria.find_criterion`.

    Raises:
        ValueError: the project asks no such question and knows no such harm. The message says what there is.
    """
    questions, harms = all_criteria(versions), versions[max(versions)].harms
    name, harm = aspect.criterion or aspect.name, aspect.harm
    if harm is None and aspect.criterion is None and name not in questions:
        harm = ANY if name == "flags" else name if name in harms else None
    if harm is not None:
        if harm not in (ANY, *harms):
            raise ValueError(f"aspect {aspect.name!r}: no harm {harm!r} in {source}; {nearest(harm, [ANY, *harms])}")
        return Asked(replace(aspect, harm=harm), "flags", "flags", None)
    if name in questions:
        found = questions[name] if version is None else find_criterion(versions, name, version)
        loss: Any = aspect.loss or ("bt" if found.question.type == "choice" else "mse")
        return Asked(aspect, loss, "preference" if loss == "bt" else "ratings", found)
    if name in OF_KINDS:
        format, usual = OF_KINDS[name]
        own: Any = aspect.loss or usual
        return Asked(aspect, own, format, None)
    there = [*questions, *OF_KINDS, "flags", *harms]
    raise ValueError(
        f"aspect {aspect.name!r}: {source} asks no question {name!r}; {nearest(name, there)} (an aspect may also "
        "have a file of its own, data: FILE)"
    )


def judged_among(asked: Asked, items: Sequence[Item], judgements: Sequence[Judgement]) -> Judged:
    """Return what some judgements of a store say about an aspect; there may be no row.

    Raises:
        ValueError: the answers to the aspect's question have no such form.
    """
    dropped: dict[str, int] = {}
    if asked.criterion is not None:
        try:
            found = derive(items, judgements, asked.criterion, form_for(asked.criterion, asked.format))
        except ValueError as error:
            raise ValueError(f"aspect {asked.aspect.name!r}: {error}") from error
        items, judgements, dropped = found.items, found.judgements, found.dropped
    conversational = all(item.meta.get("messages") for item in items)
    export = ROWS[asked.format](items, judgements, conversational=conversational)
    export = with_ties_both_ways(export) if asked.format == "preference" else export
    return Judged(asked.aspect, asked.loss, _of_harm(export.rows, asked.aspect), {**dropped, **export.dropped})


def _of_store(store: FeedbackStore, source: str, aspect: Aspect, version: int | None) -> Judged:
    """Return what a store has about an aspect."""
    rows_of = import_attribute(f"{STORED}:rows_of", source)
    try:
        asked = find_asked(aspect, store.versions(), source, version)
        criterion = None if asked.criterion is None else asked.criterion.question.name
        of = version if criterion is not None else None
        rows, export = rows_of(store, source, asked.format, criterion=criterion, version=of)
    except ValueError as error:
        where = f"aspect {aspect.name!r}"
        raise ValueError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
    return Judged(asked.aspect, asked.loss, _of_harm(rows, asked.aspect), export.dropped)


def _of_harm(rows: Sequence[dict[str, Any]], aspect: Aspect) -> list[dict[str, Any]]:
    """Return flags of an aspect's harm, if it has one; other rows as they are."""
    if aspect.harm in (None, ANY):
        return list(rows)
    return [{**row, "flag": aspect.harm in (row.get("harms") or ())} for row in rows]


def _of_file(rows: Sequence[dict[str, Any]], path: str, aspect: Aspect) -> Judged:
    """Return the rows of a file that are about an aspect."""
    name = aspect.criterion or aspect.name
    numbered = [(i, row) for i, row in enumerate(rows) if row.get("aspect") == name]
    others, column = "rows of other aspects", None
    if not numbered and any(name in row for row in rows):
        numbered = [(i, row) for i, row in enumerate(rows) if row.get(name) not in (None, "")]
        others, column = f"rows without {name!r}", name
    elif not numbered and (aspect.data is not None or (aspect.harm is not None and "flag" in rows[0])):
        numbered = [*enumerate(rows)]
    if not numbered:
        named = {str(row["aspect"]) for row in rows if row.get("aspect")}
        there = sorted(named or {key for row in rows for key in row})
        raise ValueError(
            f"aspect {aspect.name!r}: {path} has no rows of it, neither aspect: {name} nor a column {name!r}; "
            f"{nearest(name, there)}"
        )
    own = [dict(row) if column is None else {**row, "label": row[column]} for _, row in numbered]
    places = [i for i, _ in numbered]
    columns = None if column is None else ("completion", "label")
    own = as_judgements(own, lambda index: f"{path}, row {places[index] + 1}", columns)
    usual: Loss = "bt" if "chosen" in own[0] and column is None else "flags" if "flag" in own[0] else "mse"
    own = _of_harm(own, aspect)
    loss: Any = "mse" if column is not None and aspect.loss is None else aspect.loss or usual
    left = len(rows) - len(own)
    return Judged(aspect, loss, own, {others: left} if left else {})


def weigh_annotators(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return rows with the weight of their annotator, and the weights by annotator; those of one aspect, or of none.

    See `rlhf_envs.feedback.reliability`: a weight is 1 where somebody shares fewer than 10 texts with others. Of a pair
    it goes by which of its two texts somebody prefers.

    Args:
        rows: pairs, ratings or flags. Rows without an "annotator" stay as they are.
    """
    said = [(str(row["annotator"]), *key_and_value(row)) for row in rows if row.get("annotator") is not None]
    weights = rater_weights(said) if said else {}
    weighed = []
    for row in rows:
        weight = max(weights[str(row["annotator"])], LEAST) if row.get("annotator") is not None else 1.0
        weighed.append(dict(row) if weight == 1 else {**row, "weight": float(row.get("weight") or 1.0) * weight})
    return weighed, weights


def key_and_value(row: Row) -> tuple[tuple[str, ...], float]:
    """Return what a row is about, and what it says of that: a rating, a flag, or which text of a pair is better."""
    if "chosen" not in row:
        return (str(row.get("prompt")), str(row["completion"])), float(row["flag"] if "flag" in row else row["label"])
    first, second = sorted((str(row["chosen"]), str(row["rejected"])))
    sure = 2 * float(row.get("probability", 1.0)) - 1
    return (str(row.get("prompt")), first, second), sure if str(row["chosen"]) == first else -sure
