"""Tell the format of each row by its columns, and name the datasets that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from typing import Any

from ...datasets.rows import CONVERSATIONS, PROMPTS
from ..kinds import ANSWER_FIELDS
from .csv_cells import FALSE, TRUE

__all__ = ["detect_formats"]

_PAIR = "write rows {question, chosen, rejected}"
# What the columns of a dataset that cannot be read are, and what to do.
REFUSED = {
    ("message_id", "parent_id", "role", "text"): (
        "messages of OpenAssistant, one per row: take its file of trees, or build {prompt, replies} from parent_id"
    ),
    ("helpfulness", "correctness", "coherence", "response"): (
        "HelpSteer, five ratings per row: choose one, with --column completion:response --column label:helpfulness "
        "--format ratings, for a store with the scale 0 to 4"
    ),
    ("response_0", "response_1", "better_response_id"): (
        f"PKU-SafeRLHF: {_PAIR}, with the response that better_response_id (or safer_response_id) names as chosen"
    ),
    ("answer_0", "answer_1", "score_0", "score_1"): (
        f"WebGPT's comparisons: {_PAIR}, with the answer of the higher score as chosen and question.full_text"
    ),
    ("response_j", "response_k"): (
        "Stack Exchange pairs: give --column chosen:response_j --column rejected:response_k"
    ),
    ("conversation_a", "conversation_b", "winner"): (
        "Chatbot Arena: write rows {chosen, rejected}, with the conversation of the winner as chosen"
    ),
    ("info", "summaries", "choice"): (
        "summarize_from_feedback: write rows {question, chosen, rejected}, with summaries[choice].text as chosen"
    ),
    ("prompt", "completions", "labels"): (
        "TRL's stepwise rows, the steps of one answer: there is no form for them; join the steps into 'completion' to "
        "ask people about whole answers"
    ),
    ("context", "response1", "response2", "overall_preference"): (
        "HelpSteer3: write rows {prompt, chosen, rejected}, and response1 is chosen where overall_preference is below 0"
    ),
    ("prompt", "answers", "num_responses"): (
        "Nectar: write {prompt, completions, judgements: [{value: {ranks}}]}, with the answers' texts and ranks"
    ),
    ("instruction", "generations", "ratings"): (
        "distilabel's: write {question, completions, judgements: [{value: {ranks}}]}, with the ratings negated as ranks"
    ),
    ("instance_id", "user_id"): (
        "Potato's annotations as a table: export them as JSON lines, python -m potato.export --format jsonl"
    ),
    ("instruction", "output"): (
        "Alpaca's demonstrations, without judgements: to ask people about them, give --column completion:output"
    ),
}

# Columns beside a completion, and beside several, in which other programs write what people (or models) said of it.
RATED = (
    "rating",
    "score",
    "stars",
    "reward",
    "grade",
    "thumbs",
    "vote",
    "preference",
    "feedback",
    "quality",
    "up",
    "harms",
)
RANKED = (
    "order",
    "scores",
    "ratings",
    "rewards",
    "ranks",
    "ranking",
    "rankings",
    "winner",
    "choice",
    "preferred",
    "best",
    "label",
)

_NOTHING = {"none", "nan", ""}  # a label that is not there
_LABELS = "labels"  # kto or ratings: all labels of a file say which


def detect_formats(
    rows: Sequence[Mapping[str, Any]], scale: tuple[int, int], *, gold: bool = False
) -> list[str | ValueError]:
    """Return the format of each row, or why it cannot be taken.

    A row is told by its own columns that are not empty, so rows of several formats may stand in one file. Only labels
    (`{prompt, completion, label}`) are told together: those of the whole file are thumbs, or all are ratings. A row
    whose columns belong to no format is left to the format of the first row that has one, whose reader says what is
    missing.

    Args:
        rows: the rows of a file.
        scale: the store's scale of ratings.
        gold: the rows are gold questions, which may have their answer beside them (`{"completions": [...],
            "choice": 0}`).

    Raises:
        ValueError: no row can be told, or the labels may mean either thumbs or ratings on the `scale`.
    """
    told = [_told(row, gold) for row in rows]
    known = next((format for format in told if isinstance(format, str)), None)
    if known is None:
        raise next(error for error in told if isinstance(error, ValueError))
    formats = [known if isinstance(format, _UnknownColumns) else format for format in told]
    labelled = [i for i, format in enumerate(formats) if format == _LABELS]
    for i, format in zip(labelled, _label_formats([rows[i] for i in labelled], scale), strict=True):
        formats[i] = format
    return formats


class _UnknownColumns(ValueError):
    """Signal that the columns of a row belong to no format."""


def _told(row: Mapping[str, Any], gold: bool) -> str | ValueError:
    """Return the format of a row, told by the columns with something in them, or else by all columns."""
    filled = {name: value for name, value in row.items() if value is not None and value != ""}
    try:
        return _format(filled if "label" not in row else {**filled, "label": row["label"]}, gold)
    except _UnknownColumns:
        pass
    except ValueError as error:
        return error
    try:
        return _format(row, gold)
    except ValueError as error:
        return error


def _format(row: Mapping[str, Any], gold: bool) -> str:
    columns = set(row)
    if {"chosen", "rejected"} <= columns:
        return "preference"
    if {"history", "human_ref_A", "human_ref_B"} <= columns:
        return "shp"
    if "message_tree_id" in columns and isinstance(row.get("prompt"), dict):
        return "oasst"
    completions = row.get("completions")
    first = completions[0] if isinstance(completions, list) and completions else None
    if isinstance(first, dict) and "response" in first:
        return "ultrafeedback"
    if {"instance_id", "user_id", "labels"} <= columns:
        return "potato"
    _check_known(columns)
    if isinstance(row.get("fields"), dict) or any(column.endswith(".responses") for column in columns):
        return "argilla"
    answers = ANSWER_FIELDS if gold else ()
    if columns & {"response1", "completions"}:
        advice = 'rows {prompt, chosen, rejected}, or judgements [{"value": {"ranks"}}]'
        _check_not_judged(row, [name for name in RANKED + RATED if name not in answers], advice)
    if columns & {"response", "response1"}:
        return "argilla"
    if columns & {"annotation_id", "was_cancelled", "answer", "answer1", "annotations"}:
        return "label-studio"
    if {"completion", "label"} <= columns:
        return _LABELS
    if "completion" in columns:
        _check_not_judged(row, [name for name in RATED if name not in answers], "--column label:{} to take it as one")
    if (columns & {"prompt", *PROMPTS} and columns & {"completion", "completions"}) or columns & set(CONVERSATIONS):
        return "items"
    raise _UnknownColumns(
        f"columns {', '.join(map(str, row)) or 'none'}: expected prompt with completions (to ask about), with chosen "
        "and rejected, with completion and label, or a table of Argilla or Label Studio; --column names other columns"
    )


def _check_known(columns: set[str]) -> None:
    """Raise a ValueError with the conversion if the columns are those of a dataset that cannot be read."""
    for names, advice in REFUSED.items():
        if columns.issuperset(names):
            raise ValueError(f"columns {', '.join(names)} are {advice}")


def _check_not_judged(row: Mapping[str, Any], names: Sequence[str], advice: str) -> None:
    """Raise a ValueError if questions have a column that looks like an answer, which would be lost."""
    if "judgements" in row or not (found := [name for name in names if row.get(name) is not None]):
        return
    name, given = found[0], advice.replace("{}", found[0])
    if name in ANSWER_FIELDS and f"label:{name}" not in given:
        answer = json.dumps({name: row[name]}, default=str)[:80]
        given = f'it as a judgement, "judgements": [{{"value": {answer}}}]; or add the file with --gold, as the answer'
    raise ValueError(
        f"{name!r} looks like a rating or a choice: give {given}, or --format items to ask people about the completions"
    )


def _label_formats(rows: Sequence[Mapping[str, Any]], scale: tuple[int, int]) -> list[str]:
    """Return "kto" or "ratings" for each row with a label. Words (true, good) are thumbs beside ratings too."""
    labels = [_label(row) for row in rows]
    is_word = [label in (TRUE | FALSE) - {"0", "1"} for label in labels]
    others = {label for label, word in zip(labels, is_word, strict=True) if not word} - _NOTHING
    if others <= {"0", "1"}:
        return [_detect_labels({*labels}, scale)] * len(rows) if rows else []
    rest = _detect_labels(others, scale)
    return ["kto" if word else rest for word in is_word]


def _label(row: Mapping[str, Any]) -> str:
    return str(row.get("label")).strip().lower().removeprefix("+").removesuffix(".0")


def _detect_labels(labels: Set[str], scale: tuple[int, int]) -> str:
    """Tell thumbs from ratings. The numbers 1 and 0 are thumbs if both are there and 0 is no rating."""
    labels = labels - _NOTHING
    if "-1" in labels and labels <= {"-1", "0", "1"} and scale[0] > -1:
        raise ValueError(f"the labels are {', '.join(sorted(labels))}: write true and false, if they are thumbs")
    if not any(label[-1:].isdigit() for label in labels - TRUE - FALSE) and not labels <= TRUE | FALSE:
        raise ValueError(f"the labels are {', '.join(sorted(labels)[:5])}: write true and false, or ratings as numbers")
    if not labels <= TRUE | FALSE:
        return "ratings"
    if labels == {"1"} or (labels <= {"0", "1"} and scale[0] <= 0):
        raise ValueError(
            f"the labels are all {' or '.join(sorted(labels))}: say whether they are thumbs (--format kto) or ratings "
            f"from {scale[0]} to {scale[1]} (--format ratings)"
        )
    return "kto"
