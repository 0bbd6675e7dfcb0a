"""Calls to one server, many at a time: retries, pauses, and results as they come.

Synchronous outside. Inside, one event loop in one thread of its own (a notebook's thread has a loop
already).
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
    open_pool,
    send_request,
    stream_events,
)
from medtask.errors import EngineError
from medtask.records import Fault, Status

__all__ = ["HttpClient", "InvalidResponse", "NoUsableAnswer", "RequestRejected", "ServerCall"]

T = TypeVar("T")

UNAVAILABLE = "engine_unavailable"
MAX_ATTEMPTS = 8  # at one failure in five calls, one row in 400,000 is given up
_PROBE_ATTEMPTS = 2
_PROBE_DEADLINE_S = 20.0
_TIMEOUT_ATTEMPTS = 3  # each has cost a whole deadline
# the server works, so patience pays; but a row may be too large for a quota, and never get in
_BUSY_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class ServerCall:
    """One row's request: a POST of ``body`` to ``path`` (see Endpoint.locate). The record's id
    never leaves this process.
    """

    record_id: str
    path: str
    body: Mapping[str, Any]


class NoUsableAnswer(EngineError):
    """A call outside a run was tried as often as it may be. ``reason``: the last trouble, as a
    Fault would tell it.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"no usable answer from {url} ({reason.partition(': ')[2]})",
            fix="see that a model server runs there and that the address is right",
        )
        self.reason = reason


class _RetriesExhausted(Exception):
    """A call was tried as often as it may be. ``reason``: the last trouble."""

    def __init__(self, error: RetryableError) -> None:
        super().__init__(error.reason)
        self.reason = (
            f"engine_protocol: {error.reason}"
            if isinstance(error, InvalidResponse)
            else f"{UNAVAILABLE}: {error.reason}"
        )


class HttpClient:
    """All calls to one endpoint. One thread uses it at a time; ``close`` it, or use it as a context
    manager.

    ``concurrency``: most calls under way at once. ``deadline_s``: for one request, from the first
    byte sent to the last received. ``attempts``: tries of a call that fails; busy servers are asked
    more often, those that let the deadline pass less. ``seed``: of the random part of delays.
    Raises EngineError where the server is down, or lets nobody in, and UsageError where it
    redirects.
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
        # Both belong to the loop: their locks are bound to the one in which they are first used.
        self._limiter = self._portal.call(self._make_limiter, seed)
        self._pool = open_pool(endpoint, self.concurrency)

    def get(self, path: str) -> dict[str, Any] | None:
        """What a GET answers, for finding out what the server is: None where it has no such path,
        or no JSON object there.
        """
        try:
            value = self._wait_for(
                self._submit(
                    self._request,
                    path,
                    None,
                    _return_value,
                    1,
                    _PROBE_ATTEMPTS,
                    min(self.deadline_s, _PROBE_DEADLINE_S),
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
        """One call outside a run. Refused (an EngineError) where the server does not take the
        request.

        ``parse``: what to make of the JSON value; called in the client's thread, it raises
        Malformed where that is wrong.
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
        """Make all calls, at most ``concurrency`` at a time, and yield each with its result as it
        comes; a Fault where there is none.

        ``calls`` is read as places come free. Leaving the iterator early cancels what is under way.
        A row that the server did not answer is told once the server has answered another one behind
        it: of a server that is down for good EngineError tells, and no row, so that all of them can
        be asked again later.
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
        """POST and yield the JSON values of the stream that comes back (server-sent events, or one
        value a line).

        Tried again only as long as nothing has come. Malformed where the stream breaks off behind
        that.
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
        """Cancel what is under way, close all connections, end the thread."""
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
            future.cancel()  # on Ctrl-C nothing goes on behind the user's back

    @staticmethod
    def _collect_done(
        pending: dict[Future[T | Fault], ServerCall],
    ) -> Iterator[tuple[ServerCall, T | Fault]]:
        """Yield what is ready, after waiting for at least one."""
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
                    f"the prompt is longer than the server takes: {refused.reason}",
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
        """Try until the answer can be parsed, or one kind of trouble came too often."""

        async def attempt() -> T:
            return _apply_parser(
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
            except RetryableError as trouble:
                if event_count:
                    raise _StreamInterrupted(trouble.reason) from None
                raise

        try:
            await self._retry(attempt, {InvalidResponse: 3, ServerUnavailable: self._attempts})
        except _StreamInterrupted as broken:
            raise InvalidResponse(f"the stream broke off: {broken}") from None

    async def _retry(
        self, attempt: Callable[[], Any], attempts_by_error: Mapping[type[RetryableError], int]
    ) -> Any:
        """Make attempts at the pace that the server can bear. _GivenUp when one kind of trouble has
        used up its tries.
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
            except RetryableError as trouble:
                wait_s = self._record_error(trouble, started_at, attempts)
                if attempts[type(trouble)] >= max_attempts[type(trouble)]:
                    raise _RetriesExhausted(trouble) from None
            else:
                self._limiter.record_success()
                return result
            finally:
                self._limiter.release()
            await self._clock.sleep(wait_s)

    def _record_error(
        self, error: RetryableError, started_at: float, attempts: Counter[type[RetryableError]]
    ) -> float:
        """Count a trouble and tell the pace of it; how many seconds the call is to wait before its
        next try.
        """
        error_type = type(error)
        # A wrong answer has cost its time already; asking again at once does no harm to a server
        # that works.
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
        # When a server goes down it takes all calls under way with it. Wrong answers and deadlines
        # come one by one.
        self._limiter.record_failure(
            started_at if error_type in {ServerBusy, ServerUnavailable} else self._clock.now(),
            error.reason,
        )
        return wait_s


class _StreamInterrupted(Exception):
    """A stream ended before its end, after part of it had been handed on."""


def _return_value(value: Any) -> Any:
    return value


def _apply_parser(value: Any, parse: Callable[[Any], T]) -> T:
    try:
        return parse(value)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise InvalidResponse("it has another shape than the API tells") from None
