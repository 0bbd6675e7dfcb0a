"""Ollama's wire format as docs/api.md and api/types.go of its repository have it."""

from __future__ import annotations

from typing import Any

import pytest

from medtask.engines.http.client import InvalidResponse
from medtask.engines.http.load import load_http
from medtask.engines.http.ollama import OllamaDialect
from medtask.engines.http.probe_ollama import probe_ollama
from medtask.engines.http.protocol import ChatRequest, ServerCaps
from medtask.errors import EngineError, ModelNotFound, UsageError
from medtask.records import Limits, Message
from support.fault_server import FaultServer, serve
from support.http_engines import BRANCH_LABELS, EngineOpener, make_row_prompt
from support.toy_model import ToyModel

OLLAMA_CAPS = ServerCaps("Ollama", "gemma3", context=8192, hold="format", schema="format")


def make_response(**more: Any) -> dict[str, Any]:
    base = {
        "model": "gemma3",
        "created_at": "2026-01-01T00:00:00Z",
        "message": {"role": "assistant", "content": "yes"},
    }
    return (
        base
        | {"done": True, "done_reason": "stop", "prompt_eval_count": 26, "eval_count": 1}
        | more
    )


def test_every_request_sets_what_ollama_would_otherwise_decide_in_silence() -> None:
    body = OllamaDialect().build_body(
        ChatRequest((Message("user", "Which?"),), 9, choices=("a", "b"), top_logprobs=20),
        OLLAMA_CAPS,
    )
    assert body == {
        "model": "gemma3",
        "messages": [{"role": "user", "content": "Which?"}],
        "options": {
            "num_ctx": 8192,
            "num_predict": 9,
            "temperature": 0.0,
            "repeat_penalty": 1.0,
            "min_p": 0.0,
            "top_k": 0,
            "top_p": 1.0,
        },
        "stream": False,
        "keep_alive": "30m",
        "truncate": False,
        "shift": False,
        "format": {
            "type": "object",
            "properties": {"answer": {"type": "string", "enum": ["a", "b"]}},
            "required": ["answer"],
            "additionalProperties": False,
        },
        "logprobs": True,
        "top_logprobs": 20,
    }


def test_a_model_that_can_think_is_instructed_not_to() -> None:
    can = ServerCaps("Ollama", "qwen3", context=4096, thinks=True)
    assert OllamaDialect().build_body(ChatRequest((), 9), can)["think"] is False
    assert OllamaDialect().build_body(ChatRequest((), 9, think=True), can)["think"] is True
    # Others refuse the word.
    assert "think" not in OllamaDialect().build_body(ChatRequest((), 9), OLLAMA_CAPS)


def test_a_whole_answer_is_read() -> None:
    reply = OllamaDialect().parse_response(
        make_response(
            logprobs=[
                {
                    "token": "yes",
                    "logprob": -0.2,
                    "top_logprobs": [{"token": "no", "logprob": -1.7}],
                }
            ]
        ),
        OLLAMA_CAPS,
    )
    assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == (
        "yes",
        "stop",
        26,
        1,
    )
    assert reply.token_logprobs is not None
    assert reply.token_logprobs[0].top_logprobs == ((b"no", -1.7),)
    assert (
        OllamaDialect()
        .parse_response(make_response(done_reason="length"), OLLAMA_CAPS)
        .finish_reason
        == "length"
    )


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"error": "model runner has stopped"},
        make_response(done=False),
        make_response(done_reason="load"),
        make_response(message={}),
        make_response(message=None),
    ],
)
def test_half_an_answer_is_none(body: Any) -> None:
    with pytest.raises(InvalidResponse):
        OllamaDialect().parse_response(body, OLLAMA_CAPS)


def test_the_context_is_asked_for_with_every_question(open_engine: EngineOpener) -> None:
    engine, server = open_engine("ollama")
    assert engine.context_tokens == 8192
    list(engine.score([make_row_prompt(1)]))
    list(engine.generate([make_row_prompt(1)], Limits(5)))
    assert [call.body["options"]["num_ctx"] for call in server.log] == [8192, 8192]
    engine, server = open_engine("ollama", context_tokens=2048)
    list(engine.score([make_row_prompt(1)]))
    assert server.log[-1].body["options"]["num_ctx"] == 2048


def test_more_context_than_the_model_has_is_refused(open_engine: EngineOpener) -> None:
    with pytest.raises(UsageError, match="131,072"):
        open_engine("ollama", context_tokens=200_000)


def test_a_missing_model_is_named_with_the_command_that_fetches_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serve(FaultServer("ollama", ToyModel(BRANCH_LABELS))) as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        with pytest.raises(ModelNotFound) as caught:
            load_http("ollama:gemma3:4b")
    assert caught.value.fix == "ollama pull gemma3:4b"


@pytest.mark.parametrize(
    ("version", "words"),
    [("0.12.11", "update it to 0.17.1"), ("0.17.0", "update it to 0.17.1"), ("0.17.1", None)],
)
def test_old_versions_are_warned_of(
    open_engine: EngineOpener, version: str, words: str | None
) -> None:
    engine, _ = open_engine("ollama", version=version)
    notes = str(engine.info.notes)
    assert (words in notes) if words else ("update" not in notes)


def test_versions_that_cut_prompts_in_silence_are_refused(open_engine: EngineOpener) -> None:
    with pytest.raises(EngineError, match="would not be detected"):
        open_engine("ollama", version="0.12.3")


class StubClient:
    """A client that answers from a table."""

    class endpoint:  # noqa: N801 - replaces an attribute
        url = "http://127.0.0.1:11434"
        dialect = "ollama"

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def get(self, path: str) -> Any:
        return self._answers.get(path.removeprefix("api/"))

    def post(self, path: str, body: Any, parse: Any, **_: Any) -> Any:
        return parse(self._answers[path.removeprefix("api/")])


@pytest.mark.parametrize("where", ["tags", "show"])
def test_a_model_that_ollama_asks_elsewhere_is_refused(where: str) -> None:
    far = {"remote_model": "gpt-oss:120b", "remote_host": "https://ollama.com:443"}
    entry = {"name": "innocent:latest"} | (far if where == "tags" else {})
    client: Any = StubClient(
        version={"version": "0.20.0"}, tags={"models": [entry]}, show=far if where == "show" else {}
    )
    with pytest.raises(UsageError, match="cloud"):
        probe_ollama(client, "innocent", None)


def test_counts_that_shrink_when_a_prompt_is_cached_are_not_trusted() -> None:
    counts = iter([26, 1, *[1] * 20])

    class ShrinkingCountClient(StubClient):
        def post(self, path: str, body: Any, parse: Any, **_: Any) -> Any:
            if path != "api/chat":
                return parse(
                    {"capabilities": ["completion"], "model_info": {"gemma3.context_length": 32768}}
                )
            return parse(make_response(prompt_eval_count=next(counts)))

    client: Any = ShrinkingCountClient(
        version={"version": "0.20.0"}, tags={"models": [{"name": "gemma3", "digest": "d"}]}
    )
    traits, digest = probe_ollama(client, None, None)
    assert not traits.usage
    assert (traits.model, traits.context, digest) == ("gemma3", 8192, "d")
