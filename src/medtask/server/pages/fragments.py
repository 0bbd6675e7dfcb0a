"""Parts of pages that replace themselves while a job runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response

from medtask.server.rendering import render_page


def render_fragment(
    request: Request, name: str, values: Mapping[str, Any], *, reloads: bool
) -> Response:
    """Render a part of a page.

    Args:
        reloads: Whether the browser loads the whole page again, because other parts of it have
            changed too.
    """
    headers = {"HX-Refresh": "true"} if reloads else None
    return render_page(request, name, values, headers=headers)
