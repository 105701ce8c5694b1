"""Run Alembic's migrations over the connection, and in the transaction, that `Database` hands in."""

from __future__ import annotations

from alembic import context

from rlhf_envs.feedback.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
