"""Requests in threads: how many there may be, also while text is streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
from fastapi import Request

from medtask.server.inference.execution import InferenceService
from medtask.server.inference.model_pool import ModelPool
from medtask.server.inference.requests import ModelBusy, ModelRequest

Work = Callable[[ModelRequest], dict[str, Any]]


def make_request() -> Request:
    """A request of a client that stays connected."""

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http", "method": "POST", "path": "/ask", "headers": []}, receive)


def write_text(release: Event) -> Work:
    """Work that writes a piece of text, and goes on once it is released."""

    def work(model_request: ModelRequest) -> dict[str, Any]:
        assert model_request.on_text
        model_request.on_text("first", False)
        assert release.wait(10)
        return {"answer": "first"}

    return work


def test_a_stream_keeps_its_place_from_its_first_piece_to_its_last() -> None:
    release = Event()

    async def ask() -> list[str]:
        service = InferenceService(ModelPool(), max_requests=1)
        response = await service.stream(make_request(), write_text(release))
        with pytest.raises(ModelBusy):  # in the moment before the text is sent
            await service.run(make_request(), lambda _: {})
        release.set()
        events = [str(part) async for part in response.body_iterator]
        await service.run(make_request(), lambda _: {})
        return events

    events = asyncio.run(ask())

    assert ["first" in one for one in events] == [True, True]
