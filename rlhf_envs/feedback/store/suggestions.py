"""Keep what programs suggest for items, and who knew of it when they answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..kinds import check_value
from ..masking import PrivateTexts
from ..records import Judgement, Suggestion
from .auditing import log_masks
from .database import Database
from .queue import JUDGEMENTS, items_in_parts, judgement_of, read_settings
from .schema import judgements, suggestions

__all__ = ["Suggestions"]

_LONGEST = 200


class Suggestions:
    """Manage suggestions. `FeedbackStore` inherits from this class."""

    _database: Database
    _clock: Callable[[], datetime]

    def suggest(self, values: Mapping[int, dict[str, Any]], *, source: str, version: str = "") -> int:
        """Store by item id the answers that a program suggests, all or none.

        An answer by the same source and version takes the place of its earlier one for the item.

        Args:
            values: an answer of the item's kind per item id.
            source: the reward model or judge, of 1 to 200 characters.
            version: tells this state of it from others, of at most 200 characters.

        Returns:
            How many were stored.

        Raises:
            ValueError: a value is no answer of the item's kind, there is no such item, or a name is too long.
        """
        if not 0 < len(source) <= _LONGEST or len(version) > _LONGEST:
            raise ValueError(f"source must have 1 to 200 characters, version at most 200: {source!r}, {version!r}")
        now = self._clock()
        with self._database.write() as connection:
            self._database.one_writer(connection)
            settings = read_settings(connection)
            texts = PrivateTexts(settings)
            for part, found in items_in_parts(connection, values, self._database.place):
                rows = []
                for item_id in part:
                    row = found[item_id]
                    checked = check_value(row.kind, values[item_id], len(row.completions), settings)
                    if checked is None:
                        raise ValueError(f"item {item_id}: a suggestion must be an answer, got None")
                    value = texts.value(checked)
                    rows.append(
                        {"item_id": item_id, "source": source, "version": version, "value": value, "created": now}
                    )
                same = (suggestions.c.source == source, suggestions.c.version == version)
                connection.execute(sa.delete(suggestions).where(suggestions.c.item_id.in_(part), *same))
                connection.execute(sa.insert(suggestions), rows)
            log_masks(connection, now, texts)
        return len(values)

    def suggestions(self, item_id: int | None = None) -> list[Suggestion]:
        """Return the suggestions for all items or for one, oldest first."""
        query = sa.select(
            suggestions.c.item_id,
            suggestions.c.source,
            suggestions.c.version,
            suggestions.c.value,
            suggestions.c.created,
        ).order_by(suggestions.c.id)
        if item_id is not None:
            query = query.where(suggestions.c.item_id == item_id)
        with self._database.read() as connection:
            return [Suggestion(*row) for row in connection.execute(query)]

    def suggestion_after(self, judgement: Judgement) -> Suggestion | None:
        """Return what the annotator may be shown after this judgement: the newest suggestion for its item.

        None if the settings show none, there is none, or the judgement is a skip, after which the item may be theirs
        again.
        """
        if judgement.value is None:
            return None
        with self._database.read() as connection:
            if read_settings(connection).suggestions != "after":
                return None
        found = self.suggestions(judgement.item_id)
        return found[-1] if found else None

    def unswayed_judgements(self) -> list[Judgement]:
        """Return each annotator's answer to each item as it was before they knew of a suggestion, ordered by id.

        Somebody who took their answer back after they were shown a suggestion is there with that first answer.
        """
        query = JUDGEMENTS.where(judgements.c.value.is_not(None), sa.not_(judgements.c.had_seen))
        changed = judgements.alias("changed")
        swayed = sa.exists().where(
            changed.c.item_id == judgements.c.item_id,
            changed.c.annotator_id == judgements.c.annotator_id,
            changed.c.had_seen,
            sa.not_(changed.c.undone),
        )
        query = query.where(sa.or_(sa.not_(judgements.c.undone), swayed)).order_by(judgements.c.id)
        with self._database.read() as connection:
            found = [judgement_of(row) for row in connection.execute(query)]
        return sorted({(j.item_id, j.annotator): j for j in found}.values(), key=lambda judgement: judgement.id)

    def _has_seen_suggestion(self, connection: sa.Connection, item_id: int, annotator_id: int) -> bool:
        """Return whether the annotator answered the item before, and could be shown a suggestion then."""
        if read_settings(connection).suggestions != "after":
            query = sa.select(judgements.c.id).where(judgements.c.had_seen)  # once seen, always seen
        else:
            there = sa.exists().where(suggestions.c.item_id == item_id)
            query = sa.select(judgements.c.id).where(judgements.c.had_seen | (judgements.c.value.is_not(None) & there))
        own = query.where(judgements.c.item_id == item_id, judgements.c.annotator_id == annotator_id)
        return connection.execute(own.limit(1)).first() is not None
