"""One question on its way to a server and back, and many of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from medtask.engines.http.client import HttpClient, ServerCall
from medtask.engines.http.protocol import ChatRequest
from medtask.records import Branch, Fault, Prompt

T = TypeVar("T")


class HasRecordId(Protocol):
    """Whatever is about one record."""

    @property
    def record_id(self) -> str: ...


A = TypeVar("A", bound=HasRecordId)


@dataclass(frozen=True, slots=True)
class ServerQuery:
    """One branch of a prompt, by its place, or the prompt itself where it has none to be scored.

    ``expected_tokens``: tokens that the server should read, as counted beforehand; None where
    nobody can count them.
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

    def with_expected_tokens(self, tokens: int) -> ServerQuery:
        """The same with its tokens counted."""
        return replace(self, expected_tokens=tokens)


def send_queries(
    client: HttpClient,
    queries: Iterable[A],
    build_call: Callable[[A], tuple[str, dict[str, Any]]],
    parse: Callable[[A, Any], T],
) -> Iterator[tuple[A, T | Fault]]:
    """Send one request for each ask, ``build_call`` giving its path and body; what ``parse``
    makes of the answers, as they come.
    """
    in_flight: dict[
        int, tuple[ServerCall, A]
    ] = {}  # the call is kept, so that its id stays its own

    def build_calls() -> Iterator[ServerCall]:
        for query in queries:
            call = ServerCall(query.record_id, *build_call(query))
            in_flight[id(call)] = call, query
            yield call

    for call, outcome in client.post_all(
        build_calls(), lambda call, body: parse(in_flight[id(call)][1], body)
    ):
        yield in_flight.pop(id(call))[1], outcome
