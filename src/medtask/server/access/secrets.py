"""Random secrets and their hashes, and passwords."""

from __future__ import annotations

import hashlib
import secrets
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from medtask.server.problems import NotValid

MIN_PASSWORD_CHARACTERS = 12
MAX_PASSWORD_CHARACTERS = 256


def make_token() -> str:
    """A random secret of 256 bits."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """The hash under which a random secret is stored; 256 bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def make_csrf_token(session_token: str) -> str:
    """The token that a page of this session sends with every request that changes something."""
    return hashlib.sha256(b"csrf:" + session_token.encode()).hexdigest()


@cache
def _get_hasher() -> PasswordHasher:
    # OWASP's minimum for argon2id is 19 MiB, 2 passes and 1 thread.
    return PasswordHasher(time_cost=2, memory_cost=32_768, parallelism=1)


@cache
def _get_unknown_hash() -> str:
    return _get_hasher().hash(make_token())


def hash_password(password: str) -> str:
    """The argon2id hash of a password.

    Raises:
        NotValid: The password is too short or too long.
    """
    if not MIN_PASSWORD_CHARACTERS <= len(password) <= MAX_PASSWORD_CHARACTERS:
        raise NotValid(
            f"a password has {MIN_PASSWORD_CHARACTERS} to {MAX_PASSWORD_CHARACTERS} characters",
            fix="choose several words",
        )
    return _get_hasher().hash(password)


def matches_password(password: str, password_hash: str | None) -> bool:
    """Whether a password is that of a hash; takes as long if there is no hash."""
    try:
        # The parameters of the hash decide the time, not whether an account exists.
        _get_hasher().verify(password_hash or _get_unknown_hash(), password)
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None


def needs_new_hash(password_hash: str) -> bool:
    """Whether a hash was made with older parameters."""
    return _get_hasher().check_needs_rehash(password_hash)
