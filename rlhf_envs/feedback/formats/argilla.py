"""Read and write Argilla's records: its CSV (`records.to_datasets().to_csv()`) and its flat JSON.

Fields are columns. A question has the lists `<question>.responses`, `.responses.users` and `.responses.status`
(https://docs.argilla.io/latest/how_to_guides/import_export/). Our records have the fields prompt and response1,
response2, ... (for a single completion: response). The questions are preference (labels response1, response2, tie),
strength, ranking, rating, thumbs (up, down), correction, harms and comment. A discarded response is a skip, and a draft
is no judgement yet. A ranking is a list of places `{"value", "rank"}`, where equal ranks are ties, or of names, best
first. We write places, since a server takes no ranking without ranks. Nor does it take an empty list of labels, so no
harm at all is `["none"]`, unless "none" is one of the store's harms.

Argilla's own JSON (`records.to_json()`) does not say which responses are drafts or discarded, so it is refused where it
has responses; its flat lists (`records.to_list(flatten=True)`, `to_dict(flatten=True)`) say it. Argilla keeps no order
of the completions, no time taken, no date of a response and no idempotency key. It has no question for numbers, so the
margin and the probability of a preference stand in questions of their own, which Argilla shows as text.

One question is read per import. Where records answer several (besides strength, margin, probability and comment), it
has to be named; a name that is none of the above needs its kind too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..records import Item, Judgement
from .csv_cells import Answer, as_json, kind_of, number, objects, parse_list, truth, whole

__all__ = ["argilla_row", "read_argilla_row"]

QUESTIONS = {
    "preference": "pairwise",
    "ranking": "ranking",
    "rating": "rating",
    "thumbs": "thumbs",
    "correction": "correction",
    "harms": "flags",
}
_NO_HARM = "none"  # stands for an empty list of harms
_NUMBERS = {"strength": whole, "margin": number, "probability": number}  # of a preference


def argilla_row(item: Item, judgements: Sequence[Judgement], harms: Collection[str] = ()) -> dict[str, Any]:
    """Return an item and its judgements as a record of Argilla. The lists are JSON. `harms` are the store's."""
    question = next(name for name, kind in QUESTIONS.items() if kind == item.kind)
    names = _names(len(item.completions))
    given = [judgement for judgement in judgements if judgement.value is not None]
    finished = len(given) >= item.overlap
    row: dict[str, Any] = {"id": str(item.id), "status": "completed" if finished else "pending", "kind": item.kind}
    row |= {"n_completions": len(names), "prompt": item.prompt}
    row.update(zip(names, item.completions, strict=True))
    if item.meta.get("messages"):
        row["messages"] = as_json(item.meta["messages"])
    answers = [(judgement, _argilla_value(judgement, names, harms)) for judgement in judgements]
    row.update(_argilla_question(question, answers))
    if item.kind == "pairwise":
        for name in _NUMBERS:
            numbers = [(judgement, judgement.value.get(name)) for judgement in given if judgement.value]
            row.update(_argilla_question(name, [answer for answer in numbers if answer[1]]))
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


def _argilla_value(judgement: Judgement, names: Sequence[str], harms: Collection[str]) -> Any:
    value = judgement.value
    if value is None:
        return None
    if judgement.kind == "pairwise":
        return "tie" if value["choice"] is None else names[value["choice"]]
    if judgement.kind == "ranking":
        return [{"value": names[i], "rank": rank} for rank, i in enumerate(value["order"], start=1)]
    if judgement.kind == "flags" and not value["harms"] and _NO_HARM not in harms:
        return [_NO_HARM]
    if judgement.kind == "thumbs":
        return "up" if value["up"] else "down"
    return next(iter(value.values()))  # the rating, the text, the list of harms


def read_argilla_row(
    row: Mapping[str, Any], question: str | None = None, kind: str | None = None, harms: Collection[str] = ()
) -> tuple[str, dict[str, Any], list[Answer]]:
    """Return (kind, completions by column, answers) of a record.

    Args:
        row: the record.
        question: the question whose answers are read; by default the only one that is answered.
        kind: the kind of a `question` that is none of `QUESTIONS`.
        harms: the harms of the store. If "none" is not among them, it stands for no harm.

    Raises:
        ValueError: the row is no such record, or it answers other questions. The message names the column.
    """
    if isinstance(row.get("fields"), dict):
        row = _flat(row)
    names = _columns(row)
    question, kind = _question(row, question, kind, len(names))
    commented = _argilla_answers(row, "comment")
    comments = {user: str(text) for user, text, _ in commented if text}
    numbers = {(name, user): value for name in _NUMBERS for user, value, _ in _argilla_answers(row, name)}
    answers: list[Answer] = []
    for user, answer, status in _argilla_answers(row, question):
        extra = {"comment": comments.get(user, "")}
        if status == "draft":
            continue
        if answer is None or status == "discarded":
            answers.append((user, None, extra))
        else:
            if kind == "flags" and answer == [_NO_HARM] and _NO_HARM not in harms:
                answer = []
            value = _value_of_argilla(kind, answer, names, row)
            if value.get("choice") is not None:
                given = {name: numbers.get((name, user)) for name in _NUMBERS}
                value |= {name: _NUMBERS[name](found, name) for name, found in given.items() if found is not None}
            answers.append((user, value, extra))
    # The SDK reads no answer without a value, so a discarded record may have a comment alone.
    users = {user for user, _, _ in answers}
    discarded = [user for user, _, status in commented if status == "discarded" and user not in users]
    answers += [(user, None, {"comment": comments.get(user, "")}) for user in discarded]
    return kind, {name: row[name] for name in names}, answers


def _question(row: Mapping[str, Any], question: str | None, kind: str | None, n_completions: int) -> tuple[str, str]:
    """Return the question that is read and its kind. Answers to others are lost only if the caller chose."""
    columns = {name.removesuffix(".responses"): name for name in row if name.endswith(".responses")}
    answered = [name for name, column in columns.items() if parse_list(row[column], column)]
    answered = [name for name in answered if name not in (*_NUMBERS, "comment")]
    if question is None:
        if len(answered) > 1:
            raise ValueError(f"the record answers {', '.join(answered)}: choose one, such as --question {answered[0]}")
        if answered and answered[0] not in QUESTIONS:
            raise ValueError(
                f"the record answers {answered[0]}, which does not tell what was asked: add --question {answered[0]} "
                f"--kind KIND, one of {', '.join(QUESTIONS.values())}"
            )
        kind = kind_of(row, {f"{name}.responses": kind for name, kind in QUESTIONS.items()}, n_completions)
        question = next(name for name, of in QUESTIONS.items() if of == kind)
    if answered and question not in answered:
        raise ValueError(f"no answer to {question}: the record answers {', '.join(answered)}")
    if (found := QUESTIONS.get(question, kind)) is None:
        kinds = ", ".join(QUESTIONS.values())
        raise ValueError(f"the name {question!r} does not tell what was asked: add --kind, one of {kinds}")
    return question, found


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of the JSON with the columns of the CSV."""
    metadata, answers = row.get("metadata") or {}, row.get("responses") or {}
    if not isinstance(metadata, dict) or not isinstance(answers, dict):
        raise ValueError("'metadata' and 'responses' of a record must be objects")
    flat = {**metadata, **row["fields"], "id": row.get("id")}
    for question, given in answers.items():
        responses = objects(given, f"{question} of the responses")
        if any(not response.get("status") for response in responses):
            raise ValueError(
                "Argilla's to_json() does not say which answers are drafts or discarded, so all would be labels: "
                "write json.dump(dataset.records.to_list(flatten=True), file) instead"
            )
        flat[f"{question}.responses.status"] = [response["status"] for response in responses]
        flat[f"{question}.responses"] = [response.get("value") for response in responses]
        flat[f"{question}.responses.users"] = [response.get("user_id") for response in responses]
    return flat


def _names(n: int) -> list[str]:
    return ["response"] if n == 1 else [f"response{i + 1}" for i in range(n)]


def _columns(row: Mapping[str, Any]) -> list[str]:
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


def _argilla_answers(row: Mapping[str, Any], question: str) -> list[tuple[str, Any, str]]:
    """Return (user, value, status) for each response to a question."""
    column = f"{question}.responses"
    values = parse_list(row.get(column), column)
    users = parse_list(row.get(f"{column}.users"), f"{column}.users")
    users = users or [f"user-{i + 1}" for i in range(len(values))]
    status = parse_list(row.get(f"{column}.status"), f"{column}.status") or ["submitted"] * len(values)
    if not len(values) == len(users) == len(status):
        raise ValueError(f"{column!r} has {len(values)} values, {len(users)} users and {len(status)} states")
    return [(str(user), value, str(state)) for user, value, state in zip(users, values, status, strict=True)]


def _value_of_argilla(kind: str, answer: Any, names: list[str], row: Mapping[str, Any]) -> dict[str, Any]:
    if kind == "pairwise":
        return {"choice": None if answer == "tie" else _index(answer, names, row)}
    if kind == "ranking":
        return _ranking(answer, names, row)
    if kind == "thumbs":
        return {"up": truth(answer, "thumbs")}
    if kind == "rating":
        return {"rating": answer}
    return {"text": answer} if kind == "correction" else {"harms": answer}


def _ranking(answer: Any, names: list[str], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the order of a list of completions, or the rank of each where the list gives ranks."""
    if not isinstance(answer, list) or not answer:
        raise ValueError(f"a ranking must be a list of {', '.join(names)}, got {answer!r}")
    places = [place if isinstance(place, dict) else {"value": place} for place in answer]
    order = [_index(place.get("value"), names, row) for place in places]
    if all(place.get("rank") is None for place in places):
        return {"order": order}
    if sorted(order) != list(range(len(names))):
        raise ValueError(f"a ranking must rank each of {', '.join(names)} once, got {str(answer)[:200]}")
    ranks = [whole(place.get("rank"), "rank") for place in places]
    return {"ranks": [ranks[order.index(i)] for i in range(len(names))]}


def _index(answer: Any, names: list[str], row: Mapping[str, Any]) -> int:
    for i, name in enumerate(names):
        if answer in (name, row[name]):
            return i
    raise ValueError(f"{answer!r} is none of {', '.join(names)}")
