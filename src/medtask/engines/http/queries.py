"""Queries to a server, one per branch of a prompt, sent concurrently."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from medtask.engines.http.client import HttpClient, ServerCall
from medtask.engines.http.protocol import ChatRequest
from medtask.records import Branch, Fault, Prompt

T = TypeVar("T")


class HasRecordId(Protocol):
    """An object that belongs to one record."""

    @property
    def record_id(self) -> str: ...


A = TypeVar("A", bound=HasRecordId)


@dataclass(frozen=True, slots=True)
class ServerQuery:
    """A request for one branch of a prompt, or for the prompt itself.

    ``expected_tokens`` is the number of tokens that the server should read; None if it is not
    known.
    """

    prompt: Prompt
    request: ChatRequest
    branch_index: int = 0
    expected_tokens: int | None = None

    @property
    def record_id(self) -> str:
        return self.prompt.record_id

    @property
    def branch(self) -> Branch:
        return self.prompt.branches[self.branch_index]


class Stopwatch:
    """The time that is waited for a server, divided among the results of concurrent requests.

    Each result gets the time since the one before, so that the times of all of them add up.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._started = time.perf_counter()

    def read_ms(self) -> float:
        """Milliseconds since the start."""
        return (time.perf_counter() - self._started) * 1000


def send_queries(
    client: HttpClient,
    queries: Iterable[A],
    build_call: Callable[[A], tuple[str, dict[str, Any]]],
    parse: Callable[[A, Any], T],
) -> Iterator[tuple[A, T | Fault]]:
    """Send one request per query and yield the parsed answers as they arrive.

    ``build_call`` returns the path and body of a query's request.
    """
    # Keeps each call alive, so that its id stays unique.
    in_flight: dict[int, tuple[ServerCall, A]] = {}

    def build_calls() -> Iterator[ServerCall]:
        for query in queries:
            call = ServerCall(query.record_id, *build_call(query))
            in_flight[id(call)] = call, query
            yield call

    for call, outcome in client.post_all(
        build_calls(), lambda call, body: parse(in_flight[id(call)][1], body)
    ):
        yield in_flight.pop(id(call))[1], outcome
