"""Rendering of pages from templates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import ChoiceLoader, Environment, FileSystemLoader

from medtask.display import capitalise_first, format_bytes, format_duration
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.report.run_report import create_template_environment
from medtask.tables.cell_values import read_cell

PAGES_FOLDER = Path(__file__).parent / "pages"
STATIC_FOLDER = PAGES_FOLDER / "static"


@cache
def get_templates() -> Environment:
    """The environment of all page templates, with the macros of reports; values are escaped."""
    environment = create_template_environment()
    reports = environment.loader
    assert reports is not None
    environment.loader = ChoiceLoader([FileSystemLoader(PAGES_FOLDER / "templates"), reports])
    environment.filters.update(
        bytes=format_bytes,
        duration=format_duration,
        metric_title=get_metric_title,
        sentence=_end_sentence,
        moment=lambda at: f"{at:%-d %b %Y, %H:%M} UTC",
        clock=lambda at: f"{at:%H:%M:%S}",
        cell=lambda value: read_cell(value) or "",
    )
    return environment


def _end_sentence(text: object) -> str:
    """A message as a sentence, with a capital letter and a full stop."""
    sentence = capitalise_first(str(text).strip())
    return sentence if sentence.endswith((".", "?", "!", ":")) or not sentence else f"{sentence}."


def render_page(
    request: Request,
    name: str,
    values: Mapping[str, Any] | None = None,
    *,
    status_code: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """Render a template with the signed-in user and the request's CSRF token.

    Templates have ``user`` (None if nobody is signed in), ``csrf_token``, ``path``, and the values
    that the app's ``state.describe_user`` adds.
    """
    state = request.scope.get("state", {})
    user = state.get("user")
    text = (
        get_templates()
        .get_template(name)
        .render(
            {
                "user": user,
                **request.app.state.describe_user(user),
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
