"""Define the tables as the last migration leaves them. A change here needs a revision in `migrations/versions`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from .searching import fold_item, fold_judgement, vote_of

__all__ = [
    "DROPPED",
    "IN_QUEUE",
    "IN_TRAINING",
    "OPEN",
    "STANDS",
    "adjudications",
    "annotators",
    "audit",
    "deliveries",
    "documents",
    "explanations",
    "invitations",
    "items",
    "judgements",
    "media",
    "metadata",
    "panelists",
    "readings",
    "sessions",
    "settings",
    "suggestions",
    "tasks",
    "training_answers",
    "versions",
    "withdrawals",
]


class UtcDateTime(sa.TypeDecorator[datetime]):
    """Store a datetime with its time zone. SQLite has no such type and stores UTC without a zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _where(condition: str) -> dict[str, Any]:
    """Make an index partial on both databases."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def _made_by(make: Callable[[Mapping[str, Any]], str | None]) -> Callable[[Any], str | None]:
    """Return a column's default that is computed from the other values of the row."""
    return lambda context: make(context.get_current_parameters())


metadata = sa.MetaData()

# Texts by models and people are stored as JSON: PostgreSQL's text cannot hold NUL, and neither database can hold a lone
# surrogate.
AnyText = sa.JSON(none_as_null=True)

annotators = sa.Table(
    "annotators",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("created", UtcDateTime, nullable=False),
    sa.Column("password_hash", sa.Text),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("admitted", UtcDateTime),  # when the training was passed, or an admin let the person in
    sa.Column("failed", UtcDateTime),  # when the last try of the training was failed
    sa.Column("withdrawn", UtcDateTime),
)

items = sa.Table(
    "items",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("prompt", AnyText, nullable=False),
    sa.Column("completions", AnyText, nullable=False),
    sa.Column("source", AnyText, nullable=False),
    sa.Column("policy", AnyText, nullable=False),
    sa.Column("meta", AnyText, nullable=False),
    sa.Column("overlap", sa.Integer, nullable=False),
    sa.Column("gold", AnyText),
    sa.Column("priority", sa.Float, nullable=False),
    sa.Column("created", UtcDateTime, nullable=False),
    # The overlap minus the judgements that count. Stored, so that a claim need not count the judgements of every item.
    # Where the overlap adapts it depends on what the judgements say.
    sa.Column("needed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("max_overlap", sa.Integer),
    sa.Column("score", sa.Float, nullable=False, server_default="0"),  # of the policy that chooses the next item
    # The texts as a search reads them, see `searching`. Whoever inserts an item need not know of it.
    sa.Column("search", sa.Text, nullable=False, server_default="", default=_made_by(fold_item)),
    sa.Column("withdrawn", sa.Integer),  # the overlap that the item had before an admin withdrew it
    sa.Column("difficulty", sa.Float),  # 0 to 1, from the annotators' answers; NULL if it was not estimated
    # A gold question with an explanation. While the training is on, it is asked there and nowhere else.
    sa.Column("training", sa.Boolean, nullable=False, server_default=sa.false()),
)
sa.Index("items_of_training", items.c.id, **_where("training"))
IN_TRAINING = sa.text("items.training")
IN_QUEUE = sa.text("items.needed > 0")
sa.Index("items_in_queue", items.c.priority.desc(), items.c.score.desc(), items.c.id, **_where("needed > 0"))

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("item_id", sa.Integer, sa.ForeignKey("items.id"), nullable=False),
    sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), nullable=False),
    sa.Column("sides", sa.JSON, nullable=False),
    sa.Column("expires", UtcDateTime, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # open, done, released, lost
    sa.Column("explained", sa.Text),  # withheld, offered, seen; NULL without an explanation
)
OPEN = sa.text("tasks.state = 'open'")
sa.Index("one_open_task_an_annotator", tasks.c.annotator_id, unique=True, **_where("state = 'open'"))
sa.Index("tasks_of_annotator", tasks.c.annotator_id, tasks.c.item_id)
sa.Index("open_tasks_of_item", tasks.c.item_id, **_where("state = 'open'"))

judgements = sa.Table(
    "judgements",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("task_id", sa.Integer, sa.ForeignKey("tasks.id"), nullable=False),
    sa.Column("item_id", sa.Integer, sa.ForeignKey("items.id"), nullable=False),
    sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), nullable=False),
    sa.Column("value", AnyText),  # NULL is a skip
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("comment", AnyText, nullable=False),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("created", UtcDateTime, nullable=False),
    sa.Column("undone", sa.Boolean, nullable=False),
    sa.Column("had_seen", sa.Boolean, nullable=False, server_default=sa.false()),  # a suggestion, before they answered
    sa.Column("dropped", sa.Boolean, nullable=False, server_default=sa.false()),  # by an admin; `undone` is true too
    sa.Column("vote", sa.Text, default=_made_by(vote_of)),  # equal where two answers agree, NULL where they cannot
    sa.Column("search", sa.Text, nullable=False, server_default="", default=_made_by(fold_judgement)),
    sa.Column("answers", AnyText),  # to the project's questions; NULL is none
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("withdrawn", sa.Boolean, nullable=False, server_default=sa.false()),  # and undone, so it stands no more
    sa.Column("explained", sa.Text),  # the task's, as it was when the answer came
)
STANDS = sa.text("NOT judgements.undone")  # in the very words of the partial index, or the databases do not use it
sa.Index(
    "one_judgement_an_annotator_and_item",
    judgements.c.item_id,
    judgements.c.annotator_id,
    unique=True,
    **_where("NOT undone"),
)
DROPPED = sa.text("judgements.dropped")
sa.Index("dropped_judgements", judgements.c.item_id, judgements.c.annotator_id, **_where("dropped"))
sa.Index("votes_of_item", judgements.c.item_id, judgements.c.vote, **_where("NOT undone"))
sa.Index("judgements_of_annotator", judgements.c.annotator_id, judgements.c.id)
sa.Index("judgements_of_task", judgements.c.task_id)

suggestions = sa.Table(
    "suggestions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("item_id", sa.Integer, sa.ForeignKey("items.id"), nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("value", AnyText, nullable=False),
    sa.Column("created", UtcDateTime, nullable=False),
)
sa.Index("one_suggestion_a_source", suggestions.c.item_id, suggestions.c.source, suggestions.c.version, unique=True)

# What a reward model's scores of an item's completions rest on.
explanations = sa.Table(
    "explanations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("item_id", sa.Integer, sa.ForeignKey("items.id"), nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("scores", sa.JSON, nullable=False),
    sa.Column("marks", sa.JSON(none_as_null=True)),  # per completion [start, end, value]; NULL is withheld by lot
    sa.Column("value", AnyText),  # the answer that the scores make; NULL where they make none
    sa.Column("created", UtcDateTime, nullable=False),
)
sa.Index("one_explanation_a_source", explanations.c.item_id, explanations.c.source, explanations.c.version, unique=True)

settings = sa.Table("settings", metadata, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", AnyText))

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("created", UtcDateTime, nullable=False),
    sa.Column("asked", AnyText, nullable=False),  # the settings of `ASKED_SETTINGS`
)

invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("expires", UtcDateTime, nullable=False),
    sa.Column("used", UtcDateTime),
    sa.Column("annotator_id", sa.Integer),  # whose password the link resets; NULL in an invitation to a new account
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), nullable=False),
    sa.Column("expires", UtcDateTime, nullable=False),
)
sa.Index("sessions_of_annotator", sessions.c.annotator_id)

# What an admin has changed. Rows are only ever added.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("created", UtcDateTime, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("item_id", sa.Integer),
    sa.Column("judgement_id", sa.Integer),
    sa.Column("annotator", sa.Text),  # whose answer or account it was
    sa.Column("before", AnyText),
    sa.Column("after", AnyText),
    sa.Column("reason", AnyText, nullable=False),
)
sa.Index("audit_of_judgement", audit.c.judgement_id)
sa.Index("audit_of_item", audit.c.item_id)

# The final answer to an item whose annotators disagree. A new one takes the place of the old, which the audit keeps.
adjudications = sa.Table(
    "adjudications",
    metadata,
    sa.Column("item_id", sa.Integer, sa.ForeignKey("items.id"), primary_key=True, autoincrement=False),
    sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), nullable=False),
    sa.Column("value", AnyText, nullable=False),
    sa.Column("comment", AnyText, nullable=False),
    sa.Column("created", UtcDateTime, nullable=False),
    sa.Column("answers", AnyText),  # to the project's questions; NULL is none
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
)

# Events for the project's webhook, written in the transaction of what they tell, so that no restart loses one.
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("payload", AnyText, nullable=False),
    sa.Column("created", UtcDateTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_try", UtcDateTime, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # waiting, sent, failed
    sa.Column("problem", AnyText, nullable=False),
)
sa.Index("deliveries_waiting", deliveries.c.next_try, **_where("state = 'waiting'"))

# The texts that people read or agreed to, each version kept as it was shown.
documents = sa.Table(
    "documents",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # guidelines, consent
    sa.Column("version", sa.Integer, primary_key=True),  # counts from 1
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("text", AnyText, nullable=False),
    sa.Column("created", UtcDateTime, nullable=False),
)

readings = sa.Table(
    "readings",
    metadata,
    sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("created", UtcDateTime, nullable=False),
)

# Apart from the judgements, so that no export and no count can take them for labels.
training_answers = sa.Table(
    "training_answers",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), nullable=False),
    sa.Column("item_id", sa.Integer, sa.ForeignKey("items.id"), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("value", AnyText),  # NULL is a skip
    sa.Column("is_right", sa.Boolean, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("created", UtcDateTime, nullable=False),
    sa.Column("answers", AnyText),  # to the project's questions; NULL is none
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("annotator_id", "attempt", "item_id"),
)

withdrawals = sa.Table(
    "withdrawals",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("annotator", sa.Text, nullable=False),  # the name at the end: a deleted account has a new one
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("labels", sa.Text, nullable=False),  # kept, deleted
    sa.Column("judgements", sa.Integer, nullable=False),
    sa.Column("created", UtcDateTime, nullable=False),
)

# People who come from a panel. Their identifiers there are personal data and stand in no other table.
panelists = sa.Table(
    "panelists",
    metadata,
    sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), primary_key=True),
    sa.Column("person", sa.Text, nullable=False, unique=True),
    sa.Column("parameters", sa.JSON, nullable=False),
    sa.Column("screening", AnyText),  # the answers to the screening questions
    sa.Column("state", sa.Text, nullable=False),  # active, completed, screened out, full
    sa.Column("created", UtcDateTime, nullable=False),
    sa.Column("ended", UtcDateTime),
)

media = sa.Table(
    "media",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # the SHA-256 of the data
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("created", UtcDateTime, nullable=False),
)
