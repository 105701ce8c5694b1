"""Read and write Argilla's CSV: one row per record, as `dataset.records.to_datasets().to_csv()` writes it.

Fields are columns. A question has the lists `<question>.responses`, `.responses.users` and `.responses.status`
(https://docs.argilla.io/latest/how_to_guides/import_export/). Our records have the fields prompt and response1,
response2, ... (for a single completion: response). The questions are preference (labels response1, response2, tie),
strength, ranking, rating, thumbs (up, down), correction, harms and comment. A discarded response is a skip, and a draft
is no judgement yet. Argilla keeps no order of the completions, no time taken, no date of a response and no idempotency
key.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from ..records import Item, Judgement
from .csv_cells import Answer, as_json, kind_of, thumb, whole

__all__ = ["argilla_row", "parse_list", "read_argilla_row"]

QUESTIONS = {
    "preference": "pairwise",
    "ranking": "ranking",
    "rating": "rating",
    "thumbs": "thumbs",
    "correction": "correction",
    "harms": "flags",
}


def argilla_row(item: Item, judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Return an item and its judgements as a record of Argilla. The lists are JSON."""
    question = next(name for name, kind in QUESTIONS.items() if kind == item.kind)
    names = _names(len(item.completions))
    given = [judgement for judgement in judgements if judgement.value is not None]
    finished = len(given) >= item.overlap
    row: dict[str, Any] = {"id": str(item.id), "status": "completed" if finished else "pending", "kind": item.kind}
    row |= {"n_completions": len(names), "prompt": item.prompt}
    row.update(zip(names, item.completions, strict=True))
    answers = [(judgement, _argilla_value(judgement, names)) for judgement in judgements]
    row.update(_argilla_question(question, answers))
    if item.kind == "pairwise":
        strengths = [(judgement, judgement.value["strength"] or None) for judgement in given if judgement.value]
        row.update(_argilla_question("strength", [answer for answer in strengths if answer[1] is not None]))
    row.update(_argilla_question("comment", [(j, j.comment) for j in judgements if j.comment]))
    return row


def _argilla_question(name: str, answers: Sequence[tuple[Judgement, Any]]) -> dict[str, str]:
    if not answers:
        return {}
    return {
        f"{name}.responses": as_json([value for _, value in answers]),
        f"{name}.responses.users": as_json([judgement.annotator for judgement, _ in answers]),
        f"{name}.responses.status": as_json(["submitted" if j.value is not None else "discarded" for j, _ in answers]),
    }


def _argilla_value(judgement: Judgement, names: Sequence[str]) -> Any:
    value = judgement.value
    if value is None:
        return None
    if judgement.kind == "pairwise":
        return "tie" if value["choice"] is None else names[value["choice"]]
    if judgement.kind == "ranking":
        return [names[i] for i in value["order"]]
    if judgement.kind == "thumbs":
        return "up" if value["up"] else "down"
    return next(iter(value.values()))  # the rating, the text, the list of harms


def read_argilla_row(row: dict[str, str]) -> tuple[str, tuple[str, ...], list[Answer]]:
    """Return (kind, completions, answers) of a record.

    Raises:
        ValueError: the row is no such record. The message names the column.
    """
    names = _columns(row)
    kind = kind_of(row, {f"{name}.responses": kind for name, kind in QUESTIONS.items()}, len(names))
    if kind not in QUESTIONS.values():
        raise ValueError(f"unknown kind {kind!r} in the column 'kind': there are {', '.join(QUESTIONS.values())}")
    question = next(name for name, of in QUESTIONS.items() if of == kind)
    comments = {user: str(text) for user, text, _ in _argilla_answers(row, "comment") if text}
    strengths = {user: value for user, value, _ in _argilla_answers(row, "strength")}
    answers: list[Answer] = []
    for user, answer, status in _argilla_answers(row, question):
        extra = {"comment": comments.get(user, "")}
        if status == "draft":
            continue
        if answer is None or status == "discarded":
            answers.append((user, None, extra))
        else:
            answers.append((user, _value_of_argilla(kind, answer, names, strengths.get(user), row), extra))
    return kind, tuple(row[name] for name in names), answers


def _names(n: int) -> list[str]:
    return ["response"] if n == 1 else [f"response{i + 1}" for i in range(n)]


def _columns(row: dict[str, str]) -> list[str]:
    """Return the columns of the completions. "n_completions" tells empty texts from columns of other rows."""
    if row.get("n_completions"):
        names = _names(whole(row["n_completions"], "n_completions"))
    else:
        numbered = [name for name in row if re.fullmatch(r"response\d+", name)]
        names = [name for name in numbered if row[name] or name in ("response1", "response2")]
        names = names if any(row[name] for name in numbered) or "response" not in row else ["response"]
    if not names or (missing := [name for name in names if name not in row]):
        lacking = ", ".join(missing) if names else "response, or response1 and response2"
        raise ValueError(f"no column {lacking}: name the columns that hold the completions")
    return names


def _argilla_answers(row: dict[str, str], question: str) -> list[tuple[str, Any, str]]:
    """Return (user, value, status) for each response to a question."""
    column = f"{question}.responses"
    values = parse_list(row.get(column, ""), column)
    users = parse_list(row.get(f"{column}.users", ""), f"{column}.users")
    users = users or [f"user-{i + 1}" for i in range(len(values))]
    status = parse_list(row.get(f"{column}.status", ""), f"{column}.status") or ["submitted"] * len(values)
    if not len(values) == len(users) == len(status):
        raise ValueError(f"{column!r} has {len(values)} values, {len(users)} users and {len(status)} states")
    return [(str(user), value, str(state)) for user, value, state in zip(users, values, status, strict=True)]


def _value_of_argilla(kind: str, answer: Any, names: list[str], strength: Any, row: dict[str, str]) -> dict[str, Any]:
    if kind == "pairwise":
        if answer == "tie":
            return {"choice": None, "strength": 0}
        return {
            "choice": _index(answer, names, row),
            "strength": 1 if strength is None else whole(strength, "strength"),
        }
    if kind == "ranking":
        if not isinstance(answer, list):
            raise ValueError(f"a ranking must be a list of {', '.join(names)}, got {answer!r}")
        ranked = [place["value"] if isinstance(place, dict) and "value" in place else place for place in answer]
        return {"order": [_index(name, names, row) for name in ranked]}
    if kind == "thumbs":
        return {"up": thumb(answer)}
    if kind == "rating":
        return {"rating": whole(answer, "rating")}
    return {"text": answer} if kind == "correction" else {"harms": answer}


def _index(answer: Any, names: list[str], row: dict[str, str]) -> int:
    for i, name in enumerate(names):
        if answer in (name, row[name]):
            return i
    raise ValueError(f"{answer!r} is none of {', '.join(names)}")


def parse_list(cell: str, column: str) -> list[Any]:
    """Parse a list in a cell of a CSV: JSON, Python, or numpy (without commas), which pandas and `datasets` write.

    Raises:
        ValueError: the cell holds no such list.
    """
    if not cell.strip():
        return []
    try:
        value = json.loads(cell)
    except ValueError:
        value = _parse_numpy(cell, column)
    if not isinstance(value, list):
        raise ValueError(f"{column!r} must hold a list, got {cell[:60]!r}")
    return value


_TOKEN = re.compile(
    r"""(?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<number>-?\d+(?:\.\d*)?(?:e[-+]?\d+)?)"""
    r"""|(?P<none>None|null|nan|NaN)|(?P<bool>True|False|true|false)|(?P<open>\[)|(?P<close>\])"""
    r"""|(?P<skip>\s+|,|array\(|list\(|dtype=\w+|\))""",
    re.DOTALL,
)


def _parse_numpy(cell: str, column: str) -> Any:
    stack: list[list[Any]] = [[]]
    position = 0
    while position < len(cell):
        token = _TOKEN.match(cell, position)
        if token is None or (token.lastgroup == "close" and len(stack) == 1):
            raise ValueError(f"{column!r} is no list at character {position}: {cell[position : position + 40]!r}")
        position = token.end()
        if token.lastgroup == "open":
            stack.append([])
        elif token.lastgroup == "close":
            inner = stack.pop()
            stack[-1].append(inner)
        elif token.lastgroup == "none":
            stack[-1].append(None)
        elif token.lastgroup == "bool":
            stack[-1].append(token[0] in ("True", "true"))
        elif token.lastgroup in ("string", "number"):
            stack[-1].append(ast.literal_eval(token[0]))
    if len(stack) != 1 or len(stack[0]) != 1:
        raise ValueError(f"{column!r} is no list: {cell[:60]!r}")
    return stack[0][0]
