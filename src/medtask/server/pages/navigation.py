"""The links beside every page, by the role of the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medtask.server.access.roles import Role, User

# Titles of groups, and the address and the name of each link.
_GROUPS: Mapping[str, Mapping[str, str]] = {
    "Answers": {"/": "Start", "/ask": "Ask", "/reviews": "Review"},
    "Work": {
        "/tasks": "Tasks",
        "/datasets": "Data sets",
        "/models": "Models",
        "/runs": "Runs",
        "/leaderboard": "Leaderboard",
    },
    "Server": {"/jobs": "Jobs", "/accounts": "Accounts", "/account": "API keys"},
}
_FOR_ADMINISTRATORS = "/accounts"


def describe_user(user: User | None) -> dict[str, Any]:
    """What every template knows of its user: ``navigation``, and whether a user ``may_train``."""
    return {
        "may_train": user is not None and user.role >= Role.TRAINER,
        "navigation": [] if user is None else _list_navigation(user),
    }


def _list_navigation(user: User) -> list[tuple[str, list[tuple[str, str]]]]:
    hidden = "" if user.role >= Role.ADMIN else _FOR_ADMINISTRATORS
    return [
        (title, [link for link in links.items() if link[0] != hidden])
        for title, links in _GROUPS.items()
    ]
