"""Add sessions that can be ended, accounts that can be switched off, and links that reset a password.

The indexes let what an annotator left behind on an item be found and deleted, see `Queue.lend`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table, the columns and the indexes. Whoever was signed in signs in again."""
    op.add_column("annotators", sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()))
    op.add_column("invitations", sa.Column("annotator_id", sa.Integer))
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.Text, primary_key=True),
        sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), nullable=False),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("sessions_of_annotator", "sessions", ["annotator_id"])
    op.create_index("tasks_of_annotator", "tasks", ["annotator_id", "item_id"])
    op.create_index("judgements_of_task", "judgements", ["task_id"])
