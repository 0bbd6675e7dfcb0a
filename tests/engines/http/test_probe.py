"""What is found out about a server at start, and what becomes of servers that promise more than
they keep.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from medtask.engines.http.client import HttpClient, RequestRejected
from medtask.engines.http.endpoint import find_endpoint
from medtask.engines.http.load import load_http
from medtask.engines.http.probe import PROBE_WORDS, call_or_none, choose_model
from medtask.engines.http.probe_openai import probe_openai
from medtask.errors import EngineError, UsageError
from medtask.records import Fault, Scores
from support.fault_server import FaultRule, FaultScript, FaultServer, serve
from support.http_engines import BRANCH_LABELS, EngineOpener, make_row_prompt
from support.server_dialects import ServerFeatures
from support.toy_model import ToyModel


@pytest.mark.parametrize(
    ("dialect", "kind", "counts", "goes_on", "score"),
    [
        ("openai", "OpenAI-compatible server", None, False, "first_token"),
        ("vllm", "vLLM", "chat", True, "exact"),
        ("llama-server", "llama-server", "template", True, "first_token"),
        ("ollama", "Ollama", None, False, "first_token"),
    ],
)
def test_each_kind_of_server_is_known_by_what_it_does(
    open_engine: EngineOpener,
    dialect: str,
    kind: str,
    counts: str | None,
    goes_on: bool,
    score: str,
) -> None:
    engine, _ = open_engine(dialect)
    server_caps = engine.server_caps
    found = (server_caps.server_type, server_caps.counts, server_caps.goes_on)
    assert (*found, engine.caps.score) == (kind, counts, goes_on, score)
    assert server_caps.hold is not None
    assert server_caps.schema is not None
    assert (server_caps.top, server_caps.raw, server_caps.usage) == (20, True, True)
    assert engine.info.details["probe"]["hold"] == server_caps.hold  # type: ignore[index]


@pytest.mark.parametrize("dialect", ["openai", "vllm", "llama-server", "ollama"])
def test_a_server_that_takes_a_constraint_and_ignores_it_is_seen_through(
    open_engine: EngineOpener, dialect: str
) -> None:
    engine, _ = open_engine(dialect, response_format="ignored")
    assert engine.server_caps.hold is engine.server_caps.schema is None
    assert not engine.caps.schema
    assert "cannot restrict" in str(engine.info.notes)


def test_the_chat_template_of_a_server_is_in_the_identity(open_engine: EngineOpener) -> None:
    hashes = [
        open_engine("llama-server", template=template)[0].info.identity["file:chat_template"]
        for template in ("{{ messages }}", "{{ messages }} ", "{{ messages }}")
    ]
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize("dialect", ["llama-server", "ollama"])
def test_a_server_whose_template_leaves_out_the_message_is_refused(
    open_engine: EngineOpener, dialect: str
) -> None:
    with pytest.raises(EngineError, match="without reading the record"):
        open_engine(dialect, template="")


def test_a_server_that_reports_five_tokens_is_asked_for_five(open_engine: EngineOpener) -> None:
    engine, _ = open_engine("openai", top_limit=5)
    assert engine.server_caps.top == 5


@pytest.mark.parametrize("dialect", ["vllm", "llama-server"])
def test_the_context_is_the_servers_or_the_users_if_that_is_smaller(
    open_engine: EngineOpener, dialect: str
) -> None:
    assert open_engine(dialect)[0].context_tokens == 4096
    assert open_engine(dialect, context_tokens=1000)[0].context_tokens == 1000


def test_degraded_abilities_are_reported(open_engine: EngineOpener) -> None:
    engine, _ = open_engine("openai", logprobs=False)
    assert "no confidence" in str(engine.info.notes)


def test_which_model_is_meant() -> None:
    with serve(FaultServer("openai")) as url, HttpClient(find_endpoint(f"{url}/v1")) as client:
        assert choose_model(client, "named", ["a", "b"]) == "named"
        assert choose_model(client, None, ["only"]) == "only"
        for served in ([], ["a", "b"]):
            with pytest.raises(UsageError) as caught:
                choose_model(client, None, served)
            assert "#" in caught.value.fix


def test_a_server_that_is_not_there_is_an_error_with_its_address() -> None:
    with serve(FaultServer("openai")) as url:
        pass
    with (
        HttpClient(find_endpoint(f"{url}/v1"), attempts=1) as client,
        pytest.raises(EngineError) as caught,
    ):
        probe_openai(client, None, None)
    assert url in str(caught.value)


def test_what_a_server_refuses_it_cannot_do_and_what_breaks_is_an_error() -> None:
    def refuse() -> Any:
        raise RequestRejected(422, None)

    def gone() -> Any:
        raise EngineError("no usable answer", fix="start it")

    assert call_or_none(lambda: 5) == 5
    assert call_or_none(refuse) is None
    with pytest.raises(EngineError):
        call_or_none(gone)


class LlamaCppPythonServer:
    """As llama-cpp-python's server: a tokenizer for texts, grammars, and no structured outputs of
    any other name.
    """

    def __init__(self, **features: Any) -> None:
        self.model = ToyModel([*BRANCH_LABELS, *PROBE_WORDS, *"47"])
        self._server = FaultServer("openai", self.model, ServerFeatures(**features))
        self.bodies: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = json.loads(message.get("body") or b"null")
        self.bodies.append(body)
        if scope["path"] == "/extras/tokenize/count":
            body_text = json.dumps({"count": 1 + len(self.model.encode(body["input"]))}).encode()
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-type", b"application/json")],
                }
            )
            await send({"type": "http.response.body", "body": body_text})
            return
        known = {
            name: value for name, value in (body or {}).items() if name != "structured_outputs"
        }

        async def again() -> Any:
            return message | {"body": json.dumps(known).encode() if body else b""}

        await self._server(scope, again, send)

    def cut(self, tokens: int) -> None:
        self._server.features = replace(self._server.features, cut_tokens=tokens, truncate="head")


def test_llama_cpp_pythons_server_is_held_by_a_grammar_and_its_prompts_are_counted() -> None:
    app = LlamaCppPythonServer()
    with serve(app) as url:
        engine = load_http(f"{url}/v1")
        assert (
            engine.server_caps.server_type,
            engine.server_caps.hold,
            engine.server_caps.counts,
        ) == ("llama-cpp-python", "grammar", "text")
        rows = [make_row_prompt(row) for row in range(4)]
        assert all(isinstance(result, Scores) for result in engine.score(rows))
        # Its default would make the words of the prompt, labels above all, less likely
        # again.
        assert app.bodies[-1]["repeat_penalty"] == 1.0
        app.cut(3)
        reasons = [result.reason for result in engine.score(rows) if isinstance(result, Fault)]
        assert len(reasons) == len(rows)
        assert all(reason.startswith("truncated_by_engine") for reason in reasons)
        engine.close()


class NewParameterServer:
    """A server of the newest models: it knows no max_tokens, and no temperature."""

    def __init__(self) -> None:
        self._server = FaultServer("openai", ToyModel([*BRANCH_LABELS, "4", "7"]))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()

        async def again() -> Any:
            return message

        if b'"max_tokens"' in message.get("body", b"") or b'"temperature"' in message.get(
            "body", b""
        ):
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send(
                {
                    "type": "http.response.body",
                    "body": b'{"error": {"code": "unsupported_parameter"}}',
                }
            )
            return
        await self._server(scope, again, send)


def test_a_server_is_asked_in_the_words_that_it_knows() -> None:
    with (
        serve(NewParameterServer()) as url,
        HttpClient(find_endpoint(f"{url}/v1"), attempts=1) as client,
    ):
        server_caps = probe_openai(client, None, None)
    assert (server_caps.limit_name, server_caps.temperature) == ("max_completion_tokens", False)


class UuidCheckingServer:
    """A server that refuses calls whose id is not a UUID (HTTP 400), as llama-cpp-python does."""

    def __init__(self, server: FaultServer) -> None:
        self._server = server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        marks = [value.decode() for name, value in scope["headers"] if name == b"x-request-id"]
        try:
            assert [UUID(mark, version=4) for mark in marks]
        except ValueError:
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._server(scope, receive, send)


def test_calls_carry_ids_that_strict_servers_take() -> None:
    with (
        serve(
            UuidCheckingServer(FaultServer("openai", ToyModel([*BRANCH_LABELS, "4", "7"])))
        ) as url,
        HttpClient(find_endpoint(f"{url}/v1")) as client,
    ):
        assert probe_openai(client, None, None).usage


def test_a_server_that_cannot_list_its_models_can_be_asked_for_one_by_name() -> None:
    """`transformers serve` is one, on a machine whose Hub cache was never used."""
    script = FaultScript([FaultRule("status", rate=1.0, path="/v1/models")])
    server = FaultServer("openai", ToyModel([*BRANCH_LABELS, "4", "7"]), script=script)
    with serve(server) as url, HttpClient(find_endpoint(f"{url}/v1"), attempts=1) as client:
        assert probe_openai(client, server.features.name, None).model == server.features.name
        with pytest.raises(EngineError, match="HTTP 500"):
            probe_openai(client, None, None)
