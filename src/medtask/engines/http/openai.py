"""The wire format of OpenAI's chat completions, with the extensions of vLLM and llama.cpp.

Sources: OpenAI's API reference; vllm/entrypoints/openai/chat_completion/protocol.py; llama.cpp's
tools/server/README.md; llama_cpp/server/types.py; transformers/cli/serving/chat_completion.py. The
last rejects unknown fields, and so do hosted servers: a request has only fields that its server
accepted when it was probed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from medtask.engines.http.choice_scores import ANSWER_KEY
from medtask.engines.http.client import InvalidResponse
from medtask.engines.http.protocol import (
    ChatChunk,
    ChatRequest,
    ChatResponse,
    ConstraintMode,
    ServerCaps,
    TokenLogprob,
)

MAX_COUNT = 2**31 - 1  # of tokens that a server can have read; the ledger cannot hold 2**63


class OpenAIDialect:
    """Chat completions of OpenAI-compatible servers."""

    path = "chat/completions"

    def build_body(self, request: ChatRequest, server_caps: ServerCaps) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": server_caps.model,
            "messages": request.list_turns(),
            server_caps.limit_name: request.max_tokens,
            **dict(server_caps.extra_body),
        }
        if server_caps.temperature:
            body["temperature"] = request.temperature
        if request.prefix and server_caps.continuation_flag:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if server_caps.thinking_switch:
            body |= build_thinking_switch(request)
        if request.temperature > 0:
            body |= {"top_p": request.top_p, "seed": request.seed}
        if request.stop:
            body["stop"] = list(request.stop)
        if request.choices:
            body |= constrain_to_choices(server_caps.hold, request.choices)
        if request.schema is not None:
            body |= constrain_to_schema(server_caps.schema, request.schema)
        if request.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        if request.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def parse_response(self, body: Any, server_caps: ServerCaps) -> ChatResponse:
        payload = _require_type(body, dict, "its body")
        choices = _require_type(payload.get("choices"), list, "choices")
        if len(choices) != 1:
            raise InvalidResponse(f"it holds {len(choices)} answers instead of one")
        choice = _require_type(choices[0], dict, "choices")
        message = _require_type(choice.get("message"), dict, "message")
        finish_reason = parse_finish_reason(choice.get("finish_reason"))
        thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
        text = message.get("content")
        if text is None and finish_reason == "length" and thoughts:
            text = ""  # the tokens were spent on thinking
        usage = payload.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        return ChatResponse(
            text=_require_type(text, str, "content"),
            finish_reason=finish_reason,
            model=check_model_name(payload.get("model"), server_caps),
            token_logprobs=parse_token_logprobs((choice.get("logprobs") or {}).get("content")),
            prompt_tokens=parse_count(usage.get("prompt_tokens")),
            completion_tokens=parse_count(usage.get("completion_tokens")),
            cached_tokens=parse_count(details.get("cached_tokens")) or 0,
            thoughts=str(thoughts),
        )

    def parse_chunk(self, event: Any, server_caps: ServerCaps) -> ChatChunk:
        payload = _require_type(event, dict, "an event")
        if payload.get("error"):
            raise InvalidResponse("the server stopped in the middle of its answer")
        usage = payload.get("usage") or {}
        choice: dict[str, Any] = next(iter(payload.get("choices") or ()), {})
        delta = choice.get("delta") or {}
        reason = choice.get("finish_reason")
        return ChatChunk(
            text=delta.get("content") or "",
            thoughts=delta.get("reasoning_content") or delta.get("reasoning") or "",
            finish_reason=parse_finish_reason(reason) if reason else None,
            model=check_model_name(payload.get("model"), server_caps),
            prompt_tokens=parse_count(usage.get("prompt_tokens")),
            completion_tokens=parse_count(usage.get("completion_tokens")),
        )


def build_thinking_switch(request: ChatRequest) -> dict[str, Any]:
    """The fields that switch thinking: Qwen 3 reads the first switch, Granite the second."""
    switches = {"enable_thinking": request.think, "thinking": request.think}
    return {"chat_template_kwargs": switches}


def constrain_to_choices(
    constraint: ConstraintMode | None, choices: Sequence[str]
) -> dict[str, Any]:
    """The fields of a request that constrain its answer to the choices; empty without a mode."""
    match constraint:
        case "choice":
            return {"structured_outputs": {"choice": list(choices)}}
        case "grammar":
            return {
                "grammar": "root ::= "
                + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
            }
        case None:
            return {}
    return constrain_to_schema(constraint, build_choice_schema(choices))


def build_choice_schema(choices: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an object whose only property is one of the choices."""
    members = {ANSWER_KEY: {"type": "string", "enum": list(choices)}}
    return {
        "type": "object",
        "properties": members,
        "required": [ANSWER_KEY],
        "additionalProperties": False,
    }


def constrain_to_schema(
    constraint: ConstraintMode | None, schema: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of a request that constrain its answer to a JSON schema."""
    match constraint:
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


def parse_token_logprobs(value: Any) -> tuple[TokenLogprob, ...] | None:
    """Parse tokens with log-probabilities in the format of OpenAI and Ollama; None if missing."""
    if value is None:
        return None
    token_logprobs = []
    for token in _require_type(value, list, "logprobs"):
        alternatives = tuple(
            _parse_token(other)
            for other in _require_type(token, dict, "logprobs").get("top_logprobs") or ()
        )
        token_logprobs.append(TokenLogprob(*_parse_token(token), alternatives))
    return tuple(token_logprobs)


def _parse_token(value: Any) -> tuple[bytes, float]:
    token = _require_type(value, dict, "logprobs")
    logprob = token.get("logprob")
    if (
        isinstance(logprob, bool)
        or not isinstance(logprob, int | float)
        or math.isnan(logprob)
        or logprob > 0.01
    ):
        raise InvalidResponse("a log-probability is not valid")
    spelled = token.get("bytes")
    try:
        text = bytes(spelled) if spelled is not None else str(token["token"]).encode()
    except (KeyError, ValueError, TypeError):
        raise InvalidResponse("its logprobs have an unknown form") from None
    return text, float(logprob)


def parse_count(value: Any) -> int | None:
    """Parse a number of tokens; None if it is missing or not valid."""
    is_valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
    return value if is_valid else None


def parse_finish_reason(reason: Any) -> Literal["stop", "length"]:
    """Why a text ended; InvalidResponse if the text has no end."""
    if reason == "length":
        return "length"
    if not isinstance(reason, str) or reason in {"content_filter", "load", "unload", "error"}:
        raise InvalidResponse("its text has no end" if reason is None else "its text was withheld")
    return "stop"


def check_model_name(value: Any, server_caps: ServerCaps) -> str:
    """The model's name in a response; InvalidResponse if it differs from that of the probe."""
    name = value if isinstance(value, str) else ""
    if server_caps.response_model and name != server_caps.response_model:
        raise InvalidResponse("another model answered")
    return name


def _require_type(value: Any, expected_type: type, name: str) -> Any:
    if not isinstance(value, expected_type):
        raise InvalidResponse(f"{name} is missing or not a {expected_type.__name__}")
    return value
