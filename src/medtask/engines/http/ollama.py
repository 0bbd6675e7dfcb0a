"""The wire format of Ollama's own /api/chat.

Source: docs/api.md, api/types.go and server/routes.go of github.com/ollama/ollama. Traps:
`options.num_ctx` is set with every request, because the default (4,096 on many machines) silently
truncates longer prompts; `truncate` and `shift` are false, so that newer versions reject such a
prompt; `repeat_penalty` and `min_p` are neutral, because their defaults change the chosen token
even at temperature 0; a model that can think does so unless `think` is false.
"""

from __future__ import annotations

from typing import Any

from medtask.engines.http.client import InvalidResponse
from medtask.engines.http.openai import (
    build_choice_schema,
    check_model_name,
    constrain_to_schema,
    parse_count,
    parse_finish_reason,
    parse_token_logprobs,
)
from medtask.engines.http.protocol import ChatChunk, ChatRequest, ChatResponse, ServerCaps

# How long the model stays in memory after a request; with the default of 5 minutes it is loaded
# again during a slow run.
KEEP_ALIVE = "30m"


class OllamaDialect:
    """Ollama's /api/chat."""

    path = "api/chat"

    def build_body(self, request: ChatRequest, server_caps: ServerCaps) -> dict[str, Any]:
        options: dict[str, Any] = {
            "num_ctx": server_caps.context,
            "num_predict": request.max_tokens,
            "temperature": request.temperature,
        }
        options |= {"repeat_penalty": 1.0, "min_p": 0.0, "top_k": 0, "top_p": request.top_p}
        if request.seed is not None:
            options["seed"] = request.seed
        if request.stop:
            options["stop"] = list(request.stop)
        body = {
            "model": server_caps.model,
            "messages": request.list_turns(),
            "options": options,
            "stream": request.stream,
            "keep_alive": KEEP_ALIVE,
            "truncate": False,
            "shift": False,
        }
        if server_caps.thinks:
            body["think"] = request.think
        if request.choices and server_caps.hold:
            body |= constrain_to_schema(server_caps.hold, build_choice_schema(request.choices))
        if request.schema is not None:
            body |= constrain_to_schema(server_caps.schema, request.schema)
        if request.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        return body

    def parse_response(self, body: Any, server_caps: ServerCaps) -> ChatResponse:
        chunk = self.parse_chunk(body, server_caps)
        if chunk.finish_reason is None:
            raise InvalidResponse("its text has no end")
        return ChatResponse(
            text=chunk.text,
            finish_reason=chunk.finish_reason,
            model=chunk.model,
            token_logprobs=parse_token_logprobs(body.get("logprobs")),
            prompt_tokens=chunk.prompt_tokens,
            completion_tokens=chunk.completion_tokens,
            thoughts=chunk.thoughts,
        )

    def parse_chunk(self, event: Any, server_caps: ServerCaps) -> ChatChunk:
        if not isinstance(event, dict) or event.get("error"):
            raise InvalidResponse("the server stopped in the middle of its answer")
        message = event.get("message")
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise InvalidResponse("message is missing or has no text")
        return ChatChunk(
            text=message["content"],
            thoughts=str(message.get("thinking") or ""),
            # Versions before 0.1.40 report no reason.
            finish_reason=parse_finish_reason(event.get("done_reason", "stop"))
            if event.get("done")
            else None,
            model=check_model_name(event.get("model"), server_caps),
            prompt_tokens=parse_count(event.get("prompt_eval_count")),
            completion_tokens=parse_count(event.get("eval_count")),
        )
