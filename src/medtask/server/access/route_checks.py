"""What the routes of the application require; a route that requires nothing must be public."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from medtask.server.access.guard import is_public
from medtask.server.access.requests import REQUIREMENT
from medtask.server.access.roles import Role, Scope

# Answered to everyone who is signed in.
_WITHOUT_ROLE = frozenset({"/openapi.json"})


@dataclass(frozen=True, slots=True)
class RouteAccess:
    """A route, and what its `require` demands; None without it."""

    path: str
    methods: frozenset[str]
    requirement: tuple[Role, Scope] | None


def list_route_access(app: FastAPI) -> list[RouteAccess]:
    """All routes of an application, static files included."""
    return [
        RouteAccess(
            context.path or "",
            frozenset(context.methods or {"GET"}) - {"HEAD", "OPTIONS"},
            next(_find_requirements(getattr(context, "dependant", None)), None),
        )
        for context in iter_route_contexts(app.routes)
    ]


def check_routes(app: FastAPI) -> None:
    """Check that every route that is not public says who may use it.

    Raises:
        RuntimeError: A route does not.
    """
    for route in list_route_access(app):
        public = is_public(route.path) or is_public(f"{route.path}/")
        if route.requirement is None and not public and route.path not in _WITHOUT_ROLE:
            raise RuntimeError(f"the route {route.path} has no parameter with `require`")


def _find_requirements(dependant: Dependant | None) -> Iterator[tuple[Role, Scope]]:
    if dependant is None:
        return
    for dependency in dependant.dependencies:
        requirement = getattr(dependency.call, REQUIREMENT, None)
        if requirement is not None:
            yield requirement
        yield from _find_requirements(dependency)
