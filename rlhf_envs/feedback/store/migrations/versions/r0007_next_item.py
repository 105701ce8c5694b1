"""Add what decides which item comes next, overlap that adapts, and suggestions of models.

`items.score` is the policy's, below `priority`, which stays the admin's. `items.max_overlap` is null where the overlap
is fixed. `judgements.had_seen` says that the annotator knew a suggestion when they answered.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_QUEUED = sa.text("needed > 0")


def upgrade() -> None:
    """Add the columns and the table, and let the index of the queue order by the score too."""
    op.add_column("items", sa.Column("max_overlap", sa.Integer))
    op.add_column("items", sa.Column("score", sa.Float, nullable=False, server_default="0"))
    op.add_column("judgements", sa.Column("had_seen", sa.Boolean, nullable=False, server_default=sa.false()))
    op.drop_index("items_in_queue", "items")
    order = [sa.text("priority DESC"), sa.text("score DESC"), "id"]
    op.create_index("items_in_queue", "items", order, sqlite_where=_QUEUED, postgresql_where=_QUEUED)
    op.create_table(
        "suggestions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("item_id", sa.Integer, sa.ForeignKey("items.id"), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("one_suggestion_a_source", "suggestions", ["item_id", "source", "version"], unique=True)
