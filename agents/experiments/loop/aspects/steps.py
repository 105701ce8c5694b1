"""Ask about several aspects of an answer in the rounds of a loop (`..loop`), and fit a reward model to each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_envs import feedback
from rlhf_envs.feedback.questions import asked_about
from rlhf_envs.preferences.aspects.fitting import fit_aspects
from rlhf_envs.preferences.aspects.rows import Judged, find_asked, judged_among, key_and_value
from rlhf_envs.rewards.aspects import FILE, Aspect

from ..served import compared, served_items
from ..state import Loop
from .taking import ALONE, STUDY, kind_of

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore, Item, Judgement

__all__ = ["ROWS", "check_rows", "check_served", "fit_round", "judged_by_aspect", "kinds_of_completions"]

ROWS = "aspects.json"  # what was said about each aspect, up to a round
MEASURES = ("held-out accuracy", "held-out pair accuracy", "held-out AUC")


def kinds_of_completions(loop: Loop) -> list[str]:
    """Return the kinds of items that ask about each completion of a pair by itself, beside the pair."""
    if not loop.aspects:
        return []
    versions, questions = loop.store.versions(), loop.store.settings.questions
    asked = [find_asked(aspect, versions, STUDY) for aspect in loop.aspects.values() if aspect.reward is None]
    kinds = [kind_of(one, questions) for one in asked]
    others = [kind for kind in dict.fromkeys(kinds) if kind not in (None, ALONE[0])]
    come_along = [question for kind in others for question in asked_about(questions, str(kind), 1)]
    alone = [one for one, kind in zip(asked, kinds, strict=True) if kind == ALONE[0]]
    needed = any(one.criterion.question not in come_along for one in alone if one.criterion is not None)
    return [*map(str, others), *(ALONE[:1] if needed else ())]


def judged_by_aspect(loop: Loop, items: Mapping[FeedbackStore, Sequence[Item]]) -> list[Judged]:
    """Return what was said about every aspect that is fitted, in the stores of a run and of a served model.

    Args:
        loop: the run.
        items: the run's items of the rounds so far, by store.
    """
    to_fit = [aspect for aspect in loop.aspects.values() if aspect.reward is None]
    found: dict[str, list[Judged]] = {aspect.name: [] for aspect in to_fit}
    for store, own in items.items():
        said = store.judgements(item_ids=[item.id for item in own])
        versions = store.versions()
        for aspect in to_fit:
            found[aspect.name].append(judged_among(find_asked(aspect, versions, store.url), own, said))
    if loop.config.from_serving is not None:
        for name, parts in _judged_served(loop.config.from_serving, to_fit).items():
            found[name] += parts
    return [_together(parts) for parts in found.values()]


def check_served(url: str, aspects: Iterable[Aspect]) -> None:
    """Raise a ValueError if the users of a served model said too little about an aspect that is to be fitted."""
    for name, parts in _judged_served(url, [aspect for aspect in aspects if aspect.reward is None]).items():
        if not parts:
            raise ValueError(
                f"from_serving={url!r}: users were not asked about aspect {name!r}, and with labels=0 nobody else is: "
                "give --labels, or leave the aspect out"
            )
        check_rows(1, [_together(parts)])


def _judged_served(url: str, aspects: Sequence[Aspect]) -> dict[str, list[Judged]]:
    """Return what the users of a served model said about aspects, by name; nothing where they were not asked."""
    with feedback.FeedbackStore(url) as store:
        own = served_items(store)
        said = store.judgements(item_ids=[item.id for item in own])
        return {aspect.name: _served(aspect, store, own, said) for aspect in aspects}


def _served(
    aspect: Aspect, store: FeedbackStore, items: Sequence[Item], judgements: Sequence[Judgement]
) -> list[Judged]:
    """Return what the users of a served model said about an aspect; nothing if they were not asked about it."""
    try:
        asked = find_asked(aspect, store.versions(), store.url)
    except ValueError:
        return []
    if asked.criterion is None and asked.format == "preference":
        items, judgements = compared(items, judgements)
    return [judged_among(asked, items, judgements)]


def _together(parts: Sequence[Judged]) -> Judged:
    """Return what several stores have about one aspect."""
    dropped: dict[str, int] = {}
    for part in parts:
        for reason, n in part.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + n
    return replace(parts[0], rows=[row for part in parts for row in part.rows], dropped=dropped)


def check_rows(number: int, judged: Iterable[Judged]) -> None:
    """Raise ValueError if the answers about an aspect tell no texts apart."""
    for one in judged:
        values = {key_and_value(row)[1] for row in one.rows}
        if len(values) < 2 and not (one.loss == "bt" and values - {0.0}):
            said = {"flags": "flags, which all say the same", "bt": "comparisons, all ties"}
            what = said.get(one.loss, "ratings, all the same")
            raise ValueError(
                f"round {number}: aspect {one.aspect.name!r} has {len(one.rows)} {what if one.rows else 'answers'}, "
                "so no reward model can be fitted to them: label some more, or leave the aspect out"
            )


def fit_round(loop: Loop, number: int, place: Path, references: Sequence[str]) -> dict[str, Any]:
    """Fit a reward model per aspect to what was said in all rounds so far. Return the metrics."""
    answers = loop.read(number, "ask", ROWS)
    to_fit = [name for name, aspect in loop.aspects.items() if aspect.reward is None]
    if other := {*to_fit} ^ {*answers}:
        raise ValueError(
            f"{loop.folder / FILE}: round {number} asked about {', '.join(answers)}, and the file has another one or "
            f"one less ({', '.join(sorted(other))}): change weights and limits alone"
        )
    judged = [
        Judged(replace(loop.aspects[name], harm=kept["harm"]), kept["loss"], kept["rows"])
        for name, kept in answers.items()
    ]
    beside = {name: aspect for name, aspect in loop.aspects.items() if aspect.reward is not None}
    report = fit_aspects(judged, place, beside=beside, references=references, **loop.fitting(number))
    if report.warning is not None:
        loop.say(f"round {number}: {report.warning}")
    fitted = {}
    for one in judged:
        metrics = report.metrics[one.aspect.name]
        measure = next(name for name in MEASURES if name in metrics)
        fitted[one.aspect.name] = {"answers": len(one.rows), "measure": measure, "held_out": metrics[measure]}
    return {
        "fitted_to": sum(int(metrics["rows fitted"]) for metrics in report.metrics.values()),
        "held_out": sum(int(metrics["rows held out"]) for metrics in report.metrics.values()),
        "aspects_fitted": fitted,
        "correlations": [one._asdict() for one in report.correlations],
    }
