"""Add explanations of a reward model's scores, and who could look at one before they answered.

`tasks.explained` is "withheld" (by lot), "offered" or "seen", and null where there was none; `judgements.explained` is
what it was when the answer came.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the columns and the table."""
    for table in ("tasks", "judgements"):
        op.add_column(table, sa.Column("explained", sa.Text))
    op.create_table(
        "explanations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("item_id", sa.Integer, sa.ForeignKey("items.id"), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("scores", sa.JSON, nullable=False),
        sa.Column("marks", sa.JSON),
        sa.Column("value", sa.JSON),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("one_explanation_a_source", "explanations", ["item_id", "source", "version"], unique=True)
