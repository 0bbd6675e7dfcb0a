"""What the fault server says when it behaves: the wire formats of OpenAI, vLLM, llama-server and
Ollama over the toy model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from toy_model import Step, ToyModel, render_chat, split_tokens, texts_of_grammar, texts_of_schema

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Features:
    """What the server can do, and where it lies.

    ``response_format`` also stands for ``format``, ``grammar`` and ``structured_outputs``.
    ``truncate``: what becomes of a prompt above the context: None refuses it, else its head or tail
    is dropped. ``cut_tokens``: drop so many even below that. ``usage``: "honest" counts what was
    read, "lying" what was sent. ``masked``: logprobs are told after what the constraint forbids was
    taken away. ``spread``: the separators of JSON as the server's grammar writes it. ``top_limit``:
    most top_logprobs.
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


class Refusal(Exception):
    """The server's answer is an error."""

    def __init__(self, status: int, body: Body) -> None:
        super().__init__(status)
        self.status, self.body = status, body


def _openai(
    method: str,
    path: str,
    body: Body | None,
    headers: Mapping[str, str],
    model: ToyModel,
    has: Features,
) -> Any:
    if (method, path) == ("GET", "/v1/models"):
        return {
            "object": "list",
            "data": [{"id": has.name, "object": "model", "created": 1, "owned_by": "toy"}],
        }
    if method != "POST" or body is None or not path.endswith(("/chat/completions", "/completions")):
        raise Refusal(
            404, {"error": {"message": "Not Found", "type": "invalid_request_error", "code": None}}
        )
    if "deployments" not in path and body.get("model") != has.name:
        raise _refusal(404, f"The model `{body.get('model')}` does not exist.", "model_not_found")
    mark = headers.get("x-request-id", "toy")
    if path.endswith("/chat/completions"):
        going_on = _goes_on(body, has)
        return _chat(
            body,
            render_chat(body["messages"], open_turn=not going_on),
            f"chatcmpl-{mark}",
            model,
            has,
        )
    prompts = (
        body["prompt"]
        if isinstance(body["prompt"], list) and not isinstance(body["prompt"][0], int)
        else [body["prompt"]]
    )
    return _completions(body, prompts, f"cmpl-{mark}", model, has)


def _vllm(
    method: str,
    path: str,
    body: Body | None,
    headers: Mapping[str, str],
    model: ToyModel,
    has: Features,
) -> Any:
    match method, path:
        case "GET", "/version":
            return {"version": has.version}
        case "GET", "/v1/models":
            more = {"root": has.name, "parent": None} | (
                {"max_model_len": has.context} if has.reported_context else {}
            )
            return {
                "object": "list",
                "data": [
                    {"id": has.name, "object": "model", "created": 1, "owned_by": "vllm", **more}
                ],
            }
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
            told = {"count": len(tokens), "max_model_len": has.context, "tokens": tokens}
            return told | (
                {"token_strs": [model.decode([token]) for token in tokens]}
                if body.get("return_token_strs")
                else {}
            )
        case "POST", "/detokenize":
            assert body
            return {"prompt": model.decode(body["tokens"])}
    return _openai(method, path, body, headers, model, has)


def _llama_server(
    method: str,
    path: str,
    body: Body | None,
    headers: Mapping[str, str],
    model: ToyModel,
    has: Features,
) -> Any:
    path = path.removeprefix("/v1") if path in {"/v1/props", "/v1/tokenize"} else path
    match method, path:
        case "GET", "/health":
            return {"status": "ok"}
        case "GET", "/props":
            settings = {"n_ctx": has.context} if has.reported_context else {}
            return {
                "default_generation_settings": settings,
                "total_slots": 1,
                "model_path": f"/models/{has.name}.gguf",
                "build_info": "b7000-toy",
            }
        case "GET", "/v1/models":
            meta = {"n_ctx_train": has.context, "n_vocab": len(model.vocabulary)}
            return {
                "object": "list",
                "data": [
                    {
                        "id": has.name,
                        "object": "model",
                        "created": 1,
                        "owned_by": "llamacpp",
                        "meta": meta,
                    }
                ],
            }
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
            }
        case "POST", "/completion":
            assert body
            return _llama_completion(body, model, has)
    return _openai(method, path, {**body, "model": has.name} if body else None, headers, model, has)


def _llama_completion(body: Body, model: ToyModel, has: Features) -> Body:
    prompt = model.decode(body["prompt"]) if isinstance(body["prompt"], list) else body["prompt"]
    read, told = _read(prompt, body.get("n_predict", 64), model, has)
    limit = body.get("n_predict", 64)
    steps, ended = model.write(
        read, limit, allowed=_allowed(body, has), top=body.get("n_probs", 0), masked=has.masked
    )
    answer: Body = {
        "content": _text(steps),
        "stop_type": "eos" if ended == "stop" else "limit",
        "truncated": False,
    }
    answer |= (
        {"tokens_evaluated": told, "tokens_predicted": len(steps)} if has.usage != "missing" else {}
    )
    if body.get("n_probs") and has.logprobs:
        answer["completion_probabilities"] = [
            {
                **_told(step.token, step.logprob),
                "id": model.id_of(step.token),
                "top_logprobs": _tops(step, model),
            }
            for step in steps
        ]
    return answer


def _ollama(
    method: str,
    path: str,
    body: Body | None,
    headers: Mapping[str, str],
    model: ToyModel,
    has: Features,
) -> Any:
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
            return {"version": has.version}
        case "GET", "/api/tags":
            name = has.name if ":" in has.name else f"{has.name}:latest"
            return {
                "models": [
                    {"name": name, "model": name, "size": 1, "digest": "d" * 64, "details": details}
                ]
            }
        case "GET", "/api/ps":
            return {
                "models": [
                    {
                        "name": has.name,
                        "model": has.name,
                        "digest": "d" * 64,
                        "context_length": has.context,
                    }
                ]
            }
    if method != "POST" or body is None or path not in {"/api/show", "/api/chat"}:
        raise Refusal(404, {"error": "404 page not found"})
    if body.get("model", "").removesuffix(":latest") != has.name.removesuffix(":latest"):
        raise Refusal(404, {"error": f"model '{body.get('model')}' not found"})
    if path == "/api/show":
        facts = (
            {"general.architecture": "toy", "toy.context_length": 131072}
            if has.reported_context
            else {"general.architecture": "toy"}
        )
        can = ["completion", "thinking"] if has.thinking else ["completion"]
        return {
            "modelfile": "",
            "template": "{{ .Prompt }}",
            "details": details,
            "model_info": facts,
            "capabilities": can,
        }
    return _ollama_chat(body, model, has)


def _ollama_chat(body: Body, model: ToyModel, has: Features) -> Any:
    if body.get("think") and not has.thinking:
        raise Refusal(400, {"error": f'"{has.name}" does not support thinking'})
    if body.get("format") and has.response_format == "refused":
        raise Refusal(400, {"error": "invalid format"})
    options = body.get("options") or {}
    window = options.get("num_ctx", has.context)
    prompt = render_chat(
        body["messages"],
        open_turn=not (has.continues and body["messages"][-1]["role"] == "assistant"),
    )
    size = len(split_tokens(prompt))
    # Ollama's own way: what is above num_ctx is cut off in silence, unless the request says
    # "truncate": false.
    if size > window and body.get("truncate") is False:
        raise Refusal(400, {"error": "the input length exceeds the context length"})
    read, told = _read(prompt, 0, model, has, window=window, drop=has.truncate or "head")
    top = body.get("top_logprobs", 0) if has.logprobs and body.get("logprobs") else 0
    limit = options.get("num_predict", -1)
    stop = options.get("stop") or ()
    steps, ended = model.write(
        read,
        limit if limit > 0 else 256,
        allowed=_allowed(body, has),
        top=top,
        masked=has.masked,
        stop=[stop] if isinstance(stop, str) else stop,
    )
    message: Body = {"role": "assistant", "content": _text(steps)}
    if has.thinking and body.get("think", True):
        message["thinking"] = "Let me look at this."
    base = {"model": body["model"], "created_at": "2026-11-21T00:00:00Z"}
    last = {
        "done": True,
        "done_reason": ended,
        "total_duration": 1000,
        "load_duration": 10,
        "eval_count": len(steps),
    }
    last |= {"prompt_eval_count": told} if has.usage != "missing" else {}
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
    if body.get("logprobs") and has.logprobs:
        last["logprobs"] = [
            {**_told(step.token, step.logprob), "top_logprobs": [_told(*pair) for pair in step.top]}
            for step in steps
        ]
    return {**base, "message": message, **last}


def _chat(body: Body, prompt: str, mark: str, model: ToyModel, has: Features) -> Any:
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 256
    top = _top(body.get("top_logprobs") or 0, has)
    read, told = _read(prompt, limit if "max_tokens" in body else 1, model, has)
    stop = body.get("stop") or ()
    steps, ended = model.write(
        read,
        limit,
        allowed=_allowed(body, has),
        top=top,
        masked=has.masked,
        stop=[stop] if isinstance(stop, str) else stop,
    )
    base = {"id": mark, "created": 1, "model": body.get("model", has.name)}
    if body.get("stream"):
        return _chunks(
            base,
            steps,
            ended,
            told,
            bool((body.get("stream_options") or {}).get("include_usage"))
            and has.usage != "missing",
        )
    choice: Body = {
        "index": 0,
        "message": {"role": "assistant", "content": _text(steps)},
        "finish_reason": ended,
        "logprobs": None,
    }
    if body.get("logprobs") and has.logprobs:
        choice["logprobs"] = {
            "content": [
                {
                    **_told(step.token, step.logprob),
                    "top_logprobs": [_told(*pair) for pair in step.top],
                }
                for step in steps
            ]
        }
    answer: Body = {
        **base,
        "object": "chat.completion",
        "choices": [choice],
        **_usage(told, len(steps), has),
    }
    if body.get("prompt_logprobs") is not None and has.prompt_logprobs:
        answer["prompt_logprobs"] = _prompt_logprobs(read, body["prompt_logprobs"], model)
    return answer


def _chunks(base: Body, steps: list[Step], ended: str, told: int, usage: bool) -> list[Body]:
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
        "prompt_tokens": told,
        "completion_tokens": len(steps),
        "total_tokens": told + len(steps),
    }
    return (
        [*pieces, {**base, "object": "chat.completion.chunk", "choices": [], "usage": counts}]
        if usage
        else pieces
    )


def _completions(body: Body, prompts: list[Any], mark: str, model: ToyModel, has: Features) -> Any:
    limit = 16 if body.get("max_tokens") is None else body["max_tokens"]
    count = body.get("logprobs")
    stop = body.get("stop") or ()
    choices, read_tokens, written = [], 0, 0
    for index, asked in enumerate(prompts):
        prompt = model.decode(asked) if isinstance(asked, list) else asked
        read, told = _read(prompt, limit, model, has)
        steps, ended = model.write(
            read,
            limit,
            allowed=_allowed(body, has),
            top=_top(count or 0, has),
            masked=has.masked,
            stop=[stop] if isinstance(stop, str) else stop,
        )
        read_tokens, written = read_tokens + told, written + len(steps)
        echo = bool(body.get("echo")) and has.echo
        choice: Body = {
            "index": index,
            "text": (read if echo else "") + _text(steps),
            "finish_reason": ended,
            "logprobs": None,
        }
        if count is not None and has.logprobs:
            choice["logprobs"] = _legacy_logprobs(read if echo else "", steps, count, model)
        if body.get("prompt_logprobs") is not None and has.prompt_logprobs:
            choice["prompt_logprobs"] = _prompt_logprobs(read, body["prompt_logprobs"], model)
        choices.append(choice)
    base = {
        "id": mark,
        "object": "text_completion",
        "created": 1,
        "model": body.get("model", has.name),
    }
    return {**base, "choices": choices, **_usage(read_tokens, written, has)}


def _legacy_logprobs(echoed: str, steps: list[Step], count: int, model: ToyModel) -> Body:
    tokens: list[str] = split_tokens(echoed)
    told: list[float | None] = [
        model.logprobs("".join(tokens[:at]), [token])[0] if at else None
        for at, token in enumerate(tokens)
    ]
    tops = [
        dict(model.ranked("".join(tokens[:at]), count)) if at else None for at in range(len(tokens))
    ]
    tokens += [step.token for step in steps]
    offsets = [sum(map(len, tokens[:at])) for at in range(len(tokens))]
    told, tops = told + [step.logprob for step in steps], tops + [dict(step.top) for step in steps]
    return {"tokens": tokens, "token_logprobs": told, "top_logprobs": tops, "text_offset": offsets}


def _prompt_logprobs(text: str, count: int, model: ToyModel) -> list[Body | None]:
    """vLLM's form: nothing for the first token, then per token id its own and the likeliest."""
    tokens = split_tokens(text)
    told: list[Body | None] = [None]
    for at, token in enumerate(tokens[1:], start=1):
        before = "".join(tokens[:at])
        ranked = model.ranked(before, 10**6, [token])
        ranks = {piece: (number, value) for number, (piece, value) in enumerate(ranked, start=1)}
        kept = dict.fromkeys([token, *(piece for piece, _ in ranked[:count])])
        told.append(
            {
                str(model.id_of(piece)): {
                    "logprob": ranks[piece][1],
                    "rank": ranks[piece][0],
                    "decoded_token": piece,
                }
                for piece in kept
            }
        )
    return told


def _read(
    prompt: str,
    room: int,
    model: ToyModel,
    has: Features,
    *,
    window: int | None = None,
    drop: Literal["head", "tail"] | None = None,
) -> tuple[str, int]:
    """(what the model reads, the token count that usage tells)."""
    tokens = split_tokens(prompt)
    window, drop = window or has.context, drop or has.truncate
    keep = len(tokens)
    if keep + room > window:
        if drop is None:
            raise _refusal(
                400,
                f"This model's maximum context length is {window} tokens. However, you requested "
                f"{keep + room}.",
                "context_length_exceeded",
            )
        keep = max(1, window - room)
    keep = max(1, keep - has.cut_tokens)
    read = tokens[-keep:] if drop == "head" else tokens[:keep]
    return "".join(read), len(tokens) if has.usage == "lying" else len(read)


def _allowed(body: Body, has: Features) -> list[str] | None:
    """The texts that the request holds the answer to; None where it holds it to nothing, or the
    server does not care.
    """
    form = body.get("response_format") or {}
    held = body.get("structured_outputs") or {}
    schema = (
        form.get("json_schema", {}).get("schema")
        or form.get("schema")
        or held.get("json")
        or body.get("guided_json")
        or body.get("json_schema")
    )
    schema = schema or (body.get("format") if isinstance(body.get("format"), dict) else None)
    choice = held.get("choice") or body.get("guided_choice")
    grammar = held.get("grammar") or body.get("grammar")
    if not (schema or choice or grammar):
        return None
    if has.response_format == "refused":
        raise _refusal(
            400, "'response_format' of type 'json_schema' is not supported with this model.", None
        )
    if has.response_format == "ignored":
        return None
    if schema:
        return texts_of_schema(schema, has.spread)
    return list(choice) if choice else texts_of_grammar(grammar)


def _goes_on(body: Body, has: Features) -> bool:
    last = body["messages"][-1]["role"] == "assistant"
    return (
        last
        and has.continues
        and (bool(body.get("continue_final_message")) or "add_generation_prompt" not in body)
    )


def _top(count: int, has: Features) -> int:
    if count > has.top_limit:
        raise _refusal(
            400,
            f"Requested {count} logprobs, which is greater than max allowed: {has.top_limit}",
            None,
        )
    return count


def _usage(read: int, written: int, has: Features) -> Body:
    return (
        {}
        if has.usage == "missing"
        else {
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": written,
                "total_tokens": read + written,
            }
        }
    )


def _told(token: str, logprob: float) -> Body:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _tops(step: Step, model: ToyModel) -> list[Body]:
    return [{"id": model.id_of(token), **_told(token, value)} for token, value in step.top]


def _text(steps: list[Step]) -> str:
    return "".join(step.token for step in steps)


def _refusal(status: int, message: str, code: str | None) -> Refusal:
    return Refusal(
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
    "openai": _openai,
    "vllm": _vllm,
    "llama-server": _llama_server,
    "ollama": _ollama,
}
