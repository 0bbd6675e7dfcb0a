"""Routes of the server itself: health and metrics."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel
from sqlalchemy import text

from medtask.server.access.requests import Viewer
from medtask.server.database.connect import ReadSession

router = APIRouter(tags=["system"])


class Health(BaseModel):
    """The server answers, and its database too."""

    status: Literal["ok"]


@router.get("/health")
def check_health(session: ReadSession) -> Health:
    """Whether the server and its database answer; needs no account."""
    session.execute(text("SELECT 1"))
    return Health(status="ok")


@router.get("/metrics", response_class=Response)
def read_metrics(request: Request, user: Viewer) -> Response:
    """Counters and durations in the format of Prometheus; they contain no text."""
    metrics = generate_latest(request.app.state.observations.registry)
    return Response(metrics, media_type=CONTENT_TYPE_PLAIN_0_0_4)
