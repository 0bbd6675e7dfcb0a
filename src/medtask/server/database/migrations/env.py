"""Run by alembic: migrates over the connection and in the transaction of the caller."""

from __future__ import annotations

from alembic import context

from medtask.server.database.base import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes a column by copying its table
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
