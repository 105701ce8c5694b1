"""Read the final answers and the suggestions that rows of items have beside their judgements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..kinds import check_value
from ..records import NewItem
from ..settings import Settings
from ..store.restoring import PastFinal, PastSuggestion
from .csv_cells import moment

__all__ = ["check_past", "read_final", "read_suggestions"]

_LONGEST_NAME = 200  # of a suggestion's source and version, as in `FeedbackStore.suggest`


def read_final(row: Mapping[str, Any]) -> PastFinal | None:
    """Return a row's final answer, or None.

    Raises:
        ValueError: it is no object, or lacks its value or who gave it.
    """
    final = row.get("final")
    if final is None:
        return None
    if not isinstance(final, dict) or not isinstance(final.get("value"), dict) or not final.get("by"):
        raise ValueError(f"'final' must be an object with 'value' and 'by', who gave it, got {str(final)[:60]}")
    created = moment(final["created"], "created") if final.get("created") else None
    answers, version = final.get("answers") or {}, final.get("version")
    if not isinstance(answers, dict) or not (version is None or type(version) is int):
        raise ValueError(
            f"'final' must have 'answers' by their questions and the number of their 'version', got {final}"
        )
    return PastFinal(final["value"], str(final["by"]), str(final.get("comment") or ""), created, answers, version)


def read_suggestions(row: Mapping[str, Any]) -> tuple[PastSuggestion, ...]:
    """Return a row's suggestions.

    Raises:
        ValueError: they are no list of objects, one lacks its value or its source, or two are by the same source and
            version.
    """
    given = row.get("suggestions")
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise ValueError(f"'suggestions' must be a list of objects, got {str(given)[:60]}")
    found: dict[tuple[str, str], PastSuggestion] = {}
    for one in given:
        source, version = str(one.get("source") or ""), str(one.get("version") or "")
        if not isinstance(one.get("value"), dict):
            raise ValueError(f"'value' of a suggestion must be an answer, got {str(one.get('value'))[:60]}")
        if not 0 < len(source) <= _LONGEST_NAME or len(version) > _LONGEST_NAME:
            raise ValueError(
                f"a suggestion needs a 'source' of 1 to {_LONGEST_NAME} characters, and a 'version' of at most "
                f"{_LONGEST_NAME}, got {source[:60]!r} and {version[:60]!r}"
            )
        if (source, version) in found:
            raise ValueError(f"there are two suggestions by {source!r}, version {version!r}")
        created = moment(one["created"], "created") if one.get("created") else None
        found[source, version] = PastSuggestion(source, version, one["value"], created)
    return tuple(found.values())


def check_past(item: NewItem, value: dict[str, Any], what: str, asked: Iterable[Settings]) -> dict[str, Any]:
    """Return the value of a final answer or of a suggestion in its one form.

    Args:
        item: the item that it answers.
        value: the answer.
        what: what it is, for a message.
        asked: the settings under which it may have been given, the likeliest first. Unlike a judgement it does not say.

    Raises:
        ValueError: it is no answer of the item's kind under any of these settings.
    """
    problems = []
    for settings in asked:
        try:
            checked = check_value(item.kind, value, len(item.completions), settings)
        except ValueError as error:
            problems.append(f"{what}: {error}")
            continue
        assert checked is not None, "only None is a skip"
        return checked
    raise ValueError(problems[0])
