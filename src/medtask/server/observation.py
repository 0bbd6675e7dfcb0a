"""Metrics and the log of requests: route, status and time; no path, no query, no text."""

from __future__ import annotations

import logging
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("medtask.server.requests")

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Observations:
    """Metrics of one server.

    Attributes:
        registry: Registry for further metrics. Label values must come from the code, never from
            users or records.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "medtask_requests",
            "Requests by route and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.durations = Histogram(
            "medtask_request_seconds",
            "Time until the first byte of the response.",
            ("method", "route"),
            registry=self.registry,
            buckets=_BUCKETS_S,
        )
        self.active = Gauge(
            "medtask_active_requests", "Requests that are being answered.", registry=self.registry
        )


class RequestObserver:
    """ASGI middleware that counts requests and measures how long they take."""

    def __init__(self, app: ASGIApp, observations: Observations) -> None:
        self.app = app
        self._observations = observations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        status, first_byte_s = 0, 0.0

        async def send_observed(message: Message) -> None:
            nonlocal status, first_byte_s
            if message["type"] == "http.response.start":
                status, first_byte_s = message["status"], time.perf_counter() - begun
            await send(message)

        self._observations.active.inc()
        try:
            await self.app(scope, receive, send_observed)
        finally:
            self._observations.active.dec()
            route = getattr(scope.get("route"), "path", "-")
            # Methods are free text too.
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._observations.requests.labels(method, route, status or 499).inc()
            self._observations.durations.labels(method, route).observe(first_byte_s)
            log.info(
                "%s %s %d %.0f ms", method, route, status, 1000 * (time.perf_counter() - begun)
            )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
