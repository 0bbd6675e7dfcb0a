"""The page of the API: its routes, to read and to try."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from medtask.server.access.requests import Viewer
from medtask.server.rendering import render_page

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def show_api(request: Request, user: Viewer) -> Response:
    """The routes of the API, from /openapi.json."""
    return render_page(request, "docs.html")
