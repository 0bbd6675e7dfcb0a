"""Pages of accounts and API keys."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from medtask.server.access.requests import Admin, Viewer
from medtask.server.access.roles import ROLE_OF_SCOPE, Role, Scope
from medtask.server.api.accounts import list_accounts, list_keys
from medtask.server.database.connect import ReadSession
from medtask.server.rendering import render_page

router = APIRouter(include_in_schema=False)

_SCOPE_MEANINGS = {
    Scope.READ: "reads what is there",
    Scope.LABEL: "classifies and asks",
    Scope.REVIEW: "reviews rows",
    Scope.TRAIN: "uploads, runs and trains",
    Scope.ADMIN: "manages accounts",
}


@router.get("/account")
def show_account(request: Request, session: ReadSession, user: Viewer) -> Response:
    """The user's account and API keys."""
    scopes = [
        (scope.value, meaning)
        for scope, meaning in _SCOPE_MEANINGS.items()
        if ROLE_OF_SCOPE[scope] <= user.role
    ]
    values = {"keys": list_keys(session, user), "scopes": scopes}
    return render_page(request, "account.html", values)


@router.get("/accounts")
def show_accounts(request: Request, session: ReadSession, user: Admin) -> Response:
    """All accounts, for administrators."""
    values = {
        "accounts": list_accounts(session, user),
        "roles": [role.label for role in Role],
    }
    return render_page(request, "accounts.html", values)
