"""The wire format of OpenAI's chat completions, with what vLLM, llama-server and llama-cpp-python
add to it.

Sources: OpenAI's API reference; vllm/entrypoints/openai/chat_completion/protocol.py; llama.cpp's
tools/server/README.md; llama_cpp/server/types.py; transformers/cli/serving/chat_completion.py. The
last refuses fields that it does not know, and hosted servers do too: a request carries only what
its server was seen to take.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from medtask.engines.http.client import Malformed
from medtask.engines.http.closed import KEY
from medtask.engines.http.server import Hold, Piece, Reply, Step, Traits, Wish

# Their templates are given what `chat_template_kwargs` says: Qwen 3 reads the first switch, Granite
# the second.
SWITCHED = frozenset({"vLLM", "llama-server"})


class OpenAI:
    """The chat completions of any server that calls itself OpenAI-compatible."""

    path = "chat/completions"

    def write(self, wish: Wish, traits: Traits) -> dict[str, Any]:
        turns = [{"role": turn.role, "content": turn.content} for turn in wish.messages]
        body: dict[str, Any] = {
            "model": traits.model,
            "messages": turns,
            traits.limit_name: wish.max_tokens,
            **dict(traits.more),
        }
        if traits.temperature:
            body["temperature"] = wish.temperature
        if wish.lead:
            turns.append({"role": "assistant", "content": wish.lead})
            if traits.kind == "vLLM":
                body |= {"continue_final_message": True, "add_generation_prompt": False}
        if traits.kind in SWITCHED:
            body["chat_template_kwargs"] = {"enable_thinking": wish.think, "thinking": wish.think}
        if wish.temperature > 0:
            body |= {"top_p": wish.top_p, "seed": wish.seed}
        if wish.stop:
            body["stop"] = list(wish.stop)
        if wish.choices:
            body |= hold_to_choices(traits.hold, wish.choices)
        if wish.schema is not None:
            body |= hold_to_schema(traits.schema, wish.schema)
        if wish.top:
            body |= {"logprobs": True, "top_logprobs": wish.top}
        if wish.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def read(self, body: Any, traits: Traits) -> Reply:
        told = _expect(body, dict, "its body")
        choices = _expect(told.get("choices"), list, "choices")
        if len(choices) != 1:
            raise Malformed(f"it holds {len(choices)} answers in place of one")
        choice = _expect(choices[0], dict, "choices")
        message = _expect(choice.get("message"), dict, "message")
        ended = read_end(choice.get("finish_reason"))
        thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
        text = message.get("content")
        if text is None and ended == "length" and thoughts:
            text = ""  # the tokens were spent on thinking
        usage = told.get("usage") or {}
        return Reply(
            text=_expect(text, str, "content"),
            ended=ended,
            model=check_model(told.get("model"), traits),
            steps=read_steps((choice.get("logprobs") or {}).get("content")),
            prompt_tokens=read_count(usage.get("prompt_tokens")),
            written_tokens=read_count(usage.get("completion_tokens")),
            cached_tokens=read_count(
                (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            )
            or 0,
            thoughts=str(thoughts),
        )

    def read_piece(self, event: Any, traits: Traits) -> Piece:
        told = _expect(event, dict, "an event")
        if told.get("error"):
            raise Malformed("the server broke off in the middle of its answer")
        usage = told.get("usage") or {}
        choice: dict[str, Any] = next(iter(told.get("choices") or ()), {})
        delta = choice.get("delta") or {}
        reason = choice.get("finish_reason")
        return Piece(
            text=delta.get("content") or "",
            thoughts=delta.get("reasoning_content") or delta.get("reasoning") or "",
            ended=read_end(reason) if reason else None,
            model=check_model(told.get("model"), traits),
            prompt_tokens=read_count(usage.get("prompt_tokens")),
            written_tokens=read_count(usage.get("completion_tokens")),
        )


def hold_to_choices(hold: Hold | None, choices: Sequence[str]) -> dict[str, Any]:
    """What a request carries so that its answer is one of the choices; nothing for a server that
    cannot be held to any.
    """
    match hold:
        case "choice":
            return {"structured_outputs": {"choice": list(choices)}}
        case "grammar":
            return {
                "grammar": "root ::= "
                + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
            }
        case None:
            return {}
    return hold_to_schema(hold, one_of(choices))


def one_of(choices: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an object whose only member is one of the choices."""
    members = {KEY: {"type": "string", "enum": list(choices)}}
    return {
        "type": "object",
        "properties": members,
        "required": [KEY],
        "additionalProperties": False,
    }


def hold_to_schema(hold: Hold | None, schema: Mapping[str, Any]) -> dict[str, Any]:
    """What a request carries so that its answer satisfies a JSON schema."""
    match hold:
        case "json_object":
            return {"response_format": {"type": "json_object", "schema": schema}}
        case "format":
            return {"format": schema}
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": schema},
        }
    }


def read_steps(told: Any) -> tuple[Step, ...] | None:
    """Tokens with their log-probabilities, as OpenAI writes them and Ollama too; None where there
    are none.
    """
    if told is None:
        return None
    steps = []
    for token in _expect(told, list, "logprobs"):
        top = tuple(
            _read_token(other)
            for other in _expect(token, dict, "logprobs").get("top_logprobs") or ()
        )
        steps.append(Step(*_read_token(token), top))
    return tuple(steps)


def _read_token(told: Any) -> tuple[bytes, float]:
    token = _expect(told, dict, "logprobs")
    logprob = token.get("logprob")
    if (
        isinstance(logprob, bool)
        or not isinstance(logprob, int | float)
        or math.isnan(logprob)
        or logprob > 0.01
    ):
        raise Malformed("a log-probability is none")
    spelled = token.get("bytes")
    try:
        return (bytes(spelled) if spelled is not None else str(token["token"]).encode()), float(
            logprob
        )
    except (KeyError, ValueError, TypeError):
        raise Malformed("its logprobs have another form") from None


def read_count(told: Any) -> int | None:
    """A count of tokens; None where none is told."""
    return told if isinstance(told, int) and not isinstance(told, bool) and told >= 0 else None


def read_end(reason: Any) -> Literal["stop", "length"]:
    """Why a text ended; Malformed where it did not, or was taken away."""
    if reason == "length":
        return "length"
    if not isinstance(reason, str) or reason in {"content_filter", "load", "unload", "error"}:
        raise Malformed("its text has no end" if reason is None else "its text was held back")
    return "stop"


def check_model(told: Any, traits: Traits) -> str:
    """The model's name in a response; Malformed where it is not the one that answered at start."""
    name = told if isinstance(told, str) else ""
    if traits.answers_as and name != traits.answers_as:
        raise Malformed("another model answered")
    return name


def _expect(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise Malformed(f"{name} is missing or no {kind.__name__}")
    return value
