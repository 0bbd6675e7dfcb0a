"""Accounts, one-time links, signing in and out."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from medtask.display import format_duration, quote
from medtask.server.access.roles import Role, User
from medtask.server.access.secrets import (
    hash_password,
    hash_token,
    make_token,
    matches_password,
    needs_new_hash,
)
from medtask.server.access.tables import Account, OneTimeLink, SignIn
from medtask.server.database.base import get_utc_now
from medtask.server.database.connect import Database
from medtask.server.problems import Conflict, NotFound, NotSignedIn, NotValid, TooManyRequests

MAX_NAME_CHARACTERS = 80
LINK_HOURS = 24
# After so many wrong passwords each further one doubles the time until the next attempt.
_FREE_ATTEMPTS = 5
_MAX_LOCK_S = 900


def create_account(session: Session, name: str, role: Role) -> Account:
    """Create an account without a password; `create_link` gives its owner a way to choose one.

    Raises:
        Conflict: There is an account with this name.
        NotValid: The name is empty or too long.
    """
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isprintable():
        raise NotValid(
            f"a name has 1 to {MAX_NAME_CHARACTERS} printable characters",
            fix="choose another name",
        )
    taken = Conflict(f"there is an account {quote(name)}", fix="choose another name")
    if find_account(session, name) is not None:
        raise taken
    account = Account(name=name, name_key=_make_name_key(name), role=int(role))
    session.add(account)
    try:
        session.flush()
    except IntegrityError:  # another transaction has created it meanwhile
        raise taken from None
    return account


def _make_name_key(name: str) -> str:
    """Names that look the same have the same key, such as an accent typed as a character."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name.strip()).casefold())


def find_account(session: Session, name: str) -> Account | None:
    # Accounts of older versions have keys that are not in a normal form.
    keys = {_make_name_key(name), name.strip().casefold()}
    return session.scalars(select(Account).where(Account.name_key.in_(keys))).first()


def get_account(session: Session, account_id: str) -> Account:
    """The account with an id.

    Raises:
        NotFound: There is none.
    """
    account = session.get(Account, account_id)
    if account is None:
        raise NotFound("there is no such account", fix="list the accounts: GET /api/accounts")
    return account


def list_accounts(session: Session) -> Sequence[Account]:
    return session.scalars(select(Account).order_by(Account.name_key)).all()


def change_account(
    session: Session, account: Account, *, role: Role | None = None, disabled: bool | None = None
) -> None:
    """Change the role of an account, or disable it; its browsers are signed out.

    Raises:
        Conflict: There would be no administrator.
    """
    loses_admin = (role is not None and role < Role.ADMIN) or disabled
    if loses_admin and account.role == Role.ADMIN and not account.disabled:
        others = session.scalar(
            select(func.count())
            .select_from(Account)
            .where(
                Account.role == Role.ADMIN, Account.disabled.is_(False), Account.id != account.id
            )
        )
        if not others:
            raise Conflict(
                "this is the only administrator", fix="make another account an administrator first"
            )
    if role is not None:
        account.role = int(role)
    if disabled is not None:
        account.disabled = disabled
    session.execute(delete(SignIn).where(SignIn.account_id == account.id))


def has_accounts(session: Session) -> bool:
    """Whether somebody has an account with a password."""
    return (
        session.scalar(select(Account.id).where(Account.password_hash.is_not(None)).limit(1))
        is not None
    )


def create_link(session: Session, account: Account | None) -> str:
    """Create a one-time link; returns its token. Earlier links of the account become invalid."""
    token = make_token()
    owner = None if account is None else account.id
    session.execute(delete(OneTimeLink).where(OneTimeLink.account_id == owner))
    expires = get_utc_now() + timedelta(hours=LINK_HOURS)
    session.add(OneTimeLink(token_hash=hash_token(token), account_id=owner, expires_at=expires))
    return token


def find_link(session: Session, token: str) -> OneTimeLink:
    """The valid link with a token.

    Raises:
        NotFound: The link does not exist, was used, or has expired.
    """
    link = session.get(OneTimeLink, hash_token(token))
    if link is None or link.used_at is not None or link.expires_at < get_utc_now():
        raise NotFound(
            "this link was used before, or has expired",
            fix="ask an administrator for another one; without an account, restart the server",
        )
    return link


def use_link(session: Session, token: str, name: str, password: str) -> Account:
    """Set the password of a link's account; a link without one creates the first administrator."""
    link = find_link(session, token)
    if link.account_id is None:
        if has_accounts(session):
            raise NotFound("the first account exists", fix="sign in with it")
        account = find_account(session, name) or create_account(session, name, Role.ADMIN)
    else:
        account = get_account(session, link.account_id)
    account.password_hash = hash_password(password)
    account.failed_sign_ins, account.locked_until = 0, None
    link.used_at = get_utc_now()
    session.execute(delete(SignIn).where(SignIn.account_id == account.id))
    return account


def authenticate(database: Database, name: str, password: str) -> Account | None:
    """The account with this name and password, or None; counts wrong passwords.

    The password is hashed outside of a transaction, because that takes a tenth of a second.

    Raises:
        TooManyRequests: The account is locked after wrong passwords.
    """
    with database.read() as session:
        known = find_account(session, name)
        if known is not None:
            _check_lock(known)
    matches = matches_password(password, None if known is None else known.password_hash)
    if known is None or known.disabled:
        return None
    with database.write() as session:
        account = get_account(session, known.id)
        if not matches or account.disabled or account.password_hash != known.password_hash:
            _count_failure(account, get_utc_now())
            return None
        account.failed_sign_ins, account.locked_until = 0, None
        if account.password_hash is not None and needs_new_hash(account.password_hash):
            account.password_hash = hash_password(password)
        return account


def _check_lock(account: Account) -> None:
    now = get_utc_now()
    if account.locked_until is None or account.locked_until <= now:
        return
    seconds = max(1, round((account.locked_until - now).total_seconds()))
    raise TooManyRequests(
        "too many wrong passwords for this account",
        fix=f"wait {format_duration(seconds)}",
        retry_after_s=seconds,
    )


def _count_failure(account: Account, now: datetime) -> None:
    account.failed_sign_ins += 1
    beyond = account.failed_sign_ins - _FREE_ATTEMPTS
    if beyond >= 0:
        account.locked_until = now + timedelta(seconds=min(_MAX_LOCK_S, 2 ** min(beyond, 20)))


def sign_in(session: Session, account: Account, hours: float) -> str:
    """Sign a browser in; returns the token for its cookie. Deletes sign-ins that have expired."""
    now = get_utc_now()
    token = make_token()
    session.execute(delete(SignIn).where(SignIn.expires_at < now))
    expires = now + timedelta(hours=hours)
    session.add(SignIn(token_hash=hash_token(token), account_id=account.id, expires_at=expires))
    return token


def sign_out(session: Session, token: str) -> None:
    session.execute(delete(SignIn).where(SignIn.token_hash == hash_token(token)))


def find_signed_in_user(session: Session, token: str) -> User:
    """The user of a session token.

    Raises:
        NotSignedIn: The token is not valid any more.
    """
    found = session.execute(
        select(Account, SignIn.expires_at)
        .join(SignIn, SignIn.account_id == Account.id)
        .where(SignIn.token_hash == hash_token(token))
    ).first()
    if found is None or found[1] < get_utc_now() or found[0].disabled:
        raise NotSignedIn("the session has ended", fix="sign in again")
    account: Account = found[0]
    return User(account.id, account.name, Role(account.role))
