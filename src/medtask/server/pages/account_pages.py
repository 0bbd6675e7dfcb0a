"""Pages of accounts and API keys, and the page of the API."""

from __future__ import annotations

from fastapi import APIRouter, Response

from medtask.server.access.roles import ROLE_OF_SCOPE, Role, Scope
from medtask.server.api.accounts import list_accounts, list_keys
from medtask.server.api.calls import AdminReads, ViewerReads

router = APIRouter(include_in_schema=False)

_SCOPE_MEANINGS = {
    Scope.READ: "sees tasks, data sets, models and runs",
    Scope.LABEL: "classifies and asks",
    Scope.REVIEW: "reviews rows",
    Scope.TRAIN: "uploads, runs and trains",
    Scope.ADMIN: "manages accounts",
}


@router.get("/account")
def show_account(call: ViewerReads) -> Response:
    """The user's account and API keys."""
    scopes = [
        (scope.value, meaning)
        for scope, meaning in _SCOPE_MEANINGS.items()
        if ROLE_OF_SCOPE[scope] <= call.user.role
    ]
    return call.render("account.html", {"keys": list_keys(call), "scopes": scopes})


@router.get("/accounts")
def show_accounts(call: AdminReads) -> Response:
    """All accounts, for administrators."""
    roles = [role.label for role in Role]
    return call.render("accounts.html", {"accounts": list_accounts(call), "roles": roles})


@router.get("/docs")
def show_api(call: ViewerReads) -> Response:
    """The routes of the API, from /openapi.json, to read and to try."""
    return call.render("docs.html")
