"""Tables of accounts, sign-ins, API keys, one-time links and the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from medtask.server.database.base import Base, get_utc_now, make_id


class Account(Base):
    """An account of a person. Without a password hash nobody can sign in to it."""

    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column(primary_key=True, default=make_id)
    name: Mapped[str]
    name_key: Mapped[str] = mapped_column(unique=True)
    role: Mapped[int]
    password_hash: Mapped[str | None]
    disabled: Mapped[bool] = mapped_column(default=False)
    failed_sign_ins: Mapped[int] = mapped_column(default=0)
    locked_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=get_utc_now)


class SignIn(Base):
    """A browser that is signed in. The token itself is only in the browser's cookie."""

    __tablename__ = "sign_ins"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(default=get_utc_now)
    expires_at: Mapped[datetime]


class ApiKey(Base):
    """An API key. The secret is shown once, when the key is created."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True, default=make_id)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    secret_hash: Mapped[str]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(default=get_utc_now)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class OneTimeLink(Base):
    """A link with which a person chooses a password, once.

    Without an account it creates the first one, an administrator.
    """

    __tablename__ = "one_time_links"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str | None] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(default=get_utc_now)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class AuditEntry(Base):
    """One action, chained to the entry before it by its hash; see `access.audit_log`."""

    __tablename__ = "audit_entries"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    time: Mapped[str]
    actor: Mapped[str]
    role: Mapped[str]
    action: Mapped[str]
    object_id: Mapped[str]
    outcome: Mapped[str]
    address: Mapped[str]
    facts: Mapped[dict[str, Any]]
    previous_hash: Mapped[str]
    hash: Mapped[str]
