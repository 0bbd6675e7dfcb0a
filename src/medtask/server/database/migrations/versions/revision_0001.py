"""Migration: the tables of the first version."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from medtask.server.database.base import UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables. Constraints and indexes get the names of `Base.metadata`."""
    _create_access_tables()
    _create_job_tables()
    _create_stored_tables()
    _create_review_tables()


def _create_access_tables() -> None:
    op.create_table(
        "accounts",
        _text("id", primary_key=True),
        _text("name"),
        _text("name_key", unique=True),
        _integer("role"),
        _text("password_hash", nullable=True),
        _boolean("disabled"),
        _integer("failed_sign_ins"),
        _time("locked_until", nullable=True),
        _time("created_at"),
    )
    op.create_table(
        "sign_ins",
        _text("token_hash", primary_key=True),
        _text("account_id", refers_to="accounts.id"),
        _time("created_at"),
        _time("expires_at"),
    )
    op.create_table(
        "api_keys",
        _text("id", primary_key=True),
        _text("account_id", refers_to="accounts.id"),
        _text("name"),
        _text("prefix", unique=True),
        _text("secret_hash"),
        _json("scopes"),
        _time("created_at"),
        _time("expires_at", nullable=True),
        _time("revoked_at", nullable=True),
        _time("last_used_at", nullable=True),
    )
    op.create_table(
        "one_time_links",
        _text("token_hash", primary_key=True),
        _text("account_id", refers_to="accounts.id", nullable=True),
        _time("created_at"),
        _time("expires_at"),
        _time("used_at", nullable=True),
    )
    op.create_table(
        "audit_entries",
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        *map(_text, ("time", "actor", "role", "action", "object_id", "outcome", "address")),
        _json("facts"),
        _text("previous_hash"),
        _text("hash"),
    )


def _create_job_tables() -> None:
    op.create_table(
        "jobs",
        _integer("id", primary_key=True),
        _text("kind"),
        _json("parameters"),
        _text("state"),
        _text("created_by"),
        _time("created_at"),
        _time("started_at", nullable=True),
        _time("ended_at", nullable=True),
        _time("available_at"),
        _integer("token"),
        _text("worker"),
        _time("lease_until", nullable=True),
        _time("heartbeat_at", nullable=True),
        _integer("crashes"),
        _boolean("cancel_requested"),
        _json("progress", nullable=True),
        _json("result", nullable=True),
        _json("problem", nullable=True),
        sa.Index("ix_jobs_state_available_at", "state", "available_at"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "job_lines",
        _integer("id", primary_key=True),
        _integer("job_id", refers_to="jobs.id", index=True),
        _time("written_at"),
        _text("text"),
        sqlite_autoincrement=True,
    )


def _create_stored_tables() -> None:
    op.create_table(
        "datasets",
        _integer("id", primary_key=True),
        _text("name"),
        _text("file_name"),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        _text("sha256"),
        _integer("rows"),
        *map(_json, ("columns", "notes", "read_options")),
        *_list_author_columns(),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "tasks",
        _integer("id", primary_key=True),
        _text("name"),
        _text("kind"),
        _text("fingerprint"),
        *_list_author_columns(),
        _time("changed_at"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "models",
        _integer("id", primary_key=True),
        _text("name"),
        _integer("task_id", refers_to="tasks.id", on_delete=None, index=True),
        _integer_or_null("dataset_id", "datasets.id", index=True),
        _text("base"),
        _text("method"),
        _json("settings"),
        _integer_or_null("job_id", "jobs.id"),
        _boolean("is_trained"),
        _json("result", nullable=True),
        *_list_author_columns(),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "runs",
        _integer("id", primary_key=True),
        _text("name"),
        _integer("task_id", refers_to="tasks.id", on_delete=None, index=True),
        _integer_or_null("dataset_id", "datasets.id", index=True),
        _integer_or_null("model_id", "models.id", index=True),
        _text("model"),
        _json("settings"),
        _integer_or_null("job_id", "jobs.id"),
        _json("result", nullable=True),
        _json("evaluation", nullable=True),
        *_list_author_columns(),
        sqlite_autoincrement=True,
    )


def _create_review_tables() -> None:
    op.create_table(
        "review_queues",
        _integer("id", primary_key=True),
        _text("name"),
        _text("source"),
        *(_integer(name, nullable=True) for name in ("run_id", "dataset_id", "job_id")),
        _text("task_name"),
        *map(_json, ("task", "settings", "columns", "notes")),
        *_list_author_columns(),
        _time("closed_at", nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "review_items",
        _integer("id", primary_key=True),
        _integer("queue_id", refers_to="review_queues.id"),
        _integer("position"),
        _integer("cluster"),
        _text("text"),
        _json("options"),
        _text("group", nullable=True),
        _json("model", nullable=True),
        _integer("rows"),
        _integer("readers_wanted"),
        _text("state"),
        _integer("decided"),
        _json("final", nullable=True),
        sa.Index("ix_review_items_queue", "queue_id", "state", "position"),
    )
    op.create_table(
        "review_rows",
        _integer("id", primary_key=True),
        _integer("item_id", refers_to="review_items.id", index=True),
        _integer("number"),
        _text("record_id"),
        _json("fields"),
    )
    op.create_table(
        "review_assignments",
        _integer("id", primary_key=True),
        _integer("item_id", refers_to="review_items.id"),
        _text("reader_id", index=True),
        _text("reader_name"),
        _boolean("sees_model"),
        _time("expires_at"),
        sa.UniqueConstraint("item_id", "reader_id"),
    )
    op.create_table(
        "review_decisions",
        _integer("id", primary_key=True),
        _integer("item_id", refers_to="review_items.id"),
        _text("seat"),
        _integer("version"),
        _boolean("is_latest"),
        _text("reader_id", index=True),
        _text("reader_name"),
        _text("outcome"),
        _json("value", nullable=True),
        _text("comment"),
        _boolean("saw_model"),
        sa.Column("seconds", sa.Double(), nullable=True),
        _time("decided_at"),
        sa.UniqueConstraint("item_id", "seat", "version"),
    )
    op.create_table(
        "review_drafts",
        _integer("item_id", refers_to="review_items.id", primary_key=True),
        _text("reader_id", primary_key=True),
        _boolean("adjudicates", primary_key=True),
        _json("content"),
        _time("saved_at"),
    )
    op.create_table(
        "review_submissions",
        _text("reader_id", primary_key=True),
        _text("key", primary_key=True),
        _integer("queue_id", refers_to="review_queues.id"),
        _json("content"),
        _integer("status"),
        _json("response"),
        _time("received_at"),
    )


def _list_author_columns() -> tuple[sa.Column[Any], ...]:
    return _text("created_by"), _time("created_at")


def _text(name: str, **options: Any) -> sa.Column[Any]:
    return _column(name, sa.Text(), **options)


def _integer(name: str, **options: Any) -> sa.Column[Any]:
    return _column(name, sa.Integer(), **options)


def _integer_or_null(name: str, refers_to: str, *, index: bool = False) -> sa.Column[Any]:
    return _integer(name, refers_to=refers_to, on_delete="SET NULL", nullable=True, index=index)


def _boolean(name: str, **options: Any) -> sa.Column[Any]:
    return _column(name, sa.Boolean(), **options)


def _json(name: str, **options: Any) -> sa.Column[Any]:
    return _column(name, sa.JSON(), **options)


def _time(name: str, **options: Any) -> sa.Column[Any]:
    return _column(name, UtcDateTime(), **options)


def _column(
    name: str,
    column_type: Any,
    *,
    refers_to: str | None = None,
    on_delete: str | None = "CASCADE",
    **options: Any,
) -> sa.Column[Any]:
    keys = [] if refers_to is None else [sa.ForeignKey(refers_to, ondelete=on_delete)]
    return sa.Column(name, column_type, *keys, **{"nullable": False, **options})
