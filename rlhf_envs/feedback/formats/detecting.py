"""Tell the format of a file by its columns, and name the datasets that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...datasets.messages import CONVERSATIONS, PROMPTS
from .csv_cells import FALSE, TRUE

__all__ = ["detect_format"]

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
    ("instruction", "output"): (
        "Alpaca's demonstrations, without judgements: to ask people about them, give --column completion:output"
    ),
}

# Columns beside a completion, and beside several, in which other programs write what people (or models) said of it.
RATED = ("rating", "score", "stars", "reward", "grade", "thumbs", "vote", "preference", "feedback", "quality")
RANKED = (
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


def detect_format(rows: Sequence[Mapping[str, Any]], scale: tuple[int, int]) -> str:
    """Return the format of a file, told by the columns of its first row and, for labels, by all rows.

    Raises:
        ValueError: the columns belong to no format, or to a dataset that cannot be read, or the labels may mean either
            thumbs or ratings on the `scale`.
    """
    row = rows[0]
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
    _check_known(columns)
    if isinstance(row.get("fields"), dict) or any(column.endswith(".responses") for column in columns):
        return "argilla"
    if columns & {"response1", "completions"}:
        _check_not_judged(row, RANKED + RATED, 'rows {prompt, chosen, rejected}, or judgements [{"value": {"ranks"}}]')
    if columns & {"response", "response1"}:
        return "argilla"
    if columns & {"annotation_id", "was_cancelled", "answer", "answer1", "annotations"}:
        return "label-studio"
    if {"completion", "label"} <= columns:
        return _detect_labels(rows, scale)
    if "completion" in columns:
        _check_not_judged(row, RATED, "--column label:{} to take it as one")
    if (columns & {"prompt", *PROMPTS} and columns & {"completion", "completions"}) or columns & set(CONVERSATIONS):
        return "items"
    raise ValueError(
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
    if "judgements" not in row and (found := [name for name in names if row.get(name) is not None]):
        given = advice.replace("{}", found[0])
        raise ValueError(
            f"{found[0]!r} looks like a rating or a choice: give {given}, or --format items to ask people about the "
            "completions"
        )


def _detect_labels(rows: Iterable[Mapping[str, Any]], scale: tuple[int, int]) -> str:
    """Tell thumbs from ratings. The numbers 1 and 0 are thumbs if both are there and 0 is no rating."""
    labels = {str(row.get("label")).strip().lower().removeprefix("+").removesuffix(".0") for row in rows}
    labels -= {"none", "nan", ""}
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
