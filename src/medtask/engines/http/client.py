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

from medtask.engines.http.address import Endpoint
from medtask.engines.http.pace import Clock, Pace
from medtask.engines.http.wire import (
    Busy,
    Failed,
    Malformed,
    Refused,
    TimedOut,
    Trouble,
    exchange,
    listen,
    open_pool,
)
from medtask.errors import EngineError
from medtask.records import Fault, Status

__all__ = ["Call", "Client", "Malformed", "Refused", "Unanswered"]

T = TypeVar("T")

UNAVAILABLE = "engine_unavailable"
ATTEMPTS = 8  # at one failure in five calls, one row in 400,000 is given up
_PROBE_ATTEMPTS = 2
_PROBE_DEADLINE_S = 20.0
_ATTEMPTS_TIMED_OUT = 3  # each has cost a whole deadline
# the server works, so patience pays; but a row may be too large for a quota, and never get in
_ATTEMPTS_BUSY = 20


@dataclass(frozen=True, slots=True)
class Call:
    """One row's request: a POST of ``body`` to ``path`` (see Endpoint.locate). The record's id
    never leaves this process.
    """

    record_id: str
    path: str
    body: Mapping[str, Any]


class Unanswered(EngineError):
    """A call outside a run was tried as often as it may be. ``reason``: the last trouble, as a
    Fault would tell it.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"no usable answer from {url} ({reason.partition(': ')[2]})",
            fix="see that a model server runs there and that the address is right",
        )
        self.reason = reason


class _GivenUp(Exception):
    """A call was tried as often as it may be. ``reason``: the last trouble."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.reason)
        self.reason = (
            f"engine_protocol: {trouble.reason}"
            if isinstance(trouble, Malformed)
            else f"{UNAVAILABLE}: {trouble.reason}"
        )


class Client:
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
        attempts: int = ATTEMPTS,
        seed: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.concurrency = max(1, concurrency)
        self.deadline_s = deadline_s
        self._attempts = attempts
        self._clock = clock or Clock()
        self._thread: AbstractContextManager[BlockingPortal] | None = start_blocking_portal(
            "asyncio", name="medtask-http"
        )
        self._portal = self._thread.__enter__()
        # Both belong to the loop: their locks are bound to the one in which they are first used.
        self._pace = self._portal.call(self._make_pace, seed)
        self._pool = open_pool(endpoint, self.concurrency)

    def get(self, path: str) -> dict[str, Any] | None:
        """What a GET answers, for finding out what the server is: None where it has no such path,
        or no JSON object there.
        """
        try:
            value = self._wait(
                self._start(
                    self._call,
                    path,
                    None,
                    _identity,
                    1,
                    _PROBE_ATTEMPTS,
                    min(self.deadline_s, _PROBE_DEADLINE_S),
                )
            )
        except Refused as refused:
            if refused.status in {404, 405, 501}:
                return None
            raise
        except _GivenUp as given_up:
            if given_up.reason.startswith("engine_protocol"):
                return None
            raise Unanswered(self.endpoint.url, given_up.reason) from given_up
        return value if isinstance(value, dict) else None

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        parse: Callable[[Any], T] | None = None,
        *,
        retries_of_parse: int = 2,
    ) -> T:
        """One call outside a run. Refused (an EngineError) where the server does not take the
        request.

        ``parse``: what to make of the JSON value; called in the client's thread, it raises
        Malformed where that is wrong.
        """
        try:
            tries = retries_of_parse + 1
            future: Future[T] = self._start(
                self._call, path, body, parse or _identity, tries, self._attempts, self.deadline_s
            )
            return self._wait(future)
        except _GivenUp as given_up:
            raise Unanswered(self.endpoint.url, given_up.reason) from given_up

    def post_each(
        self, calls: Iterable[Call], parse: Callable[[Call, Any], T], *, retries_of_parse: int = 2
    ) -> Iterator[tuple[Call, T | Fault]]:
        """Make all calls, at most ``concurrency`` at a time, and yield each with its result as it
        comes; a Fault where there is none.

        ``calls`` is read as places come free. Leaving the iterator early cancels what is under way.
        A row that the server did not answer is told once the server has answered another one behind
        it: of a server that is down for good EngineError tells, and no row, so that all of them can
        be asked again later.
        """
        doubtful: list[tuple[Call, T | Fault]] = []
        for call, result in self._run(calls, parse, retries_of_parse + 1):
            if isinstance(result, Fault) and result.reason.startswith(UNAVAILABLE):
                doubtful.append((call, result))
                continue
            yield from doubtful
            doubtful.clear()
            yield call, result
        yield from doubtful

    def _run(
        self, calls: Iterable[Call], parse: Callable[[Call, Any], T], tries_of_parse: int
    ) -> Iterator[tuple[Call, T | Fault]]:
        pending: dict[Future[T | Fault], Call] = {}
        try:
            for call in calls:
                while len(pending) >= self.concurrency:
                    yield from self._collect(pending)
                pending[self._start(self._answer_row, call, parse, tries_of_parse)] = call
            while pending:
                yield from self._collect(pending)
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
        pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
        end = object()
        future = self._start(self._stream, path, body, pieces.put)
        future.add_done_callback(lambda _: pieces.put(end))
        try:
            while (piece := pieces.get()) is not end:
                yield piece
            future.result()
        except _GivenUp as given_up:
            raise Unanswered(self.endpoint.url, given_up.reason) from given_up
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

    async def _make_pace(self, seed: int) -> Pace:
        return Pace(self.concurrency, seed=seed, clock=self._clock)

    def _start(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        if self._thread is None:
            raise EngineError("the connection to the server was closed", fix="load the model again")
        return self._portal.start_task_soon(work, *arguments)

    @staticmethod
    def _wait(future: Future[T]) -> T:
        try:
            return future.result()
        finally:
            future.cancel()  # on Ctrl-C nothing goes on behind the user's back

    @staticmethod
    def _collect(pending: dict[Future[T | Fault], Call]) -> Iterator[tuple[Call, T | Fault]]:
        """Yield what is ready, after waiting for at least one."""
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            yield pending.pop(future), future.result()

    async def _answer_row(
        self, call: Call, parse: Callable[[Call, Any], T], tries_of_parse: int
    ) -> T | Fault:
        try:
            return await self._call(
                call.path,
                call.body,
                lambda value: parse(call, value),
                tries_of_parse,
                self._attempts,
                self.deadline_s,
            )
        except Refused as refused:
            if refused.too_long:
                return Fault(
                    call.record_id,
                    Status.TOO_LONG,
                    f"the prompt is longer than the server takes: {refused.reason}",
                )
            return Fault(call.record_id, Status.FAILED, refused.reason)
        except _GivenUp as given_up:
            return Fault(call.record_id, Status.FAILED, given_up.reason)

    async def _call(
        self,
        path: str,
        body: Mapping[str, Any] | None,
        parse: Callable[[Any], T],
        tries_of_parse: int,
        attempts: int,
        deadline_s: float,
    ) -> T:
        """Try until the answer can be parsed, or one kind of trouble came too often."""

        async def attempt() -> T:
            return _parse(await exchange(self._pool, self.endpoint, path, body, deadline_s), parse)

        result: T = await self._persist(attempt, {Malformed: tries_of_parse, Failed: attempts})
        return result

    async def _stream(self, path: str, body: Mapping[str, Any], put: Callable[[Any], None]) -> None:
        heard = 0

        def hear(value: Any) -> None:
            nonlocal heard
            heard += 1
            put(value)

        async def attempt() -> None:
            try:
                await listen(self._pool, self.endpoint, path, body, self.deadline_s, hear)
            except Trouble as trouble:
                if heard:
                    raise _BrokenOff(trouble.reason) from None
                raise

        try:
            await self._persist(attempt, {Malformed: 3, Failed: self._attempts})
        except _BrokenOff as broken:
            raise Malformed(f"the stream broke off: {broken}") from None

    async def _persist(
        self, attempt: Callable[[], Any], allowed: Mapping[type[Trouble], int]
    ) -> Any:
        """Make attempts at the pace that the server can bear. _GivenUp when one kind of trouble has
        used up its tries.
        """
        limits: dict[type[Trouble], int] = {
            Busy: _ATTEMPTS_BUSY,
            TimedOut: min(_ATTEMPTS_TIMED_OUT, allowed[Failed]),
            **allowed,
        }
        tries: Counter[type[Trouble]] = Counter()
        while True:
            entered = await self._pace.enter()
            try:
                result = await attempt()
            except Trouble as trouble:
                wait_s = self._note(trouble, entered, tries)
                if tries[type(trouble)] >= limits[type(trouble)]:
                    raise _GivenUp(trouble) from None
            else:
                self._pace.succeed()
                return result
            finally:
                self._pace.leave()
            await self._clock.sleep(wait_s)

    def _note(self, trouble: Trouble, entered: float, tries: Counter[type[Trouble]]) -> float:
        """Count a trouble and tell the pace of it; how many seconds the call is to wait before its
        next try.
        """
        kind = type(trouble)
        # A wrong answer has cost its time already; asking again at once does no harm to a server
        # that works.
        wait_s = 0.0 if kind is Malformed else self._pace.delay(tries[kind])
        wait_s = wait_s if trouble.wait_s is None else trouble.wait_s
        tries[kind] += 1
        if kind is Busy:
            self._pace.slow_down(entered)
        if kind is Busy or trouble.wait_s is not None:
            self._pace.hold(wait_s)
        # When a server goes down it takes all calls under way with it. Wrong answers and deadlines
        # come one by one.
        self._pace.count_failure(
            entered if kind in {Busy, Failed} else self._clock.now(), trouble.reason
        )
        return wait_s


class _BrokenOff(Exception):
    """A stream ended before its end, after part of it had been handed on."""


def _identity(value: Any) -> Any:
    return value


def _parse(value: Any, parse: Callable[[Any], T]) -> T:
    try:
        return parse(value)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Malformed("it has another shape than the API tells") from None
