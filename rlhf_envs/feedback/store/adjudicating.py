"""Give final answers to items, in place of the annotators' votes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ..answers import check_answers
from ..kinds import check_value
from ..masking import PrivateTexts
from ..records import Adjudication, Item
from .auditing import Auditing, checked_reason, log_change, log_masks
from .queue import ITEMS, annotator_named, item_of, read_settings
from .schema import adjudications, annotators, items
from .versions import asked_of

__all__ = ["Adjudicating", "item_with"]


class Adjudicating(Auditing):
    """Give final answers. `FeedbackStore` inherits from this class."""

    def adjudicate(
        self,
        item_id: int,
        value: dict[str, Any],
        *,
        by: str,
        comment: str = "",
        answers: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> Adjudication:
        """Give the final answer to an item. An earlier final answer is replaced, and the audit keeps it.

        Args:
            item_id: the item.
            value: an answer of the item's kind.
            by: who gives it.
            comment: why.
            answers: the final answers to the project's questions by their names. None gives none: then the annotators'
                answers to them stand. Otherwise none that is required may be missing.
            version: the version of the settings that `by` saw. By default the present one.

        Raises:
            ValueError: there is no such item, annotator or version, the value is a skip or does not suit the item's
                kind, or the answers do not suit the questions.
        """
        with self._database.write() as connection:
            self._database.one_writer(connection)
            person, item = annotator_named(connection, by), item_with(connection, item_id)
            asked, settings = asked_of(connection, version, read_settings(connection))
            checked = check_value(item.kind, value, len(item.completions), settings)
            if checked is None:
                raise ValueError("a final answer must be an answer, not a skip")
            own = {} if answers is None else check_answers(item, checked, answers, settings.questions)
            if item.kind == "questions" and not own:
                raise ValueError("answers: an item of kind 'questions' asks nothing but the project's own questions")
            texts = PrivateTexts(settings)
            checked, own, comment = texts.value(checked), texts.answers(own, settings.questions), texts.text(comment)
            log_masks(connection, self._clock(), texts, item_id=item_id)
            here = adjudications.c.item_id == item_id
            before = _final_in_audit(connection, item_id)
            connection.execute(sa.delete(adjudications).where(here))
            final = Adjudication(item_id, checked, by, comment, self._clock(), own, asked)
            row = {"item_id": item_id, "annotator_id": person.id, "value": checked, "answers": own or None}
            row |= {"comment": comment, "created": final.created, "version": asked}
            connection.execute(sa.insert(adjudications).values(row))
            what = {"item_id": item_id, "before": before, "after": _in_audit(checked, own), "reason": comment}
            log_change(connection, final.created, by, "final answer", **what)
            return final

    def remove_adjudication(self, item_id: int, *, by: str, reason: str) -> None:
        """Take the final answer to an item away, so that the item is open for one again.

        Raises:
            ValueError: the item has no final answer, or the reason is missing.
        """
        reason = checked_reason(reason)
        with self._database.write() as connection:
            self._database.one_writer(connection)
            here = adjudications.c.item_id == item_id
            before = _final_in_audit(connection, item_id)
            if before is None:
                raise ValueError(f"item {item_id} has no final answer")
            connection.execute(sa.delete(adjudications).where(here))
            what = {"item_id": item_id, "before": before, "reason": reason}
            log_change(connection, self._clock(), by, "remove final answer", **what)

    def adjudications(self) -> dict[int, Adjudication]:
        """Return the final answers by item id."""
        table = adjudications.join(annotators, adjudications.c.annotator_id == annotators.c.id)
        query = sa.select(adjudications, annotators.c.name.label("by")).select_from(table)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(adjudications.c.item_id)).all()
        return {
            row.item_id: Adjudication(
                row.item_id, row.value, row.by, row.comment, row.created, row.answers or {}, row.version
            )
            for row in rows
        }


def item_with(connection: sa.Connection, item_id: int) -> Item:
    """Return the item of this id.

    Raises:
        ValueError: there is none.
    """
    row = connection.execute(ITEMS.where(items.c.id == item_id)).one_or_none()
    if row is None:
        raise ValueError(f"there is no item {item_id}")
    return item_of(row)


def _in_audit(value: dict[str, Any], answers: Mapping[str, Any]) -> dict[str, Any]:
    """Return a final answer as the audit keeps it: the value, and with it the answers to the project's questions."""
    return {**value, "answers": dict(answers)} if answers else value


def _final_in_audit(connection: sa.Connection, item_id: int) -> dict[str, Any] | None:
    query = sa.select(adjudications.c.value, adjudications.c.answers).where(adjudications.c.item_id == item_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else _in_audit(row.value, row.answers or {})
