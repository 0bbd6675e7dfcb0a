"""API keys: random secrets with scopes, shown once and stored as a hash."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection, Sequence
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from medtask.server.access.roles import ROLE_OF_SCOPE, Role, Scope, User
from medtask.server.access.secrets import hash_token, make_token
from medtask.server.access.tables import Account, ApiKey
from medtask.server.database.base import get_utc_now
from medtask.server.problems import NotFound, NotPermitted, NotSignedIn

KEY_MARK = "mtk"


def create_key(
    session: Session,
    user: User,
    name: str,
    scopes: Collection[Scope],
    *,
    days: float | None = None,
) -> tuple[ApiKey, str]:
    """Create a key; returns it with the secret text, which cannot be read again.

    Args:
        session: A transaction that writes.
        user: The owner.
        name: What the owner uses it for.
        scopes: What the key may be used for.
        days: Time until the key expires; None: never.

    Raises:
        NotPermitted: A scope needs a higher role, or is not a scope of the key of the request.
    """
    beyond = sorted(scope for scope in scopes if not user.may(ROLE_OF_SCOPE[scope], scope))
    if beyond:
        raise NotPermitted(
            f"you may not create a key with: {', '.join(beyond)}",
            fix="leave these scopes out, or ask an administrator for the role",
        )
    prefix, secret = secrets.token_hex(6), make_token()
    key = ApiKey(
        account_id=user.id,
        name=name,
        prefix=prefix,
        secret_hash=hash_token(secret),
        scopes=sorted(set(scopes)),
        expires_at=None if days is None else get_utc_now() + timedelta(days=days),
    )
    session.add(key)
    session.flush()
    return key, f"{KEY_MARK}_{prefix}_{secret}"


def list_keys(session: Session, account_id: str) -> Sequence[ApiKey]:
    return session.scalars(
        select(ApiKey).where(ApiKey.account_id == account_id).order_by(ApiKey.created_at)
    ).all()


def revoke_key(session: Session, account_id: str, key_id: str) -> ApiKey:
    """Revoke a key of an account; requests with it are refused from then on.

    Raises:
        NotFound: The account has no such key.
    """
    key = session.get(ApiKey, key_id)
    if key is None or key.account_id != account_id:
        raise NotFound("there is no such key", fix="list your keys: GET /api/keys")
    key.revoked_at = key.revoked_at or get_utc_now()
    return key


def mark_key_as_used(session: Session, key_id: str) -> None:
    """Set the time of a key's last use."""
    key = session.get(ApiKey, key_id)
    if key is not None:
        key.last_used_at = get_utc_now()


def find_user_of_key(session: Session, text: str) -> User:
    """The owner of a key, with the key's scopes.

    Raises:
        NotSignedIn: The key does not exist, was revoked, or has expired.
    """
    problem = NotSignedIn(
        "the API key is not valid, was revoked, or has expired",
        fix="create a key on the page of your account, and send it as: Authorization: Bearer KEY",
    )
    mark, _, rest = text.partition("_")
    prefix, _, secret = rest.partition("_")
    if mark != KEY_MARK or not secret:
        raise problem
    found = session.execute(
        select(ApiKey, Account).join(Account).where(ApiKey.prefix == prefix)
    ).first()
    key = None if found is None else found[0]
    # The comparison is made for unknown prefixes too, and takes the same time for every secret.
    expected = hash_token("") if key is None else key.secret_hash
    same = hmac.compare_digest(expected, hash_token(secret))
    if found is None or key is None or not same or found[1].disabled:
        raise problem
    now = get_utc_now()
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at < now):
        raise problem
    account: Account = found[1]
    scopes = frozenset(Scope(scope) for scope in key.scopes)
    return User(account.id, account.name, Role(account.role), scopes, key.id)
