"""Add the answers to a project's own questions, and the versions of what was asked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns and the table. What was judged before belongs to version 1, which had no questions."""
    op.add_column("judgements", sa.Column("answers", sa.JSON(none_as_null=True)))
    op.add_column("judgements", sa.Column("version", sa.Integer, nullable=False, server_default="1"))
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("asked", sa.JSON(none_as_null=True), nullable=False),
    )
