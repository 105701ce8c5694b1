"""Keep the order "age" in stores that are there already: from this revision on the default is "random".

A store that never set `next_item` went by age, and its items have no drawn scores. A new store has the new default.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Write the former default down, unless the store is being made or has set the order itself."""
    if context.config.attributes["is_new"]:
        return
    settings = sa.table("settings", sa.column("name", sa.Text), sa.column("value", sa.JSON))
    connection = op.get_bind()
    known = connection.execute(sa.select(settings.c.name).where(settings.c.name == "next_item")).first()
    if known is None:
        connection.execute(sa.insert(settings).values(name="next_item", value="age"))
