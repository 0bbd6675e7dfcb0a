"""Run by alembic: migrates over the connection and in the transaction of the caller."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from medtask.server.database.base import Base, UtcDateTime


def render_type(kind: str, column_type: Any, context: AutogenContext) -> str | Literal[False]:
    """Write our own type of times by its name; others as alembic writes them."""
    return "UtcDateTime()" if kind == "type" and isinstance(column_type, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes a column by copying its table
    transactional_ddl=True,
    render_item=render_type,
)
with context.begin_transaction():
    context.run_migrations()
