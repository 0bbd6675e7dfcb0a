"""Requests that wait for a model: their deadline and cancellation, and why they end early."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Event

from medtask.errors import MedtaskError
from medtask.server.problems import NotAvailable, RequestProblem, TooManyRequests


class ModelBusy(TooManyRequests):
    """Too many requests wait for a model."""

    def __init__(self, waiting_s: float) -> None:
        retry_after_s = max(1, math.ceil(waiting_s))
        super().__init__(
            "too many texts wait for this model",
            fix=f"send the request again in {retry_after_s} seconds, or fewer texts at a time",
            retry_after_s=retry_after_s,
        )


class DeadlineExceeded(RequestProblem):
    """The request was not answered within its time limit."""

    status = HTTPStatus.REQUEST_TIMEOUT

    def __init__(self) -> None:
        super().__init__(
            "the request was not answered within its time limit",
            fix="send fewer texts at a time, ask for a shorter answer, give a longer timeout_s, or "
            "start a run",
        )


class RequestCancelled(NotAvailable):
    """The client has closed the connection, or the server stops."""

    def __init__(self) -> None:
        super().__init__("the request was cancelled", fix="send the request again")


@dataclass(slots=True, eq=False)
class ModelRequest:
    """The state of one client's request.

    Attributes:
        deadline: When it ends unanswered, by ``time.monotonic()``; None for no limit.
        on_text: Called with each piece of generated text, and whether it belongs to the thoughts;
            None if the text is not streamed.
    """

    deadline: float | None = None
    on_text: Callable[[str, bool], None] | None = None
    _cancelled: Event = field(default_factory=Event)

    def cancel(self) -> None:
        """Drop the request before the next pass of the model."""
        self._cancelled.set()

    def find_end(self) -> MedtaskError | None:
        """Why the request must not be continued; None if it may."""
        if self._cancelled.is_set():
            return RequestCancelled()
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return DeadlineExceeded()
        return None
