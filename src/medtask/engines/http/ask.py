"""One question on its way to a server and back, and many of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from medtask.engines.http.client import Call, Client
from medtask.engines.http.server import Wish
from medtask.records import Branch, Fault, Prompt

T = TypeVar("T")


class Named(Protocol):
    """Whatever is about one record."""

    @property
    def record_id(self) -> str: ...


A = TypeVar("A", bound=Named)


@dataclass(frozen=True, slots=True)
class Ask:
    """One branch of a prompt, by its place, or the prompt itself where it has none to be scored.

    ``expected``: tokens that the server should read, as counted beforehand; None where nobody can
    count them.
    """

    prompt: Prompt
    wish: Wish
    place: int = 0
    expected: int | None = None

    @property
    def record_id(self) -> str:
        return self.prompt.record_id

    @property
    def branch(self) -> Branch:
        return self.prompt.branches[self.place]

    def expect(self, tokens: int) -> Ask:
        """The same with its tokens counted."""
        return replace(self, expected=tokens)


def send(
    client: Client,
    asks: Iterable[A],
    write: Callable[[A], tuple[str, dict[str, Any]]],
    read: Callable[[A, Any], T],
) -> Iterator[tuple[A, T | Fault]]:
    """Send one request for each ask, ``write`` giving its path and body; what ``read`` makes of the
    answers, as they come.
    """
    under_way: dict[int, tuple[Call, A]] = {}  # the call is kept, so that its id stays its own

    def calls() -> Iterator[Call]:
        for ask in asks:
            call = Call(ask.record_id, *write(ask))
            under_way[id(call)] = call, ask
            yield call

    for call, outcome in client.post_each(
        calls(), lambda call, body: read(under_way[id(call)][1], body)
    ):
        yield under_way.pop(id(call))[1], outcome
