"""Whether a server read the whole prompt: tokens counted before it is sent against those that it
says it read.

Servers cut prompts that do not fit, some of them without a word. Four ways of counting, the best
first: by the server's own chat template and tokenizer (vLLM, llama-server), by a tokenizer on this
machine that the user names, by the server's tokenizer with the template's share measured once
(llama-cpp-python); and where nobody can count, by bounds that only show large losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from medtask.engines.http.ask import Ask, send
from medtask.engines.http.client import Client, Malformed
from medtask.engines.http.openai import SWITCHED
from medtask.engines.http.server import Dialect, Reply, Traits, Wish
from medtask.engines.tokens.chat import Chat, read_chat, render
from medtask.engines.tokens.tokenizer import HubTokenizer
from medtask.errors import EngineError, MissingExtra, ModelNotFound
from medtask.records import Fault, Message, Prompt, Status

SLIP = 2  # tokens by which counts may differ
MOST_BYTES = 16  # a token of ordinary text has fewer bytes than that: what a bound can rest on


class Counter:
    """Counts prompts beforehand and judges replies by it."""

    def __init__(
        self, client: Client, dialect: Dialect, traits: Traits, tokenizer: str | None = None
    ) -> None:
        self._client, self._dialect, self._traits = client, dialect, traits
        self._chat = load_chat(tokenizer) if tokenizer else None
        self._frames: dict[tuple[str, ...], int] = {}
        self._least: tuple[int, int] | None = (
            None  # (bytes, tokens) of the shortest prompt that was read so far
        )

    @property
    def method(self) -> str:
        """How prompts are counted, for the manifest."""
        return "local tokenizer" if self._chat else self._traits.counts or "bounds"

    @property
    def notes(self) -> tuple[str, ...]:
        """What this way of counting leaves unseen."""
        if not self._traits.usage:
            return ("nobody can tell whether prompts are read to their end",)
        if self.method == "bounds":
            return (
                (
                    "nobody counts prompts beforehand: only large losses would be noticed; "
                    "--tokenizer MODEL counts them exactly"
                ),
            )
        return ()

    def count(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Ask | Fault]]:
        """Each ask, and the same with its tokens counted where they can be; a Fault for one that
        does not fit, or cannot be counted.
        """
        if self._chat:
            counted: Iterator[tuple[Ask, int | Fault]] = (
                (ask, self._count_here(self._chat, ask)) for ask in asks
            )
        elif self._traits.counts is None:
            yield from ((ask, ask) for ask in asks)
            return
        else:
            counted = {
                "chat": self._count_chats,
                "template": self._count_templates,
                "text": self._count_texts,
            }[self._traits.counts](asks)
        for ask, tokens in counted:
            yield ask, tokens if isinstance(tokens, Fault) else self.fit(ask, tokens)

    def fit(self, ask: Ask, tokens: int) -> Ask | Fault:
        """The ask with its tokens, or a Fault where the context does not hold them and the
        answer.
        """
        limit, needed = self._traits.context, tokens + ask.wish.max_tokens
        if limit is not None and needed > limit:
            reason = (
                f"{needed:,} tokens with the {ask.wish.max_tokens:,} that may be written; "
                f"the server reads at most {limit:,}"
            )
            return Fault(ask.record_id, Status.TOO_LONG, reason)
        return ask.expect(tokens)

    def judge(self, ask: Ask, read: int | None, written: int) -> str | None:
        """Why a reply cannot be trusted to be about the whole prompt; None where nothing speaks
        against it.
        """
        if not self._traits.usage:
            return None
        if read is None:
            raise Malformed("it does not tell how many tokens were read")
        if ask.expected is not None:
            slip = SLIP + (
                len(ask.wish.messages) - 1
                if self._traits.counts == "text" and not self._chat
                else 0
            )
            return (
                None
                if abs(read - ask.expected) <= slip
                else f"the server read {read:,} tokens of {ask.expected:,} that were sent"
            )
        size = sum(len(turn.content.encode()) for turn in ask.wish.messages) + len(
            ask.wish.lead.encode()
        )
        limit = self._traits.context
        if limit is not None and read + written >= limit:
            return f"the server read {read:,} tokens, which leave no room in a context of {limit:,}"
        least_size, least_tokens = self._least or (0, 0)
        if size > least_size and read < least_tokens + (size - least_size) / MOST_BYTES - SLIP:
            return (
                f"the server read {read:,} tokens of a prompt of {size:,} bytes, fewer than "
                "those can be"
            )
        if self._least is None or size < least_size:
            self._least = size, read
        return None

    def _count_here(self, chat: Chat, ask: Ask) -> int:
        prompt = Prompt(ask.record_id, ask.wish.messages, (), "", written=ask.wish.lead)
        return len(render(chat, prompt).prompt_tokens)

    def _count_chats(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, int | Fault]]:
        def write(ask: Ask) -> tuple[str, dict[str, Any]]:
            return "/tokenize", write_tokenize(ask.wish, self._traits)

        for ask, ids in send(self._client, asks, write, lambda _, body: read_ids(body)):
            yield ask, ids if isinstance(ids, Fault) else len(ids)

    def _count_templates(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, int | Fault]]:
        def write(ask: Ask) -> tuple[str, dict[str, Any]]:
            return "/apply-template", self._dialect.write(ask.wish, self._traits)

        rendered = []
        for ask, text in send(self._client, asks, write, _read_prompt):
            if isinstance(text, Fault):
                yield ask, text
            else:
                rendered.append(_Rendered(ask, text))
        for done, ids in send(
            self._client, rendered, _write_text_of, lambda _, body: read_ids(body)
        ):
            yield done.ask, ids if isinstance(ids, Fault) else len(ids)

    def _count_texts(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, int | Fault]]:
        for ask in asks:
            self._measure_frame(ask.wish.messages)

        def write(ask: Ask) -> tuple[str, dict[str, Any]]:
            return _COUNT, self._write_text(ask.wish.messages)

        for ask, tokens in send(self._client, asks, write, lambda _, body: _read_count(body)):
            yield (
                ask,
                tokens
                if isinstance(tokens, Fault)
                else tokens + self._frames[_roles(ask.wish.messages)],
            )

    def _measure_frame(self, turns: Sequence[Message]) -> None:
        """What the chat template adds to turns of these roles: seen once, on turns of one word
        each.
        """
        roles = _roles(turns)
        if roles in self._frames:
            return
        short = tuple(Message(turn.role, "word") for turn in turns)
        body = self._dialect.write(Wish(short, 1), self._traits)
        read: Reply = self._client.post(
            self._dialect.path, body, lambda told: self._dialect.read(told, self._traits)
        )
        words = self._client.post(_COUNT, self._write_text(short), _read_count)
        self._frames[roles] = (read.prompt_tokens or 0) - words

    def _write_text(self, turns: Sequence[Message]) -> dict[str, Any]:
        return {"model": self._traits.model, "input": "\n".join(turn.content for turn in turns)}


_COUNT = "/extras/tokenize/count"


@dataclass(frozen=True, slots=True)
class _Rendered:
    """An ask with the text that llama-server's template makes of it."""

    ask: Ask
    text: str

    @property
    def record_id(self) -> str:
        return self.ask.record_id


def _write_text_of(rendered: _Rendered) -> tuple[str, dict[str, Any]]:
    return "/tokenize", {"content": rendered.text, "add_special": True, "parse_special": True}


def write_tokenize(wish: Wish, traits: Traits) -> dict[str, Any]:
    """vLLM's /tokenize for a chat: TokenizeChatRequest of
    vllm/entrypoints/serve/tokenize/protocol.py.
    """
    turns = [{"role": turn.role, "content": turn.content} for turn in wish.messages]
    going_on = bool(wish.lead)
    if going_on:
        turns.append({"role": "assistant", "content": wish.lead})
    body: dict[str, Any] = {
        "model": traits.model,
        "messages": turns,
        "add_generation_prompt": not going_on,
    }
    body |= {"continue_final_message": True} if going_on else {}
    if traits.kind in SWITCHED:
        body["chat_template_kwargs"] = {"enable_thinking": wish.think, "thinking": wish.think}
    return body


def read_ids(body: Any) -> tuple[int, ...]:
    """The ``tokens`` of a response of vLLM's or llama-server's /tokenize."""
    tokens = body.get("tokens") if isinstance(body, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise Malformed("its tokens are no numbers")
    return tuple(tokens)


def load_chat(name: str) -> Chat:
    """The tokenizer and chat template of a model, by its name or folder, to count with."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtra(
            f"{error.name} is not installed here", fix="pip install 'medtask[hf]'"
        ) from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"no tokenizer called {name} can be loaded ({type(error).__name__})",
            fix="name a model of the Hub or a folder",
        ) from None
    return read_chat(HubTokenizer(tokenizer))


def check_usage(traits: Traits, allowed: bool) -> None:
    """EngineError where a server does not tell what it read, unless the user has allowed that."""
    if not traits.usage and not allowed:
        raise EngineError(
            f"{traits.kind} does not tell reliably how many tokens it reads: a prompt that it "
            "cuts off would go unnoticed",
            fix="update the server or use one that reports usage, "
            "or add --allow-unverified-context",
        )


def _roles(turns: Sequence[Message]) -> tuple[str, ...]:
    return tuple(turn.role for turn in turns)


def _read_prompt(_ask: Ask, body: Any) -> str:
    text = body.get("prompt") if isinstance(body, dict) else None
    if not isinstance(text, str):
        raise Malformed("its prompt is no text")
    return text


def _read_count(body: Any) -> int:
    count = body.get("count") if isinstance(body, dict) else None
    if not isinstance(count, int):
        raise Malformed("its count is no number")
    return count
