"""The links beside every page, by the role of the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medtask.server.access.roles import Role, User

# Titles of groups, and for each link its address, its name and the least role that may follow it.
_GROUPS: Sequence[tuple[str, Sequence[tuple[str, str, Role]]]] = (
    (
        "Answers",
        (
            ("/", "Start", Role.VIEWER),
            ("/ask", "Ask", Role.VIEWER),
            ("/reviews", "Review", Role.VIEWER),
        ),
    ),
    (
        "Work",
        (
            ("/tasks", "Tasks", Role.VIEWER),
            ("/datasets", "Data sets", Role.VIEWER),
            ("/models", "Models", Role.VIEWER),
            ("/runs", "Runs", Role.VIEWER),
            ("/leaderboard", "Leaderboard", Role.VIEWER),
        ),
    ),
    (
        "Server",
        (
            ("/jobs", "Jobs", Role.VIEWER),
            ("/accounts", "Accounts", Role.ADMIN),
            ("/account", "API keys", Role.VIEWER),
        ),
    ),
)


def describe_user(user: User | None) -> dict[str, Any]:
    """What every template knows of its user: ``navigation``, and whether a user ``may_train``."""
    return {
        "may_train": user is not None and user.role >= Role.TRAINER,
        "navigation": [] if user is None else _list_navigation(user),
    }


def _list_navigation(user: User) -> list[tuple[str, list[tuple[str, str]]]]:
    groups = (
        (title, [(address, name) for address, name, role in links if user.role >= role])
        for title, links in _GROUPS
    )
    return [(title, links) for title, links in groups if links]
