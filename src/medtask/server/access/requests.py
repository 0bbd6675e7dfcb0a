"""The user of a request, and the role or scope that a route requires."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Request

from medtask.server.access.roles import SCOPE_OF_ROLE, Role, Scope, User
from medtask.server.problems import NotPermitted, NotSignedIn

REQUIREMENT = "medtask_requirement"


def require(role: Role, scope: Scope | None = None) -> Callable[[Request], Awaitable[User]]:
    """A dependency that returns the user, who needs a role, and a scope if a key is used.

    Args:
        role: The least role of the user.
        scope: The scope of the API key; default: that of the role.

    Raises:
        NotSignedIn: By the dependency, if there is no valid session and no valid key.
        NotPermitted: By the dependency, if the role or the scopes are not enough.
    """

    async def check_user(request: Request) -> User:
        user = get_user(request)
        if user is None:
            raise NotSignedIn("this needs an account", fix="sign in, or send an API key")
        if user.role < role:
            raise NotPermitted(
                f"this needs the role {role.label}; yours is {user.role.label}",
                fix="ask an administrator for the role",
            )
        if not user.may(role, scope):
            raise NotPermitted(
                f"this needs a key with the scope {scope or SCOPE_OF_ROLE[role]}",
                fix="create a key with this scope",
            )
        return user

    setattr(check_user, REQUIREMENT, (role, scope or SCOPE_OF_ROLE[role]))
    return check_user


def get_user(request: Request) -> User | None:
    """The user whom the access guard found for a request."""
    state: dict[str, Any] = request.scope.get("state", {})
    return state.get("user")


def get_address(request: Request) -> str:
    """The IP address of the client; that which a proxy reports if one is configured."""
    return request.client.host if request.client else ""


Viewer = Annotated[User, Depends(require(Role.VIEWER))]
Labeller = Annotated[User, Depends(require(Role.VIEWER, Scope.LABEL))]
Reviewer = Annotated[User, Depends(require(Role.REVIEWER))]
Trainer = Annotated[User, Depends(require(Role.TRAINER))]
