"""Generates text with a server: plain text, JSON objects and thoughts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from medtask.engines.base import TextCallbacks, list_text_callbacks
from medtask.engines.decoding.grammar import remove_quote_keywords
from medtask.engines.decoding.sampling import derive_row_seed
from medtask.engines.http.client import HttpClient, InvalidResponse
from medtask.engines.http.messages import build_messages, build_thinking_messages
from medtask.engines.http.protocol import ChatChunk, ChatRequest, ChatResponse, Dialect, ServerCaps
from medtask.engines.http.queries import ServerQuery, Stopwatch, send_queries
from medtask.engines.http.token_counting import PromptTokenCounter
from medtask.engines.tokens.thinking import PROMPTED_THINKING
from medtask.errors import EngineError
from medtask.records import Fault, Generated, Limits, Prompt, Status


class HttpGenerator:
    """Generates text with a server."""

    def __init__(
        self,
        client: HttpClient,
        dialect: Dialect,
        server_caps: ServerCaps,
        token_counter: PromptTokenCounter,
    ) -> None:
        self._client = client
        self._dialect = dialect
        self._server_caps = server_caps
        self._token_counter = token_counter

    def generate(
        self, prompts: Sequence[Prompt], limits: Limits, on_text: TextCallbacks | None
    ) -> Iterator[Generated | Fault]:
        """See HttpEngine.generate."""
        callbacks = list_text_callbacks(on_text, prompts, several=False)
        if limits.schema is not None and not self._server_caps.schema:
            raise EngineError(
                f"{self._server_caps.server_type} cannot constrain answers to a JSON schema",
                fix="choose a model that runs in this process",
            )
        ready: list[ServerQuery] = []
        for _, counted in self._token_counter.count_tokens(
            [self._build_query(prompt, limits) for prompt in prompts]
        ):
            if isinstance(counted, Fault):
                yield counted
            else:
                ready.append(counted)
        waited = Stopwatch()
        outcomes = (
            self._stream_queries(ready, callbacks)
            if callbacks
            else send_queries(self._client, ready, self._build_call, self._parse_response)
        )
        for query, outcome in outcomes:
            if isinstance(outcome, Fault):
                yield outcome
            else:
                yield self._build_generated(query, outcome, limits, waited.read_ms())
                waited.restart()

    def _build_query(self, prompt: Prompt, limits: Limits) -> ServerQuery:
        native = limits.think and self._server_caps.thinks
        if limits.think:
            messages, prefix = build_thinking_messages(
                prompt, can_continue=self._server_caps.goes_on, native=native
            )
        else:
            messages, prefix = build_messages(prompt, None, can_continue=self._server_caps.goes_on)
        stop = (
            *limits.stop,
            *(PROMPTED_THINKING.stop_texts if limits.think and not native else ()),
        )
        request = ChatRequest(
            messages,
            limits.max_tokens + (0 if limits.think else self._server_caps.thinking_tokens),
            prefix=prefix,
            schema=None if limits.schema is None else remove_quote_keywords(limits.schema),
            stop=stop,
            temperature=limits.temperature,
            top_p=limits.top_p,
            seed=derive_row_seed(limits.seed, prompt.record_id) if limits.temperature > 0 else None,
            think=native,
        )
        return ServerQuery(prompt, request)

    def _build_call(self, query: ServerQuery) -> tuple[str, dict[str, Any]]:
        return self._dialect.path, self._dialect.build_body(query.request, self._server_caps)

    def _parse_response(self, query: ServerQuery, body: Any) -> ChatResponse | Fault:
        response = self._dialect.parse_response(body, self._server_caps)
        return self._token_counter.find_truncation(query, response) or response

    def _stream_queries(
        self, queries: Sequence[ServerQuery], callbacks: Mapping[str, Callable[[str], None]]
    ) -> Iterator[tuple[ServerQuery, ChatResponse | Fault]]:
        for query in queries:
            body = self._dialect.build_body(replace(query.request, stream=True), self._server_caps)
            try:
                events = self._client.stream(self._dialect.path, body)
                response = self._join_chunks(events, callbacks[query.record_id])
                yield query, self._token_counter.find_truncation(query, response) or response
            except InvalidResponse as malformed:
                yield query, Fault(query.record_id, Status.FAILED, f"engine_protocol: {malformed}")

    def _join_chunks(self, events: Iterator[Any], on_text: Callable[[str], None]) -> ChatResponse:
        """Join the chunks of a stream to one reply, and pass each on as it arrives."""
        total = ChatChunk()
        for event in events:
            chunk = self._dialect.parse_chunk(event, self._server_caps)
            if chunk.text:
                on_text(chunk.text)
            total = ChatChunk(
                total.text + chunk.text,
                total.thoughts + chunk.thoughts,
                chunk.finish_reason or total.finish_reason,
                chunk.model or total.model,
                total.prompt_tokens if chunk.prompt_tokens is None else chunk.prompt_tokens,
                total.completion_tokens
                if chunk.completion_tokens is None
                else chunk.completion_tokens,
            )
        if total.finish_reason is None:
            raise InvalidResponse("its text has no end")
        return ChatResponse(
            total.text,
            total.finish_reason,
            total.model,
            prompt_tokens=total.prompt_tokens,
            completion_tokens=total.completion_tokens,
            thoughts=total.thoughts,
        )

    def _build_generated(
        self, query: ServerQuery, response: ChatResponse, limits: Limits, ms: float
    ) -> Generated:
        continues_text = not limits.think and query.prompt.partial_response[-1:].strip() != ""
        text = response.thoughts if query.request.think else response.text
        if query.request.prefix:  # some servers repeat the prefix
            text = text.removeprefix(query.request.prefix)
        elif query.prompt.partial_response and not limits.think:
            text = text.removeprefix(query.prompt.partial_response)
        text = text.rstrip() if continues_text else text.strip()
        if limits.think and not query.request.think:
            text = text.removeprefix(PROMPTED_THINKING.start_text.strip()).lstrip()
        completion_tokens = response.completion_tokens or 0
        tokens_read = (response.prompt_tokens or 0) - response.cached_tokens + completion_tokens
        return Generated(
            query.record_id,
            text,
            response.finish_reason,
            0.0,
            completion_tokens,
            tokens_read,
            response.cached_tokens,
            ms,
        )
