"""Rendering of pages from templates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medtask.display import format_bytes, format_count, format_duration, format_percent

PAGES_FOLDER = Path(__file__).parent / "pages"
STATIC_FOLDER = PAGES_FOLDER / "static"


@cache
def get_templates() -> Environment:
    """The environment of all page templates; every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(PAGES_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bytes=format_bytes, count=format_count, duration=format_duration, percent=format_percent
    )
    return environment


def render_page(
    request: Request,
    name: str,
    values: Mapping[str, Any] | None = None,
    *,
    status_code: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """Render a template with the signed-in user and the request's CSRF token.

    Templates have ``user`` (None if nobody is signed in), ``csrf_token`` and ``path``.
    """
    state = request.scope.get("state", {})
    text = (
        get_templates()
        .get_template(name)
        .render(
            {
                "user": state.get("user"),
                "csrf_token": state.get("csrf_token", ""),
                "path": request.url.path,
                **(values or {}),
            }
        )
    )
    return HTMLResponse(text, status_code, dict(headers or {}))


def prefers_page(request: Request) -> bool:
    """Whether a request is a browser's navigation, which is answered with pages."""
    return "text/html" in request.headers.get("accept", "")
