"""Add what the admin's pages need: searchable texts, dropped judgements, the audit, adjudications and webhooks."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from rlhf_envs.feedback.store.searching import fold_item, fold_judgement, vote_of

revision = "0006"
down_revision = "0005"

_ROWS = 500  # read at a time, since texts are long


def upgrade() -> None:
    """Add columns and tables. Fold the texts that are there."""
    op.add_column("items", sa.Column("search", sa.Text, nullable=False, server_default=""))
    op.add_column("items", sa.Column("withdrawn", sa.Integer))
    op.add_column("items", sa.Column("difficulty", sa.Float))
    op.add_column("judgements", sa.Column("dropped", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("judgements", sa.Column("vote", sa.Text))
    op.add_column("judgements", sa.Column("search", sa.Text, nullable=False, server_default=""))
    dropped: dict[str, Any] = {"sqlite_where": sa.text("dropped"), "postgresql_where": sa.text("dropped")}
    op.create_index("dropped_judgements", "judgements", ["item_id", "annotator_id"], **dropped)
    stand: dict[str, Any] = {"sqlite_where": sa.text("NOT undone"), "postgresql_where": sa.text("NOT undone")}
    op.create_index("votes_of_item", "judgements", ["item_id", "vote"], **stand)
    _fold()
    json = sa.JSON(none_as_null=True)
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("item_id", sa.Integer),
        sa.Column("judgement_id", sa.Integer),
        sa.Column("annotator", sa.Text),
        sa.Column("before", json),
        sa.Column("after", json),
        sa.Column("reason", json, nullable=False),
    )
    op.create_index("audit_of_judgement", "audit", ["judgement_id"])
    op.create_index("audit_of_item", "audit", ["item_id"])
    op.create_table(
        "adjudications",
        sa.Column("item_id", sa.Integer, sa.ForeignKey("items.id"), primary_key=True, autoincrement=False),
        sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), nullable=False),
        sa.Column("value", json, nullable=False),
        sa.Column("comment", json, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("payload", json, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_try", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("problem", json, nullable=False),
    )
    waiting: dict[str, Any] = {
        "sqlite_where": sa.text("state = 'waiting'"),
        "postgresql_where": sa.text("state = 'waiting'"),
    }
    op.create_index("deliveries_waiting", "deliveries", ["next_try"], **waiting)


def _fold() -> None:
    json = sa.JSON(none_as_null=True)
    texts = [sa.column(name, json) for name in ("prompt", "completions", "source", "policy")]
    items = sa.table("items", sa.column("id", sa.Integer), *texts, sa.column("search", sa.Text))
    answers = [sa.column(name, json) for name in ("value", "comment")]
    made = [sa.column(name, sa.Text) for name in ("search", "vote")]
    judgements = sa.table("judgements", sa.column("id", sa.Integer), *answers, *made)
    connection = op.get_bind()
    for table in (items, judgements):
        last = 0
        while (
            rows := connection.execute(sa.select(table).where(table.c.id > last).order_by(table.c.id).limit(_ROWS))
            .mappings()
            .all()
        ):
            last = rows[-1]["id"]
            if table is items:
                values = [{"row": row["id"], "text": fold_item(dict(row))} for row in rows]
                change = sa.update(items).values(search=sa.bindparam("text"))
            else:
                values = [
                    {"row": row["id"], "text": fold_judgement(dict(row)), "is": vote_of(dict(row))} for row in rows
                ]
                change = sa.update(judgements).values(search=sa.bindparam("text"), vote=sa.bindparam("is"))
            connection.execute(change.where(table.c.id == sa.bindparam("row")), values)
