"""Check that rows have the texts that a task asks about and compares completions with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["check_prompts", "check_references"]


def check_prompts(rows: Sequence[Mapping[str, Any]], task: str, column: str = "text") -> None:
    """Check that what a task writes into its own prompt is text.

    Args:
        rows: the rows.
        task: the task's name, for messages.
        column: where a row has the text after its prompt was written; before that it is the `prompt`.

    Raises:
        ValueError: a row has messages or another value there. The message names the row.
    """
    for number, row in enumerate(rows):
        text = row.get(column, row.get("prompt"))
        if not isinstance(text, str):
            raise ValueError(
                f"task {task!r}: row {number} has the prompt {str(text)[:60]!r}, which is no text: give a text; for a "
                "conversation, its last message, and chat=True (--chat) to show it as what a user says"
            )


def check_references(rows: Sequence[Mapping[str, Any]], task: str, what: str) -> None:
    """Check that each row has a `prompt` and a `reference` of text.

    Args:
        rows: the rows.
        task: the task's name, for messages.
        what: what a reference is, such as "summary".

    Raises:
        ValueError: a row has no reference, an empty one, or a prompt of messages. The message names the row.
    """
    for number, row in enumerate(rows):
        if "reference" not in row:
            raise ValueError(
                f"task {task!r}: row {number} has no column 'reference', the {what} to compare with: it has "
                f"{', '.join(map(repr, row))}; rename one, columns={{'reference': {what!r}}} "
                f"(--column reference:{what})"
            )
        for name in ("prompt", "reference"):
            if not isinstance(row[name], str) or not row[name].strip():
                raise ValueError(
                    f"task {task!r}: row {number} has the {name} {str(row[name])[:60]!r}, which is no text: fill it or "
                    "remove the row"
                )
