"""Roles of users and scopes of API keys."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Role(IntEnum):
    """What a user may do; each role includes those before it."""

    VIEWER = 1
    REVIEWER = 2
    TRAINER = 3
    ADMIN = 4

    @property
    def label(self) -> str:
        return self.name.lower()


class Scope(StrEnum):
    """What an API key may be used for, within the role of its owner."""

    READ = "read"
    LABEL = "label"
    REVIEW = "review"
    TRAIN = "train"
    ADMIN = "admin"


SCOPE_OF_ROLE = {
    Role.VIEWER: Scope.READ,
    Role.REVIEWER: Scope.REVIEW,
    Role.TRAINER: Scope.TRAIN,
    Role.ADMIN: Scope.ADMIN,
}
ROLE_OF_SCOPE = {
    Scope.READ: Role.VIEWER,
    Scope.LABEL: Role.VIEWER,
    Scope.REVIEW: Role.REVIEWER,
    Scope.TRAIN: Role.TRAINER,
    Scope.ADMIN: Role.ADMIN,
}


@dataclass(frozen=True, slots=True)
class User:
    """The user of a request.

    Attributes:
        scopes: Scopes of the API key of the request; all scopes for a signed-in browser.
        key_id: The API key of the request, or None.
    """

    id: str
    name: str
    role: Role
    scopes: frozenset[Scope] = frozenset(Scope)
    key_id: str | None = None

    def may(self, role: Role, scope: Scope | None = None) -> bool:
        """Whether the user has at least this role, and the key of the request this scope."""
        return self.role >= role and (scope or SCOPE_OF_ROLE[role]) in self.scopes
