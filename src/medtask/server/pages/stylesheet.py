"""The style sheet of all pages: colours, plots and content as in reports, then the layout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fastapi import APIRouter, Response

from medtask.evaluation import presentation
from medtask.server.rendering import STATIC_FOLDER

router = APIRouter(include_in_schema=False)


@router.get("/static/medtask.css")
def read_stylesheet() -> Response:
    """The style sheet."""
    return Response(_join_parts(), media_type="text/css")


@cache
def _join_parts() -> str:
    shared = Path(presentation.__path__[0])
    parts = (shared / "plots.css", shared / "content.css", STATIC_FOLDER / "pages.css")
    return "\n".join(part.read_text("utf-8") for part in parts)
