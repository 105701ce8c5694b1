"""Add the answers to the project's own questions to final answers and to answers of the training."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns. What was answered before has none, and counts as of version 1, which asked what it answers."""
    for table in ("adjudications", "training_answers"):
        op.add_column(table, sa.Column("answers", sa.JSON))
        op.add_column(table, sa.Column("version", sa.Integer, nullable=False, server_default="1"))
