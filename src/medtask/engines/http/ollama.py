"""The wire format of Ollama's own /api/chat.

Source: docs/api.md, api/types.go and server/routes.go of github.com/ollama/ollama. Traps that this
module is about: `options.num_ctx` is set with every request, because the default (4,096 on many
machines) cuts longer prompts off in silence; `truncate` and `shift` are false, so that newer
versions refuse such a prompt instead; `repeat_penalty` and `min_p` are set to do nothing, because
their defaults change which token is taken even at temperature 0; a model that can think does so
unless `think` is false.
"""

from __future__ import annotations

from typing import Any

from medtask.engines.http.client import Malformed
from medtask.engines.http.openai import (
    check_model,
    hold_to_schema,
    one_of,
    read_count,
    read_end,
    read_steps,
)
from medtask.engines.http.server import Piece, Reply, Traits, Wish

# how long the model stays in memory behind a request; the default of 5 minutes loads it anew in a
# slow run
KEEP_ALIVE = "30m"


class Ollama:
    """Ollama's chat."""

    path = "api/chat"

    def write(self, wish: Wish, traits: Traits) -> dict[str, Any]:
        turns = [{"role": turn.role, "content": turn.content} for turn in wish.messages]
        if wish.lead:
            turns.append({"role": "assistant", "content": wish.lead})
        options: dict[str, Any] = {
            "num_ctx": traits.context,
            "num_predict": wish.max_tokens,
            "temperature": wish.temperature,
        }
        options |= {"repeat_penalty": 1.0, "min_p": 0.0, "top_k": 0, "top_p": wish.top_p}
        if wish.seed is not None:
            options["seed"] = wish.seed
        if wish.stop:
            options["stop"] = list(wish.stop)
        body = {
            "model": traits.model,
            "messages": turns,
            "options": options,
            "stream": wish.stream,
            "keep_alive": KEEP_ALIVE,
            "truncate": False,
            "shift": False,
        }
        if traits.thinks:
            body["think"] = wish.think
        if wish.choices and traits.hold:
            body |= hold_to_schema(traits.hold, one_of(wish.choices))
        if wish.schema is not None:
            body |= hold_to_schema(traits.schema, wish.schema)
        if wish.top:
            body |= {"logprobs": True, "top_logprobs": wish.top}
        return body

    def read(self, body: Any, traits: Traits) -> Reply:
        piece = self.read_piece(body, traits)
        if piece.ended is None:
            raise Malformed("its text has no end")
        return Reply(
            text=piece.text,
            ended=piece.ended,
            model=piece.model,
            steps=read_steps(body.get("logprobs")),
            prompt_tokens=piece.prompt_tokens,
            written_tokens=piece.written_tokens,
            thoughts=piece.thoughts,
        )

    def read_piece(self, event: Any, traits: Traits) -> Piece:
        if not isinstance(event, dict) or event.get("error"):
            raise Malformed("the server broke off in the middle of its answer")
        message = event.get("message")
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise Malformed("message is missing or has no text")
        return Piece(
            text=message["content"],
            thoughts=str(message.get("thinking") or ""),
            # Versions before 0.1.40 tell no reason; the number of tokens is not told to decide
            # then.
            ended=read_end(event.get("done_reason", "stop")) if event.get("done") else None,
            model=check_model(event.get("model"), traits),
            prompt_tokens=read_count(event.get("prompt_eval_count")),
            written_tokens=read_count(event.get("eval_count")),
        )
