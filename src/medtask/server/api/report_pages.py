"""Reports as responses: pages without scripts, whose style sheet is allowed by its hash."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi.responses import HTMLResponse

from medtask.server.problems import NotFound

_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


def send_report(path: Path, name: str) -> HTMLResponse:
    """The report in a file. Raises NotFound if it is not there yet."""
    if not path.exists():
        raise NotFound(f"{name} has no report yet", fix="wait until its job has ended")
    page = path.read_text("utf-8")
    return HTMLResponse(page, headers={"Content-Security-Policy": _write_policy(page)})


def _write_policy(page: str) -> str:
    """A policy that allows the style sheet in the page by its hash, and nothing else."""
    hashes = [
        base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        for style in _STYLE.findall(page)
    ]
    styles = " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"
    return (
        f"default-src 'none'; style-src {styles}; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self'; sandbox allow-popups"
    )
