"""The page on which a question is asked, and answered word by word."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from medtask.engines.files.model_files import BUILT_IN_MODEL
from medtask.server.access.requests import Labeller
from medtask.server.rendering import render_page

router = APIRouter(include_in_schema=False)


@router.get("/ask")
def show_ask(request: Request, user: Labeller) -> Response:
    """The form of a question. Its answer is that of POST /ask."""
    return render_page(request, "ask.html", {"default_model": BUILT_IN_MODEL})
