"""Detects truncated prompts by comparing expected and reported token counts.

Some servers truncate prompts without an error. Prompts are counted, in order of preference, with
the server's chat template and tokenizer (vLLM, llama-server), with a local tokenizer named by the
user, or with the server's tokenizer and a measured size of the template (llama-cpp-python).
Otherwise only bounds are checked, which detect large losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medtask.engines.http.client import HttpClient, InvalidResponse
from medtask.engines.http.openai import build_thinking_switch
from medtask.engines.http.protocol import ChatRequest, ChatResponse, Dialect, ServerCaps
from medtask.engines.http.queries import ServerQuery, send_queries
from medtask.engines.tokens.chat import render_prompt
from medtask.engines.tokens.chat_format import ChatFormat, detect_chat_format
from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.errors import EngineError, ModelNotFound, require_packages
from medtask.records import Fault, Message, Prompt, Status

TOKEN_TOLERANCE = 2  # tokens by which counts may differ
MAX_BYTES_PER_TOKEN = 16  # tokens of ordinary text are shorter; used for the bounds


class PromptTokenCounter:
    """Counts the tokens of prompts, and compares them with the counts that the server reports."""

    def __init__(
        self,
        client: HttpClient,
        dialect: Dialect,
        server_caps: ServerCaps,
        tokenizer: str | None = None,
    ) -> None:
        self._client, self._dialect, self._server_caps = client, dialect, server_caps
        self._chat = load_chat(tokenizer) if tokenizer else None
        self._template_tokens: dict[tuple[str, ...], int] = {}
        # (bytes, tokens) of the shortest prompt read so far
        self._shortest: tuple[int, int] | None = None

    @property
    def method(self) -> str:
        """How prompts are counted, for the manifest."""
        return "local tokenizer" if self._chat else self._server_caps.counts or "bounds"

    @property
    def notes(self) -> tuple[str, ...]:
        """The truncations that this method does not detect."""
        if not self._server_caps.usage:
            return ("it is not known whether prompts are read to their end",)
        if self.method == "bounds":
            return (
                "prompts are not counted beforehand: only large losses are detected; "
                "--tokenizer MODEL counts them exactly",
            )
        return ()

    def count_tokens(
        self, queries: Sequence[ServerQuery]
    ) -> Iterator[tuple[ServerQuery, ServerQuery | Fault]]:
        """Yield each query with a copy that has its number of tokens, if known, or with a Fault if
        it does not fit or cannot be counted.
        """
        if self._chat:
            counted: Iterator[tuple[ServerQuery, int | Fault]] = (
                (query, self._count_locally(self._chat, query)) for query in queries
            )
        elif self._server_caps.counts is None:
            yield from ((query, query) for query in queries)
            return
        else:
            counted = {
                "chat": self._count_by_chat,
                "template": self._count_by_template,
                "text": self._count_by_text,
            }[self._server_caps.counts](queries)
        for query, tokens in counted:
            yield query, tokens if isinstance(tokens, Fault) else self.check_length(query, tokens)

    def check_length(self, query: ServerQuery, tokens: int) -> ServerQuery | Fault:
        """The query with its number of tokens; a Fault if prompt and answer exceed the context."""
        limit, needed = self._server_caps.context, tokens + query.request.max_tokens
        if limit is not None and needed > limit:
            reason = (
                f"{needed:,} tokens with the {query.request.max_tokens:,} that may be written; "
                f"the server reads at most {limit:,}"
            )
            return Fault(query.record_id, Status.TOO_LONG, reason)
        return replace(query, expected_tokens=tokens)

    def find_truncation(self, query: ServerQuery, response: ChatResponse) -> Fault | None:
        """A Fault if the server cannot have read the whole prompt."""
        reason = self._explain_truncation(
            query, response.prompt_tokens, response.completion_tokens or 0
        )
        return None if reason is None else make_truncation_fault(query.record_id, reason)

    def _explain_truncation(
        self, query: ServerQuery, prompt_tokens: int | None, completion_tokens: int
    ) -> str | None:
        if not self._server_caps.usage:
            return None
        if prompt_tokens is None:
            raise InvalidResponse("it does not report how many tokens were read")
        if query.expected_tokens is not None:
            tolerance = TOKEN_TOLERANCE + (
                len(query.request.messages) - 1
                if self._server_caps.counts == "text" and not self._chat
                else 0
            )
            if abs(prompt_tokens - query.expected_tokens) <= tolerance:
                return None
            return describe_missing_tokens(prompt_tokens, query.expected_tokens)
        size = sum(len(turn.content.encode()) for turn in query.request.messages) + len(
            query.request.prefix.encode()
        )
        limit = self._server_caps.context
        if limit is not None and prompt_tokens + completion_tokens >= limit:
            return (
                f"the server read {prompt_tokens:,} tokens, which leave no room in a context "
                f"of {limit:,}"
            )
        shortest_size, shortest_tokens = self._shortest or (0, 0)
        if (
            size > shortest_size
            and prompt_tokens
            < shortest_tokens + (size - shortest_size) / MAX_BYTES_PER_TOKEN - TOKEN_TOLERANCE
        ):
            return (
                f"the server read {prompt_tokens:,} tokens of a prompt of {size:,} bytes, fewer "
                "than those can be"
            )
        if self._shortest is None or size < shortest_size:
            self._shortest = size, prompt_tokens
        return None

    def _count_locally(self, chat: ChatFormat, query: ServerQuery) -> int:
        prompt = Prompt(
            query.record_id, query.request.messages, (), "", partial_response=query.request.prefix
        )
        return len(render_prompt(chat, prompt).prompt_tokens)

    def _count_by_chat(
        self, queries: Sequence[ServerQuery]
    ) -> Iterator[tuple[ServerQuery, int | Fault]]:
        def build_call(query: ServerQuery) -> tuple[str, dict[str, Any]]:
            return "/tokenize", build_tokenize_body(query.request, self._server_caps)

        return send_queries(
            self._client, queries, build_call, lambda _, body: len(parse_token_ids(body))
        )

    def _count_by_template(
        self, queries: Sequence[ServerQuery]
    ) -> Iterator[tuple[ServerQuery, int | Fault]]:
        def build_call(query: ServerQuery) -> tuple[str, dict[str, Any]]:
            return "/apply-template", self._dialect.build_body(query.request, self._server_caps)

        rendered = []
        for query, text in send_queries(
            self._client, queries, build_call, lambda _, body: parse_prompt_text(body)
        ):
            if isinstance(text, Fault):
                yield query, text
            else:
                rendered.append(_RenderedQuery(query, text))
        for rendered_query, tokens in send_queries(
            self._client,
            rendered,
            _build_tokenize_call,
            lambda _, body: len(parse_token_ids(body)),
        ):
            yield rendered_query.query, tokens

    def _count_by_text(
        self, queries: Sequence[ServerQuery]
    ) -> Iterator[tuple[ServerQuery, int | Fault]]:
        for query in queries:
            self._measure_template_tokens(query.request.messages)

        def build_call(query: ServerQuery) -> tuple[str, dict[str, Any]]:
            return _COUNT_PATH, self._build_text_body(query.request.messages)

        def add_template_tokens(query: ServerQuery, body: Any) -> int:
            roles = _roles(query.request.messages)
            return _parse_token_count(body) + self._template_tokens[roles]

        return send_queries(self._client, queries, build_call, add_template_tokens)

    def _measure_template_tokens(self, messages: Sequence[Message]) -> None:
        """Measure the tokens that the chat template adds to turns of these roles, once for each
        sequence of roles, with one-word turns.
        """
        roles = _roles(messages)
        if roles in self._template_tokens:
            return
        one_word_messages = tuple(Message(turn.role, "word") for turn in messages)
        body = self._dialect.build_body(ChatRequest(one_word_messages, 1), self._server_caps)
        response: ChatResponse = self._client.post(
            self._dialect.path,
            body,
            lambda value: self._dialect.parse_response(value, self._server_caps),
        )
        text_tokens = self._client.post(
            _COUNT_PATH, self._build_text_body(one_word_messages), _parse_token_count
        )
        self._template_tokens[roles] = (response.prompt_tokens or 0) - text_tokens

    def _build_text_body(self, messages: Sequence[Message]) -> dict[str, Any]:
        return {
            "model": self._server_caps.model,
            "input": "\n".join(turn.content for turn in messages),
        }


_COUNT_PATH = "/extras/tokenize/count"


@dataclass(frozen=True, slots=True)
class _RenderedQuery:
    """A query with its prompt as rendered by llama-server's template."""

    query: ServerQuery
    text: str

    @property
    def record_id(self) -> str:
        return self.query.record_id


def _build_tokenize_call(rendered: _RenderedQuery) -> tuple[str, dict[str, Any]]:
    return "/tokenize", {"content": rendered.text, "add_special": True, "parse_special": True}


def describe_missing_tokens(read: int, sent: int) -> str:
    return f"the server read {read:,} tokens of {sent:,} that were sent"


def make_truncation_fault(record_id: str, reason: str) -> Fault:
    return Fault(record_id, Status.FAILED, f"truncated_by_engine: {reason}")


def build_tokenize_body(request: ChatRequest, server_caps: ServerCaps) -> dict[str, Any]:
    """The body of vLLM's /tokenize for a chat: TokenizeChatRequest of
    vllm/entrypoints/serve/tokenize/protocol.py.
    """
    continues = bool(request.prefix)
    body: dict[str, Any] = {
        "model": server_caps.model,
        "messages": request.list_turns(),
        "add_generation_prompt": not continues,
    }
    body |= {"continue_final_message": True} if continues else {}
    if server_caps.thinking_switch:
        body |= build_thinking_switch(request)
    return body


def parse_token_ids(body: Any) -> tuple[int, ...]:
    """The ``tokens`` of a /tokenize response of vLLM or llama-server."""
    tokens = body.get("tokens") if isinstance(body, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise InvalidResponse("its tokens are not numbers")
    return tuple(tokens)


def parse_prompt_text(body: Any) -> str:
    """The ``prompt`` of a response of vLLM's /detokenize or llama-server's /apply-template."""
    text = body.get("prompt") if isinstance(body, dict) else None
    if not isinstance(text, str):
        raise InvalidResponse("its text is missing")
    return text


def load_chat(name: str) -> ChatFormat:
    """The tokenizer and chat template of a model, by its name or folder."""
    require_packages("transformers", fix="pip install 'medtask[hf]'")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"no tokenizer called {name} can be loaded ({type(error).__name__})",
            fix="name a model of the Hub or a folder",
        ) from None
    return detect_chat_format(HfTokenizer(tokenizer))


def require_usage(server_caps: ServerCaps, allowed: bool) -> None:
    """Raise EngineError if a server does not report the tokens read, unless the user allows it."""
    if not server_caps.usage and not allowed:
        raise EngineError(
            f"{server_caps.server_type} does not report reliably how many tokens it reads: a "
            "truncated prompt would not be detected",
            fix="update the server or use one that reports usage, "
            "or add --allow-unverified-context",
        )


def _roles(messages: Sequence[Message]) -> tuple[str, ...]:
    return tuple(turn.role for turn in messages)


def _parse_token_count(body: Any) -> int:
    count = body.get("count") if isinstance(body, dict) else None
    if not isinstance(count, int):
        raise InvalidResponse("its count is not a number")
    return count
