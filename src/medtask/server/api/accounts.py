"""Routes of accounts and API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from medtask.server.access import accounts, api_keys
from medtask.server.access.roles import Role, Scope
from medtask.server.access.tables import Account, ApiKey
from medtask.server.api.calls import AdminReads, AdminWrites, UserCall, ViewerReads, ViewerWrites

router = APIRouter(prefix="/api", tags=["accounts"])

RoleName = Literal["viewer", "reviewer", "trainer", "admin"]


class AccountView(BaseModel):
    """An account."""

    id: str
    name: str
    role: str
    disabled: bool
    has_password: bool
    created_at: datetime


class NewAccount(BaseModel):
    """An account to create."""

    name: str = Field(min_length=1, max_length=accounts.MAX_NAME_CHARACTERS)
    role: RoleName


class AccountChange(BaseModel):
    """What to change of an account."""

    role: RoleName | None = None
    disabled: bool | None = None


class Invitation(BaseModel):
    """A path of this server with which a person chooses a password, once."""

    account: AccountView
    path: str


class KeyView(BaseModel):
    """An API key without its secret."""

    id: str
    name: str
    prefix: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked: bool


class NewKey(BaseModel):
    """An API key to create."""

    name: str = Field(min_length=1, max_length=80)
    scopes: list[Scope] = Field(min_length=1)
    days: float | None = Field(default=90, gt=0, le=3650)


class CreatedKey(BaseModel):
    """An API key; ``secret`` cannot be read again."""

    key: KeyView
    secret: str


@router.get("/me")
def read_own_account(call: ViewerReads) -> AccountView:
    """The account of the request."""
    return _describe_account(accounts.get_account(call.session, call.user.id))


@router.get("/accounts")
def list_accounts(call: AdminReads) -> list[AccountView]:
    """All accounts."""
    return [_describe_account(account) for account in accounts.list_accounts(call.session)]


@router.post("/accounts", status_code=201)
def create_account(call: AdminWrites, new: NewAccount) -> Invitation:
    """Create an account; its owner chooses a password with the returned link."""
    account = accounts.create_account(call.session, new.name, Role[new.role.upper()])
    return _invite(call, "account.create", account)


@router.post("/accounts/{account_id}/link")
def renew_link(call: AdminWrites, account_id: str) -> Invitation:
    """Create another link for an account: for a forgotten password."""
    return _invite(call, "account.link", accounts.get_account(call.session, account_id))


@router.patch("/accounts/{account_id}")
def change_account(call: AdminWrites, account_id: str, change: AccountChange) -> AccountView:
    """Change the role of an account, or disable it; its browsers are signed out."""
    account = accounts.get_account(call.session, account_id)
    role = None if change.role is None else Role[change.role.upper()]
    accounts.change_account(call.session, account, role=role, disabled=change.disabled)
    call.record("account.change", account.id)
    return _describe_account(account)


@router.get("/keys")
def list_keys(call: ViewerReads) -> list[KeyView]:
    """The API keys of the account."""
    return [_describe_key(key) for key in api_keys.list_keys(call.session, call.user.id)]


@router.post("/keys", status_code=201)
def create_key(call: ViewerWrites, new: NewKey) -> CreatedKey:
    """Create an API key for the account."""
    key, secret = api_keys.create_key(call.session, call.user, new.name, new.scopes, days=new.days)
    call.record("key.create", key.id)
    return CreatedKey(key=_describe_key(key), secret=secret)


@router.delete("/keys/{key_id}")
def revoke_key(call: ViewerWrites, key_id: str) -> KeyView:
    """Revoke an API key of the account."""
    key = api_keys.revoke_key(call.session, call.user.id, key_id)
    call.record("key.revoke", key.id)
    return _describe_key(key)


def _invite(call: UserCall, action: str, account: Account) -> Invitation:
    call.record(action, account.id)
    token = accounts.create_link(call.session, account)
    return Invitation(account=_describe_account(account), path=f"/start/{token}")


def _describe_account(account: Account) -> AccountView:
    return AccountView(
        id=account.id,
        name=account.name,
        role=Role(account.role).label,
        disabled=account.disabled,
        has_password=account.password_hash is not None,
        created_at=account.created_at,
    )


def _describe_key(key: ApiKey) -> KeyView:
    return KeyView(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        scopes=[Scope(scope) for scope in key.scopes],
        created_at=key.created_at,
        expires_at=key.expires_at,
        last_used_at=key.last_used_at,
        revoked=key.revoked_at is not None,
    )
