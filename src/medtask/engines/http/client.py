"""Concurrent calls to one server, with retries, pauses, and results as they arrive.

The interface is synchronous. Calls run in an event loop in a separate thread, because the thread of
a notebook already has a loop.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from medtask.engines.http.concurrency import AsyncClock, ConcurrencyLimiter
from medtask.engines.http.endpoint import Endpoint
from medtask.engines.http.transport import (
    InvalidResponse,
    RequestRejected,
    RequestTimeout,
    RetryableError,
    ServerBusy,
    ServerUnavailable,
    apply_parser,
    open_pool,
    send_request,
    stream_events,
)
from medtask.errors import EngineError
from medtask.records import Fault, Status

__all__ = ["HttpClient", "InvalidResponse", "NoUsableAnswer", "RequestRejected", "ServerCall"]

T = TypeVar("T")

UNAVAILABLE = "engine_unavailable"
MAX_ATTEMPTS = 8  # if one call in five fails, one row in 400,000 fails
_PROBE_ATTEMPTS = 2
_PROBE_DEADLINE_S = 20.0
_TIMEOUT_ATTEMPTS = 3  # each takes a whole deadline
# More than for failures, since the server works; bounded, since a row may exceed a quota.
_BUSY_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class ServerCall:
    """A POST of ``body`` to ``path`` (see Endpoint.build_url). The record's id is not sent."""

    record_id: str
    path: str
    body: Mapping[str, Any]


class NoUsableAnswer(EngineError):
    """All attempts of a call outside a run failed. ``reason`` is that of the last attempt."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"no usable answer from {url} ({reason.partition(': ')[2]})",
            fix="check that a model server runs there and that the address is right",
        )
        self.reason = reason


class _RetriesExhausted(Exception):
    """All attempts of a call failed. ``reason`` is that of the last attempt."""

    def __init__(self, error: RetryableError) -> None:
        super().__init__(error.reason)
        self.reason = (
            f"engine_protocol: {error.reason}"
            if isinstance(error, InvalidResponse)
            else f"{UNAVAILABLE}: {error.reason}"
        )


class HttpClient:
    """Calls to one endpoint. Not thread-safe. Close it, or use it as a context manager.

    Methods raise EngineError if the server is down or refuses access, and UsageError if it
    redirects.

    Args:
        endpoint: The server.
        concurrency: Maximum number of simultaneous calls.
        deadline_s: Seconds for one request, from the first byte sent to the last received.
        attempts: Attempts of a failing call; more for busy servers, fewer after timeouts.
        seed: Seed of the random part of delays.
        clock: The clock, replaced in tests.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        concurrency: int = 8,
        deadline_s: float = 120.0,
        attempts: int = MAX_ATTEMPTS,
        seed: int = 0,
        clock: AsyncClock | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.concurrency = max(1, concurrency)
        self.deadline_s = deadline_s
        self._attempts = attempts
        self._clock = clock or AsyncClock()
        self._thread: AbstractContextManager[BlockingPortal] | None = start_blocking_portal(
            "asyncio", name="medtask-http"
        )
        self._portal = self._thread.__enter__()
        # Created in the loop, to which their locks are bound.
        self._limiter = self._portal.call(self._make_limiter, seed)
        self._pool = open_pool(endpoint, self.concurrency)

    def get(self, path: str) -> dict[str, Any] | None:
        """The JSON object of a GET; None for an unknown path or another kind of content."""
        try:
            deadline_s = min(self.deadline_s, _PROBE_DEADLINE_S)
            value = self._wait_for(
                self._submit(
                    self._request, path, None, _return_value, 1, _PROBE_ATTEMPTS, deadline_s
                )
            )
        except RequestRejected as refused:
            if refused.status in {404, 405, 501}:
                return None
            raise
        except _RetriesExhausted as given_up:
            if given_up.reason.startswith("engine_protocol"):
                return None
            raise NoUsableAnswer(self.endpoint.url, given_up.reason) from given_up
        return value if isinstance(value, dict) else None

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        parse: Callable[[Any], T] | None = None,
        *,
        parse_retries: int = 2,
    ) -> T:
        """Make a POST outside a run. Raises RequestRejected if the server rejects the request.

        ``parse`` converts the JSON value, in the client's thread; it raises InvalidResponse if the
        value is not valid.
        """
        try:
            parse_attempts = parse_retries + 1
            future: Future[T] = self._submit(
                self._request,
                path,
                body,
                parse or _return_value,
                parse_attempts,
                self._attempts,
                self.deadline_s,
            )
            return self._wait_for(future)
        except _RetriesExhausted as given_up:
            raise NoUsableAnswer(self.endpoint.url, given_up.reason) from given_up

    def post_all(
        self,
        calls: Iterable[ServerCall],
        parse: Callable[[ServerCall, Any], T],
        *,
        parse_retries: int = 2,
    ) -> Iterator[tuple[ServerCall, T | Fault]]:
        """Make all calls, at most ``concurrency`` at a time, and yield each with its result or
        Fault as it arrives.

        ``calls`` is read lazily. Closing the iterator cancels the pending calls. A call without an
        answer is yielded only after the server has answered a later one: if the server stays down,
        EngineError is raised instead and no row is marked as failed, so that a resumed run repeats
        these calls.
        """
        unconfirmed: list[tuple[ServerCall, T | Fault]] = []
        for call, result in self._run_calls(calls, parse, parse_retries + 1):
            if isinstance(result, Fault) and result.reason.startswith(UNAVAILABLE):
                unconfirmed.append((call, result))
                continue
            yield from unconfirmed
            unconfirmed.clear()
            yield call, result
        yield from unconfirmed

    def _run_calls(
        self,
        calls: Iterable[ServerCall],
        parse: Callable[[ServerCall, Any], T],
        parse_attempts: int,
    ) -> Iterator[tuple[ServerCall, T | Fault]]:
        pending: dict[Future[T | Fault], ServerCall] = {}
        try:
            for call in calls:
                while len(pending) >= self.concurrency:
                    yield from self._collect_done(pending)
                pending[self._submit(self._call_for_record, call, parse, parse_attempts)] = call
            while pending:
                yield from self._collect_done(pending)
        finally:
            for future in pending:
                future.cancel()
            wait(pending)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        """POST and yield the JSON values of the response (server-sent events, or one per line).

        Retried until the first value has arrived; then an interruption raises InvalidResponse.
        """
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        end = object()
        future = self._submit(self._stream_events, path, body, events.put)
        future.add_done_callback(lambda _: events.put(end))
        try:
            while (event := events.get()) is not end:
                yield event
            future.result()
        except _RetriesExhausted as given_up:
            raise NoUsableAnswer(self.endpoint.url, given_up.reason) from given_up
        finally:
            future.cancel()
            wait([future])

    def close(self) -> None:
        """Cancel pending calls, close all connections and end the thread."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._portal.call(self._pool.aclose)
        self._portal.call(self._portal.stop, True)
        thread.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _make_limiter(self, seed: int) -> ConcurrencyLimiter:
        return ConcurrencyLimiter(self.concurrency, seed=seed, clock=self._clock)

    def _submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        if self._thread is None:
            raise EngineError("the connection to the server was closed", fix="load the model again")
        return self._portal.start_task_soon(work, *arguments)

    @staticmethod
    def _wait_for(future: Future[T]) -> T:
        try:
            return future.result()
        finally:
            future.cancel()  # on Ctrl-C

    @staticmethod
    def _collect_done(
        pending: dict[Future[T | Fault], ServerCall],
    ) -> Iterator[tuple[ServerCall, T | Fault]]:
        """Yield the finished calls, after waiting for at least one."""
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            yield pending.pop(future), future.result()

    async def _call_for_record(
        self, call: ServerCall, parse: Callable[[ServerCall, Any], T], parse_attempts: int
    ) -> T | Fault:
        try:
            return await self._request(
                call.path,
                call.body,
                lambda value: parse(call, value),
                parse_attempts,
                self._attempts,
                self.deadline_s,
            )
        except RequestRejected as refused:
            if refused.too_long:
                return Fault(
                    call.record_id,
                    Status.TOO_LONG,
                    f"the prompt is longer than the server accepts: {refused.reason}",
                )
            return Fault(call.record_id, Status.FAILED, refused.reason)
        except _RetriesExhausted as given_up:
            return Fault(call.record_id, Status.FAILED, given_up.reason)

    async def _request(
        self,
        path: str,
        body: Mapping[str, Any] | None,
        parse: Callable[[Any], T],
        parse_attempts: int,
        attempts: int,
        deadline_s: float,
    ) -> T:
        """Retry until the answer can be parsed, or one kind of error was raised too often."""

        async def attempt() -> T:
            return apply_parser(
                await send_request(self._pool, self.endpoint, path, body, deadline_s), parse
            )

        result: T = await self._retry(
            attempt, {InvalidResponse: parse_attempts, ServerUnavailable: attempts}
        )
        return result

    async def _stream_events(
        self, path: str, body: Mapping[str, Any], on_event: Callable[[Any], None]
    ) -> None:
        event_count = 0

        def add_event(value: Any) -> None:
            nonlocal event_count
            event_count += 1
            on_event(value)

        async def attempt() -> None:
            try:
                await stream_events(
                    self._pool, self.endpoint, path, body, self.deadline_s, add_event
                )
            except RetryableError as error:
                if event_count:
                    raise _StreamInterrupted(error.reason) from None
                raise

        try:
            await self._retry(attempt, {InvalidResponse: 3, ServerUnavailable: self._attempts})
        except _StreamInterrupted as broken:
            raise InvalidResponse(f"the stream broke off: {broken}") from None

    async def _retry(
        self, attempt: Callable[[], Any], attempts_by_error: Mapping[type[RetryableError], int]
    ) -> Any:
        """Retry at the rate that the limiter allows; _RetriesExhausted after too many errors of
        one kind.
        """
        max_attempts: dict[type[RetryableError], int] = {
            ServerBusy: _BUSY_ATTEMPTS,
            RequestTimeout: min(_TIMEOUT_ATTEMPTS, attempts_by_error[ServerUnavailable]),
            **attempts_by_error,
        }
        attempts: Counter[type[RetryableError]] = Counter()
        while True:
            started_at = await self._limiter.acquire()
            try:
                result = await attempt()
            except RetryableError as error:
                wait_s = self._record_error(error, started_at, attempts)
                # If all calls fail, the row is not at fault: either one succeeds, or the run ends.
                is_last = attempts[type(error)] >= max_attempts[type(error)]
                if is_last and not self._limiter.is_server_failing:
                    raise _RetriesExhausted(error) from None
            else:
                self._limiter.record_success()
                return result
            finally:
                self._limiter.release()
            await self._clock.sleep(wait_s)

    def _record_error(
        self, error: RetryableError, started_at: float, attempts: Counter[type[RetryableError]]
    ) -> float:
        """Count an error, report it to the limiter, and return the seconds until the next
        attempt.
        """
        error_type = type(error)
        # After an invalid answer the server is working: no delay is needed.
        wait_s = (
            0.0
            if error_type is InvalidResponse
            else self._limiter.draw_delay_s(attempts[error_type])
        )
        wait_s = wait_s if error.wait_s is None else error.wait_s
        attempts[error_type] += 1
        if error_type is ServerBusy:
            self._limiter.reduce_limit(started_at)
        if error_type is ServerBusy or error.wait_s is not None:
            self._limiter.pause(wait_s)
        # A server that goes down fails all pending calls at once; other errors are independent.
        self._limiter.record_failure(
            id(attempts),
            started_at if error_type in {ServerBusy, ServerUnavailable} else self._clock.now(),
            error.reason,
        )
        return wait_s


class _StreamInterrupted(Exception):
    """A stream was interrupted after part of it had been passed on."""


def _return_value(value: Any) -> Any:
    return value
