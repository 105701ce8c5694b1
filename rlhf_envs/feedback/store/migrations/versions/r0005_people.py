"""Add what is kept about people: what they read, their training, withdrawals, and who comes from a panel."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the tables and columns. Gold questions with an explanation become items of the training."""
    op.add_column("items", sa.Column("training", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("judgements", sa.Column("withdrawn", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("annotators", sa.Column("admitted", sa.DateTime(timezone=True)))
    op.add_column("annotators", sa.Column("failed", sa.DateTime(timezone=True)))
    op.add_column("annotators", sa.Column("withdrawn", sa.DateTime(timezone=True)))
    op.create_index(
        "items_of_training",
        "items",
        ["id"],
        sqlite_where=sa.text("training"),
        postgresql_where=sa.text("training"),
    )
    op.create_table(
        "documents",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("text", sa.JSON, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "readings",
        sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "training_answers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), nullable=False),
        sa.Column("item_id", sa.Integer, sa.ForeignKey("items.id"), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("value", sa.JSON),
        sa.Column("is_right", sa.Boolean, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("annotator_id", "attempt", "item_id"),
    )
    op.create_table(
        "withdrawals",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("annotator", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("judgements", sa.Integer, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "panelists",
        sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), primary_key=True),
        sa.Column("person", sa.Text, nullable=False, unique=True),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("screening", sa.JSON),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended", sa.DateTime(timezone=True)),
    )
    _mark_training()


def _mark_training() -> None:
    connection = op.get_bind()
    found = connection.execute(sa.text("SELECT id, meta FROM items WHERE gold IS NOT NULL")).all()
    for row in found:
        meta = json.loads(row.meta) if isinstance(row.meta, str) else row.meta  # SQLite has JSON as text
        explanation = meta.get("explanation") if isinstance(meta, dict) else None
        if isinstance(explanation, str) and explanation.strip():
            connection.execute(sa.text("UPDATE items SET training = true WHERE id = :id"), {"id": row.id})
