"""Calls of an engine's methods that wait to be joined into passes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import Any

from medtask.engines.base import Engine, TextCallbacks
from medtask.errors import MedtaskError
from medtask.records import Fault, Generated, Prompt, Scores
from medtask.server.inference.requests import ModelRequest

EngineMethod = Callable[[Engine, Sequence[Prompt], TextCallbacks | None], Iterator[Any]]


@dataclass(frozen=True, slots=True)
class CallKey:
    """What calls have in common that one pass can read together.

    Attributes:
        method: "score" or "generate".
        task: The task: its prompts share a prefix.
        settings: Further arguments of the method.
        min_rows: How many prompts a pass may read, however long that takes.
    """

    method: str
    task: Hashable
    settings: str = ""
    min_rows: int = 8


@dataclass(frozen=True, slots=True)
class _End:
    """The last item of a call's results: it is complete, or failed with ``error``."""

    error: BaseException | None = None


class EngineCall:
    """One call of an engine's method by a request; its results arrive one by one.

    Args:
        request: The request.
        prompts: The prompts of the call.
        method: The method of the engine.
        key: Calls with equal keys may be joined; None for a call that is made alone and in one
            piece.
        on_text: Receives the pieces of generated text of a call with one prompt.
    """

    def __init__(
        self,
        request: ModelRequest,
        prompts: Sequence[Prompt],
        method: EngineMethod,
        key: CallKey | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        self.request = request
        self.method = method
        self.key = key
        self.on_text = on_text
        self._pending = {prompt.record_id: prompt for prompt in prompts}
        self._results: SimpleQueue[Any] = SimpleQueue()

    @property
    def pending_rows(self) -> int:
        """The number of prompts without a result."""
        return len(self._pending)

    def list_pending(self, limit: int | None = None) -> list[Prompt]:
        """The first prompts without a result, at most ``limit``."""
        return list(self._pending.values())[:limit]

    def deliver(self, record_id: str, result: Any) -> None:
        """Pass a result on to the request."""
        self._pending.pop(record_id, None)
        self._results.put(result)

    def drop_unanswered(self, prompts: Sequence[Prompt]) -> None:
        """Stop waiting for prompts that a pass gave no result for; the caller reports them."""
        for prompt in prompts:
            self._pending.pop(prompt.record_id, None)

    def finish(self, error: BaseException | None = None) -> None:
        """End the results, with an error if the call failed."""
        self._results.put(_End(error))

    def iterate_results(self) -> Iterator[Any]:
        """Yield the results as they arrive. Raises the error that the call failed with."""
        while not isinstance(result := self._results.get(), _End):
            yield result
        if result.error is not None:
            raise result.error


@dataclass(frozen=True, slots=True)
class CallPart:
    """Those prompts of a call that one pass reads."""

    call: EngineCall
    prompts: Sequence[Prompt]


class EnginePass:
    """One call of the engine for parts of several calls.

    Ids of records are replaced by numbers if several calls take part: two requests may use the same
    ids.
    """

    def __init__(self, parts: Sequence[CallPart]) -> None:
        self.parts = parts
        self.rows = sum(len(part.prompts) for part in parts)
        self._owners: dict[str, tuple[EngineCall, str]] = {}
        self._prompts: list[Prompt] = []
        for part in parts:
            for prompt in part.prompts:
                name = str(len(self._prompts)) if len(parts) > 1 else prompt.record_id
                self._owners[name] = (part.call, prompt.record_id)
                self._prompts.append(replace(prompt, record_id=name))

    def run(self, engine: Engine, between_steps: Callable[[], None]) -> None:
        """Call the engine and deliver its results; ends early once no request wants them.

        ``between_steps`` is called while text is generated.
        """
        callbacks: TextCallbacks | None = None
        if engine.streams_several or len(self._owners) == 1:
            callbacks = {
                name: partial(self._pass_on, call, between_steps)
                for name, (call, _) in self._owners.items()
            }
        results = self.parts[0].call.method(engine, self._prompts, callbacks)
        for result in results:
            if isinstance(result, Scores | Generated | Fault):
                call, record_id = self._owners[result.record_id]
                call.deliver(record_id, replace(result, record_id=record_id))
            else:
                self.parts[0].call.deliver("", result)
            if self._find_end():
                close = getattr(results, "close", None)
                if close:
                    close()
                return
        for part in self.parts:
            part.call.drop_unanswered(part.prompts)

    def _pass_on(self, call: EngineCall, between_steps: Callable[[], None], piece: str) -> None:
        """Pass on a piece of text; raises the reason once no request wants the text."""
        if ended := self._find_end():
            raise ended
        if call.on_text and not call.request.find_end():
            call.on_text(piece)
        between_steps()

    def _find_end(self) -> MedtaskError | None:
        """Why no request wants the results; None if one does."""
        ends = [part.call.request.find_end() for part in self.parts]
        return ends[0] if all(ends) else None
