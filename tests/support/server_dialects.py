"""Responses of the fault server without a fault: the wire formats of OpenAI, vLLM, llama-server and
Ollama over the toy model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from support.toy_model import (
    ToyModel,
    ToyStep,
    list_grammar_texts,
    list_schema_texts,
    render_chat,
    split_tokens,
)

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ServerFeatures:
    """What the server supports, and what it reports wrongly.

    Attributes:
        response_format: Also for ``format``, ``grammar`` and ``structured_outputs``.
        truncate: The end of a prompt above the context that is dropped; None refuses the prompt.
        cut_tokens: Number of tokens to drop from shorter prompts.
        usage: "honest" reports the tokens that were read, "lying" those that were sent.
        masked: Whether log-probabilities are computed after the constraint.
        spread: The separators of JSON that the server's grammar writes.
        top_limit: Maximum number of top_logprobs.
        template: The template that llama-server and Ollama report; "" leaves the messages out.
    """

    name: str = "toy-1"
    context: int = 4096
    logprobs: bool = True
    prompt_logprobs: bool = True
    echo: bool = True
    masked: bool = False
    top_limit: int = 20
    response_format: Literal["honoured", "ignored", "refused"] = "honoured"
    truncate: Literal["head", "tail"] | None = None
    cut_tokens: int = 0
    usage: Literal["honest", "lying", "missing"] = "honest"
    spread: tuple[str, str] = (",", ":")
    continues: bool = True  # a last turn of the assistant is gone on with
    thinking: bool = False
    reported_context: bool = True
    version: str = "0.21.0"
    template: str = "{{ .Prompt }}"


@dataclass(frozen=True, slots=True)
class ServerCall:
    method: str
    path: str
    body: Body | None
    headers: Mapping[str, str]


class ErrorResponse(Exception):
    """The server's answer is an error."""

    def __init__(self, status: int, body: Body) -> None:
        super().__init__(status)
        self.status, self.body = status, body


def _answer_openai(call: ServerCall, model: ToyModel, features: ServerFeatures) -> Any:
    method, path, body = call.method, call.path, call.body
    if (method, path) == ("GET", "/v1/models"):
        return _list_models(features, "toy")
    if method != "POST" or body is None or not path.endswith(("/chat/completions", "/completions")):
        raise ErrorResponse(
            404, {"error": {"message": "Not Found", "type": "invalid_request_error", "code": None}}
        )
    if "deployments" not in path and body.get("model") != features.name:
        raise _make_error_response(
            404, f"The model `{body.get('model')}` does not exist.", "model_not_found"
        )
    mark = call.headers.get("x-request-id", "toy")
    if path.endswith("/chat/completions"):
        going_on = _continues_turn(body, features)
        return _chat_openai(
            body,
            render_chat(body["messages"], open_turn=not going_on),
            f"chatcmpl-{mark}",
            model,
            features,
        )
    prompts = (
        body["prompt"]
        if isinstance(body["prompt"], list) and not isinstance(body["prompt"][0], int)
        else [body["prompt"]]
    )
    return _complete_openai(body, prompts, f"cmpl-{mark}", model, features)


def _answer_vllm(call: ServerCall, model: ToyModel, features: ServerFeatures) -> Any:
    method, path, body = call.method, call.path, call.body
    match method, path:
        case "GET", "/version":
            return {"version": features.version}
        case "GET", "/v1/models":
            more = {"root": features.name, "parent": None} | (
                {"max_model_len": features.context} if features.reported_context else {}
            )
            return _list_models(features, "vllm", **more)
        case "POST", "/tokenize":
            assert body
            text = (
                body["prompt"]
                if "prompt" in body
                else render_chat(
                    body["messages"], open_turn=body.get("add_generation_prompt", True)
                )
            )
            tokens = model.encode(text)
            answer = {"count": len(tokens), "max_model_len": features.context, "tokens": tokens}
            return answer | (
                {"token_strs": [model.decode([token]) for token in tokens]}
                if body.get("return_token_strs")
                else {}
            )
        case "POST", "/detokenize":
            assert body
            return {"prompt": model.decode(body["tokens"])}
    return _answer_openai(call, model, features)


def _answer_llama_server(call: ServerCall, model: ToyModel, features: ServerFeatures) -> Any:
    method, path, body = call.method, call.path, call.body
    path = path.removeprefix("/v1") if path in {"/v1/props", "/v1/tokenize"} else path
    match method, path:
        case "GET", "/health":
            return {"status": "ok"}
        case "GET", "/props":
            settings = {"n_ctx": features.context} if features.reported_context else {}
            return {
                "default_generation_settings": settings,
                "total_slots": 1,
                "model_path": f"/models/{features.name}.gguf",
                "build_info": "b7000-toy",
                "chat_template": features.template,
            }
        case "GET", "/v1/models":
            meta = {"n_ctx_train": features.context, "n_vocab": len(model.vocabulary)}
            return _list_models(features, "llamacpp", meta=meta)
        case "POST", "/tokenize":
            assert body
            tokens = model.encode(body["content"])
            return {
                "tokens": [{"id": token, "piece": model.decode([token])} for token in tokens]
                if body.get("with_pieces")
                else tokens
            }
        case "POST", "/detokenize":
            assert body
            return {"content": model.decode(body["tokens"])}
        case "POST", "/apply-template":
            assert body
            return {
                "prompt": render_chat(
                    body["messages"], open_turn=body["messages"][-1]["role"] != "assistant"
                )
                if features.template
                else "<|user|><|assistant|>"
            }
        case "POST", "/completion":
            assert body
            return _complete_llama(body, model, features)
    named = {**body, "model": features.name} if body else None
    return _answer_openai(replace(call, path=path, body=named), model, features)


def _list_models(features: ServerFeatures, owner: str, **more: Any) -> Body:
    model = {"id": features.name, "object": "model", "created": 1, "owned_by": owner, **more}
    return {"object": "list", "data": [model]}


def _complete_llama(body: Body, model: ToyModel, features: ServerFeatures) -> Body:
    prompt = model.decode(body["prompt"]) if isinstance(body["prompt"], list) else body["prompt"]
    read, prompt_tokens = _truncate_prompt(prompt, body.get("n_predict", 64), model, features)
    limit = body.get("n_predict", 64)
    steps, ended = model.generate(
        read,
        limit,
        allowed=_list_allowed_texts(body, features),
        top=body.get("n_probs", 0),
        renormalize=features.masked,
    )
    answer: Body = {
        "content": _join_tokens(steps),
        "stop_type": "eos" if ended == "stop" else "limit",
        "truncated": False,
    }
    answer |= (
        {"tokens_evaluated": prompt_tokens, "tokens_predicted": len(steps)}
        if features.usage != "missing"
        else {}
    )
    if body.get("n_probs") and features.logprobs:
        answer["completion_probabilities"] = [
            {
                **_make_token_logprob(step.token, step.logprob),
                "id": model.get_token_id(step.token),
                "top_logprobs": _make_top_logprobs(step, model),
            }
            for step in steps
        ]
    return answer


def _answer_ollama(call: ServerCall, model: ToyModel, features: ServerFeatures) -> Any:
    method, path, body = call.method, call.path, call.body
    details = {
        "format": "gguf",
        "family": "toy",
        "parameter_size": "1K",
        "quantization_level": "Q4_0",
    }
    match method, path:
        case "GET", "/":
            return "Ollama is running"
        case "GET", "/api/version":
            return {"version": features.version}
        case "GET", "/api/tags":
            name = features.name if ":" in features.name else f"{features.name}:latest"
            return {
                "models": [
                    {"name": name, "model": name, "size": 1, "digest": "d" * 64, "details": details}
                ]
            }
        case "GET", "/api/ps":
            return {
                "models": [
                    {
                        "name": features.name,
                        "model": features.name,
                        "digest": "d" * 64,
                        "context_length": features.context,
                    }
                ]
            }
    if method != "POST" or body is None or path not in {"/api/show", "/api/chat"}:
        raise ErrorResponse(404, {"error": "404 page not found"})
    if body.get("model", "").removesuffix(":latest") != features.name.removesuffix(":latest"):
        raise ErrorResponse(404, {"error": f"model '{body.get('model')}' not found"})
    if path == "/api/show":
        facts = (
            {"general.architecture": "toy", "toy.context_length": 131072}
            if features.reported_context
            else {"general.architecture": "toy"}
        )
        capabilities = ["completion", "thinking"] if features.thinking else ["completion"]
        return {
            "modelfile": "",
            "template": features.template or "{{ .System }}",
            "details": details,
            "model_info": facts,
            "capabilities": capabilities,
        }
    return _chat_ollama(body, model, features)


def _chat_ollama(body: Body, model: ToyModel, features: ServerFeatures) -> Any:
    if body.get("think") and not features.thinking:
        raise ErrorResponse(400, {"error": f'"{features.name}" does not support thinking'})
    if body.get("format") and features.response_format == "refused":
        raise ErrorResponse(400, {"error": "invalid format"})
    options = body.get("options") or {}
    window = options.get("num_ctx", features.context)
    prompt = render_chat(
        body["messages"],
        open_turn=not (features.continues and body["messages"][-1]["role"] == "assistant"),
    )
    size = len(split_tokens(prompt))
    # Ollama's own way: what is above num_ctx is cut off in silence, unless the request says
    # "truncate": false.
    if size > window and body.get("truncate") is False:
        raise ErrorResponse(400, {"error": "the input length exceeds the context length"})
    read, prompt_tokens = _truncate_prompt(
        prompt, 0, model, features, window=window, drop=features.truncate or "head"
    )
    top = body.get("top_logprobs", 0) if features.logprobs and body.get("logprobs") else 0
    limit = options.get("num_predict", -1)
    stop = options.get("stop") or ()
    steps, ended = model.generate(
        read,
        limit if limit > 0 else 256,
        allowed=_list_allowed_texts(body, features),
        top=top,
        renormalize=features.masked,
        stop=[stop] if isinstance(stop, str) else stop,
    )
    message: Body = {"role": "assistant", "content": _join_tokens(steps)}
    if features.thinking and body.get("think", True):
        message["thinking"] = "Let me look at this."
    base = {"model": body["model"], "created_at": "2026-11-21T00:00:00Z"}
    last = {
        "done": True,
        "done_reason": ended,
        "total_duration": 1000,
        "load_duration": 10,
        "eval_count": len(steps),
    }
    last |= {"prompt_eval_count": prompt_tokens} if features.usage != "missing" else {}
    if body.get("stream", True):
        thought = (
            [
                {
                    **base,
                    "message": {
                        "role": "assistant",
                        "content": "",
                        "thinking": message["thinking"],
                    },
                    "done": False,
                }
            ]
            if "thinking" in message
            else []
        )
        pieces = [
            {**base, "message": {"role": "assistant", "content": step.token}, "done": False}
            for step in steps
        ]
        return [
            *thought,
            *pieces,
            {**base, "message": {"role": "assistant", "content": ""}, **last},
        ]
    if body.get("logprobs") and features.logprobs:
        last["logprobs"] = [
            {
                **_make_token_logprob(step.token, step.logprob),
                "top_logprobs": [_make_token_logprob(*pair) for pair in step.top],
            }
            for step in steps
        ]
    return {**base, "message": message, **last}


def _chat_openai(
    body: Body, prompt: str, request_id: str, model: ToyModel, features: ServerFeatures
) -> Any:
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 256
    top = _check_top_logprobs(body.get("top_logprobs") or 0, features)
    read, prompt_tokens = _truncate_prompt(
        prompt, limit if "max_tokens" in body else 1, model, features
    )
    stop = body.get("stop") or ()
    steps, ended = model.generate(
        read,
        limit,
        allowed=_list_allowed_texts(body, features),
        top=top,
        renormalize=features.masked,
        stop=[stop] if isinstance(stop, str) else stop,
    )
    base = {"id": request_id, "created": 1, "model": body.get("model", features.name)}
    if body.get("stream"):
        return _make_chunks(
            base,
            steps,
            ended,
            prompt_tokens,
            bool((body.get("stream_options") or {}).get("include_usage"))
            and features.usage != "missing",
        )
    choice: Body = {
        "index": 0,
        "message": {"role": "assistant", "content": _join_tokens(steps)},
        "finish_reason": ended,
        "logprobs": None,
    }
    if body.get("logprobs") and features.logprobs:
        choice["logprobs"] = {
            "content": [
                {
                    **_make_token_logprob(step.token, step.logprob),
                    "top_logprobs": [_make_token_logprob(*pair) for pair in step.top],
                }
                for step in steps
            ]
        }
    answer: Body = {
        **base,
        "object": "chat.completion",
        "choices": [choice],
        **_make_usage(prompt_tokens, len(steps), features),
    }
    if body.get("prompt_logprobs") is not None and features.prompt_logprobs:
        answer["prompt_logprobs"] = _make_prompt_logprobs(read, body["prompt_logprobs"], model)
    return answer


def _make_chunks(
    base: Body, steps: list[ToyStep], ended: str, prompt_tokens: int, usage: bool
) -> list[Body]:
    def chunk(delta: Body, reason: str | None = None) -> Body:
        return {
            **base,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        }

    pieces = [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": step.token}) for step in steps),
        chunk({}, ended),
    ]
    counts = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(steps),
        "total_tokens": prompt_tokens + len(steps),
    }
    return (
        [*pieces, {**base, "object": "chat.completion.chunk", "choices": [], "usage": counts}]
        if usage
        else pieces
    )


def _complete_openai(
    body: Body, prompts: list[Any], request_id: str, model: ToyModel, features: ServerFeatures
) -> Any:
    limit = 16 if body.get("max_tokens") is None else body["max_tokens"]
    count = body.get("logprobs")
    stop = body.get("stop") or ()
    choices, read_tokens, written = [], 0, 0
    for index, asked in enumerate(prompts):
        prompt = model.decode(asked) if isinstance(asked, list) else asked
        read, prompt_tokens = _truncate_prompt(prompt, limit, model, features)
        steps, ended = model.generate(
            read,
            limit,
            allowed=_list_allowed_texts(body, features),
            top=_check_top_logprobs(count or 0, features),
            renormalize=features.masked,
            stop=[stop] if isinstance(stop, str) else stop,
        )
        read_tokens, written = read_tokens + prompt_tokens, written + len(steps)
        echo = bool(body.get("echo")) and features.echo
        choice: Body = {
            "index": index,
            "text": (read if echo else "") + _join_tokens(steps),
            "finish_reason": ended,
            "logprobs": None,
        }
        if count is not None and features.logprobs:
            choice["logprobs"] = _make_legacy_logprobs(read if echo else "", steps, count, model)
        if body.get("prompt_logprobs") is not None and features.prompt_logprobs:
            choice["prompt_logprobs"] = _make_prompt_logprobs(read, body["prompt_logprobs"], model)
        choices.append(choice)
    base = {
        "id": request_id,
        "object": "text_completion",
        "created": 1,
        "model": body.get("model", features.name),
    }
    return {**base, "choices": choices, **_make_usage(read_tokens, written, features)}


def _make_legacy_logprobs(echoed: str, steps: list[ToyStep], count: int, model: ToyModel) -> Body:
    tokens: list[str] = split_tokens(echoed)
    token_logprobs: list[float | None] = [
        model.logprobs("".join(tokens[:at]), [token])[0] if at else None
        for at, token in enumerate(tokens)
    ]
    tops = [
        dict(model.rank_tokens("".join(tokens[:at]), count)) if at else None
        for at in range(len(tokens))
    ]
    tokens += [step.token for step in steps]
    offsets = [sum(map(len, tokens[:at])) for at in range(len(tokens))]
    token_logprobs, tops = (
        token_logprobs + [step.logprob for step in steps],
        tops + [dict(step.top) for step in steps],
    )
    return {
        "tokens": tokens,
        "token_logprobs": token_logprobs,
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def _make_prompt_logprobs(text: str, count: int, model: ToyModel) -> list[Body | None]:
    """vLLM's form: nothing for the first token, then per token id its own and the likeliest."""
    tokens = split_tokens(text)
    positions: list[Body | None] = [None]
    for at, token in enumerate(tokens[1:], start=1):
        before = "".join(tokens[:at])
        ranked = model.rank_tokens(before, 10**6, [token])
        ranks = {piece: (number, value) for number, (piece, value) in enumerate(ranked, start=1)}
        kept = dict.fromkeys([token, *(piece for piece, _ in ranked[:count])])
        positions.append(
            {
                str(model.get_token_id(piece)): {
                    "logprob": ranks[piece][1],
                    "rank": ranks[piece][0],
                    "decoded_token": piece,
                }
                for piece in kept
            }
        )
    return positions


def _truncate_prompt(
    prompt: str,
    reserved_tokens: int,
    model: ToyModel,
    features: ServerFeatures,
    *,
    window: int | None = None,
    drop: Literal["head", "tail"] | None = None,
) -> tuple[str, int]:
    """(what the model reads, the token count in usage)."""
    tokens = split_tokens(prompt)
    window, drop = window or features.context, drop or features.truncate
    keep = len(tokens)
    if keep + reserved_tokens > window:
        if drop is None:
            raise _make_error_response(
                400,
                f"This model's maximum context length is {window} tokens. However, you requested "
                f"{keep + reserved_tokens}.",
                "context_length_exceeded",
            )
        keep = max(1, window - reserved_tokens)
    keep = max(1, keep - features.cut_tokens)
    read = tokens[-keep:] if drop == "head" else tokens[:keep]
    return "".join(read), len(tokens) if features.usage == "lying" else len(read)


def _list_allowed_texts(body: Body, features: ServerFeatures) -> list[str] | None:
    """The texts that the request holds the answer to; None where it holds it to nothing, or the
    server does not care.
    """
    form = body.get("response_format") or {}
    structured_outputs = body.get("structured_outputs") or {}
    schema = (
        form.get("json_schema", {}).get("schema")
        or form.get("schema")
        or structured_outputs.get("json")
        or body.get("guided_json")
        or body.get("json_schema")
    )
    schema = schema or (body.get("format") if isinstance(body.get("format"), dict) else None)
    choice = structured_outputs.get("choice") or body.get("guided_choice")
    grammar = structured_outputs.get("grammar") or body.get("grammar")
    if not (schema or choice or grammar):
        return None
    if features.response_format == "refused":
        raise _make_error_response(
            400, "'response_format' of type 'json_schema' is not supported with this model.", None
        )
    if features.response_format == "ignored":
        return None
    if schema:
        return list_schema_texts(schema, features.spread)
    return list(choice) if choice else list_grammar_texts(grammar)


def _continues_turn(body: Body, features: ServerFeatures) -> bool:
    last = body["messages"][-1]["role"] == "assistant"
    return (
        last
        and features.continues
        and (bool(body.get("continue_final_message")) or "add_generation_prompt" not in body)
    )


def _check_top_logprobs(count: int, features: ServerFeatures) -> int:
    if count > features.top_limit:
        raise _make_error_response(
            400,
            f"Requested {count} logprobs, which is greater than max allowed: {features.top_limit}",
            None,
        )
    return count


def _make_usage(read: int, written: int, features: ServerFeatures) -> Body:
    return (
        {}
        if features.usage == "missing"
        else {
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": written,
                "total_tokens": read + written,
            }
        }
    )


def _make_token_logprob(token: str, logprob: float) -> Body:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _make_top_logprobs(step: ToyStep, model: ToyModel) -> list[Body]:
    return [
        {"id": model.get_token_id(token), **_make_token_logprob(token, value)}
        for token, value in step.top
    ]


def _join_tokens(steps: list[ToyStep]) -> str:
    return "".join(step.token for step in steps)


def _make_error_response(status: int, message: str, code: str | None) -> ErrorResponse:
    return ErrorResponse(
        status,
        {
            "error": {
                "message": message,
                "type": "invalid_request_error",
                "param": None,
                "code": code,
            }
        },
    )


DIALECTS: Mapping[str, Callable[..., Any]] = {
    "openai": _answer_openai,
    "vllm": _answer_vllm,
    "llama-server": _answer_llama_server,
    "ollama": _answer_ollama,
}
