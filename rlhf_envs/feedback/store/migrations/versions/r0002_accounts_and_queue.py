"""Add accounts for the web page, and to each item the number of judgements that it still needs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the tables and columns. Compute what each item needs from its judgements."""
    op.add_column("annotators", sa.Column("password_hash", sa.Text))
    op.create_table(
        "invitations",
        sa.Column("token_hash", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used", sa.DateTime(timezone=True)),
    )
    op.add_column("items", sa.Column("needed", sa.Integer, nullable=False, server_default="0"))
    op.execute(
        "UPDATE items SET needed = overlap - (SELECT count(*) FROM judgements"
        " WHERE judgements.item_id = items.id AND NOT judgements.undone AND judgements.value IS NOT NULL)"
    )
    op.create_index(
        "items_in_queue",
        "items",
        [sa.text("priority DESC"), "id"],
        sqlite_where=sa.text("needed > 0"),
        postgresql_where=sa.text("needed > 0"),
    )
