"""Writing over the wire: texts, JSON objects and thoughts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from medtask.engines.http.ask import Ask, send
from medtask.engines.http.client import Client, Malformed
from medtask.engines.http.counting import Counter
from medtask.engines.http.probe import THINKING_ROOM
from medtask.engines.http.server import Dialect, Piece, Reply, Traits, Wish
from medtask.engines.http.turns import write_thinking, write_turns
from medtask.engines.tokens.thinking import ALOUD
from medtask.engines.writing.grammar import drop_quotes
from medtask.engines.writing.sample import seed_row
from medtask.errors import EngineError
from medtask.records import Fault, Generated, Limits, Prompt, Status


class Writer:
    """A server that writes."""

    def __init__(self, client: Client, dialect: Dialect, traits: Traits, counter: Counter) -> None:
        self._client, self._dialect, self._traits, self._counter = client, dialect, traits, counter

    def write(
        self, prompts: Sequence[Prompt], limits: Limits, on_text: Callable[[str], None] | None
    ) -> Iterator[Generated | Fault]:
        """See HttpEngine.generate."""
        if on_text and len(prompts) > 1:
            raise EngineError(
                "only one text can be shown while it is written",
                fix="ask about one prompt at a time",
            )
        if limits.schema is not None and not self._traits.schema:
            raise EngineError(
                f"{self._traits.kind} cannot be held to a JSON schema",
                fix="choose a model that runs in this process",
            )
        ready: list[Ask] = []
        for _, counted in self._counter.count(
            [self._make_ask(prompt, limits) for prompt in prompts]
        ):
            if isinstance(counted, Fault):
                yield counted
            else:
                ready.append(counted)
        started = time.perf_counter()
        for ask, outcome in self._stream(ready, on_text) if on_text else self._send(ready):
            if isinstance(outcome, Fault):
                yield outcome
            else:
                yield self._finish(ask, outcome, limits, (time.perf_counter() - started) * 1000)

    def _make_ask(self, prompt: Prompt, limits: Limits) -> Ask:
        native = limits.think and self._traits.thinks
        if limits.think:
            turns, lead = write_thinking(prompt, goes_on=self._traits.goes_on, native=native)
        else:
            turns, lead = write_turns(prompt, None, goes_on=self._traits.goes_on)
        stop = (*limits.stop, *(ALOUD.stops if limits.think and not native else ()))
        wish = Wish(
            turns,
            limits.max_tokens + (THINKING_ROOM if self._traits.muses and not limits.think else 0),
            lead=lead,
            schema=None if limits.schema is None else drop_quotes(limits.schema),
            stop=stop,
            temperature=limits.temperature,
            top_p=limits.top_p,
            seed=seed_row(limits.seed, prompt.record_id) if limits.temperature > 0 else None,
            think=native,
        )
        return Ask(prompt, wish)

    def _send(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply | Fault]]:
        return send(
            self._client,
            asks,
            lambda ask: (self._dialect.path, self._dialect.write(ask.wish, self._traits)),
            self._read,
        )

    def _read(self, ask: Ask, body: Any) -> Reply | Fault:
        reply = self._dialect.read(body, self._traits)
        return self._judge(ask, reply)

    def _judge(self, ask: Ask, reply: Reply) -> Reply | Fault:
        wrong = self._counter.judge(ask, reply.prompt_tokens, reply.written_tokens or 0)
        return (
            Fault(ask.record_id, Status.FAILED, f"truncated_by_engine: {wrong}") if wrong else reply
        )

    def _stream(
        self, asks: Sequence[Ask], on_text: Callable[[str], None]
    ) -> Iterator[tuple[Ask, Reply | Fault]]:
        for ask in asks:
            body = self._dialect.write(replace(ask.wish, stream=True), self._traits)
            try:
                reply = self._join(self._client.stream(self._dialect.path, body), on_text)
                yield ask, self._judge(ask, reply)
            except Malformed as malformed:
                yield ask, Fault(ask.record_id, Status.FAILED, f"engine_protocol: {malformed}")

    def _join(self, events: Iterator[Any], on_text: Callable[[str], None]) -> Reply:
        """One reply from the pieces of a stream, each shown as it comes."""
        whole = Piece()
        for event in events:
            piece = self._dialect.read_piece(event, self._traits)
            if piece.text:
                on_text(piece.text)
            whole = Piece(
                whole.text + piece.text,
                whole.thoughts + piece.thoughts,
                piece.ended or whole.ended,
                piece.model or whole.model,
                whole.prompt_tokens if piece.prompt_tokens is None else piece.prompt_tokens,
                whole.written_tokens if piece.written_tokens is None else piece.written_tokens,
            )
        if whole.ended is None:
            raise Malformed("its text has no end")
        return Reply(
            whole.text,
            whole.ended,
            whole.model,
            prompt_tokens=whole.prompt_tokens,
            written_tokens=whole.written_tokens,
            thoughts=whole.thoughts,
        )

    def _finish(self, ask: Ask, reply: Reply, limits: Limits, ms: float) -> Generated:
        goes_on = not limits.think and ask.prompt.written[-1:].strip() != ""
        text = reply.thoughts if ask.wish.think else reply.text
        if ask.wish.lead:  # some servers repeat what the answer began with
            text = text.removeprefix(ask.wish.lead)
        elif ask.prompt.written and not limits.think:
            text = text.removeprefix(ask.prompt.written)
        text = text.rstrip() if goes_on else text.strip()
        if limits.think and not ask.wish.think:
            text = text.removeprefix(ALOUD.open.strip()).lstrip()
        written = reply.written_tokens or 0
        read = (reply.prompt_tokens or 0) - reply.cached_tokens + written
        return Generated(
            ask.record_id, text, reply.ended, 0.0, written, read, reply.cached_tokens, ms
        )
