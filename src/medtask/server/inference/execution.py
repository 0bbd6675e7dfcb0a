"""Work of requests in threads: it ends when the client leaves, and its text can be streamed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from medtask.errors import MedtaskError
from medtask.server.inference.model_pool import ModelPool
from medtask.server.inference.pool_metrics import PoolCollector
from medtask.server.inference.requests import ModelBusy, ModelRequest
from medtask.server.problems import (
    describe_problem,
    find_route,
    log_unexpected_error,
    make_unexpected_error,
)

ResultT = TypeVar("ResultT")
DEFAULT_TIMEOUT_S = 120.0
MAX_TIMEOUT_S = 3600.0
_RETRY_S = 2.0


class InferenceService:
    """The loaded models of a server, and the threads in which requests wait for them.

    Args:
        pool: The loaded models.
        max_requests: How many requests may be answered or wait at once.
    """

    def __init__(self, pool: ModelPool, max_requests: int) -> None:
        self.pool = pool
        self._max_requests = max_requests
        self._active = 0
        self._limiter = anyio.CapacityLimiter(max_requests)

    async def run(
        self,
        request: Request,
        work: Callable[[ModelRequest], ResultT],
        timeout_s: float | None = None,
    ) -> ResultT:
        """Run ``work`` in a thread; it is cancelled when the client closes the connection.

        Raises:
            ModelBusy: Too many requests wait already.
            MedtaskError: The work failed.
        """
        model_request = _start_request(timeout_s)
        with self._count_request():
            watcher = asyncio.create_task(_cancel_at_disconnect(request, model_request))
            try:
                return await anyio.to_thread.run_sync(work, model_request, limiter=self._limiter)
            finally:
                watcher.cancel()

    async def stream(
        self,
        request: Request,
        work: Callable[[ModelRequest], dict[str, Any]],
        timeout_s: float | None = None,
    ) -> StreamingResponse:
        """Run ``work`` in a thread and send its text as server-sent events.

        The events are ``thought`` and ``text`` with a piece each, then ``answer`` with the result,
        or ``problem`` if the work fails after the first piece.

        Raises:
            ModelBusy: Too many requests wait already.
            MedtaskError: The work failed before the first piece.
        """
        model_request = _start_request(timeout_s)
        events: asyncio.Queue[_Event | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def send(event: _Event | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def send_piece(piece: str, is_thought: bool) -> None:
            send(("thought" if is_thought else "text", {"text": piece}))

        def produce() -> None:
            try:
                send(("answer", work(model_request)))
            except BaseException as error:
                send(("problem", error))
            send(None)

        model_request.on_text = send_piece
        slot = ExitStack()
        slot.enter_context(self._count_request())
        watcher = asyncio.create_task(_cancel_at_disconnect(request, model_request))
        thread = asyncio.create_task(anyio.to_thread.run_sync(produce, limiter=self._limiter))
        # Not after the last event: a client that leaves reads none of them.
        thread.add_done_callback(lambda _: slot.close())
        try:
            first = await events.get()
        finally:
            watcher.cancel()
        if first and isinstance(first[1], BaseException):
            raise first[1]
        route = find_route(request)

        async def write_events() -> AsyncIterator[bytes]:
            try:
                event = first
                while event is not None:
                    yield _format_event(event, route)
                    event = await events.get()
            finally:
                model_request.cancel()
            await thread

        return StreamingResponse(write_events(), media_type="text/event-stream")

    @contextmanager
    def _count_request(self) -> Iterator[None]:
        if self._active >= self._max_requests:
            raise ModelBusy(_RETRY_S)
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1


_Event = tuple[str, dict[str, Any] | BaseException]


@contextmanager
def open_inference(app: FastAPI) -> Iterator[InferenceService]:
    """Keep loaded models from the first request to the last one."""
    settings = app.state.settings
    pool = ModelPool(settings.memory_limit_bytes)
    app.state.inference = InferenceService(pool, settings.limits.queue_length)
    registry = app.state.observations.registry
    collector = PoolCollector(pool)
    registry.register(collector)
    try:
        yield app.state.inference
    finally:
        registry.unregister(collector)
        pool.close()


def get_inference(request: Request) -> InferenceService:
    """The loaded models of the app that serves a request."""
    service: InferenceService = request.app.state.inference
    return service


def _start_request(timeout_s: float | None) -> ModelRequest:
    return ModelRequest(deadline=time.monotonic() + (timeout_s or DEFAULT_TIMEOUT_S))


async def _cancel_at_disconnect(request: Request, model_request: ModelRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    model_request.cancel()


def _format_event(event: _Event, route: str) -> bytes:
    name, content = event
    if isinstance(content, MedtaskError):
        content = describe_problem(content)
    elif isinstance(content, BaseException):
        log_unexpected_error(route, content)
        content = describe_problem(make_unexpected_error())
    return format_sse_event(event=name, data_str=json.dumps(content))
