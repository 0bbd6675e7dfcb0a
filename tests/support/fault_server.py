"""One server that misbehaves on purpose: a toy model behind the wire formats of real servers, and a
script of faults.

    model = ToyModel(words=["curative", "palliative"])
    app = FaultServer("vllm", model, Features(logprobs=False), Script([Rule("status", rate=0.3,
    status=429, retry_after="2")], seed=7)) with serve(app) as url:         # http://127.0.0.1:PORT;
    the API lies under url + "/v1", Ollama's under url + "/api"
        ...
    app.log                         # every call: when, what, whose, which fault

Faults (Rule.name): "status" (with ``status``, ``retry_after`` = text of that header, or
"date:SECONDS" for an HTTP date), "reset", "stall" (before headers, for ever), "drip" (one byte
every ``pause_s``), "cut" (short Content-Length), "cut_chunks", "cut_json", "html", "no_choices",
"null_content", "no_logprobs", "short_logprobs", "wrong_model", "swapped" (the answer to another
request), "length" (finish_reason), "redirect" (to ``location``), "huge" (a body without end).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import json
import math
import queue
import random
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, Literal

from support.server_dialects import DIALECTS, ErrorResponse, ServerCall, ServerFeatures
from support.toy_model import ToyModel

Message = dict[str, Any]
_TRANSPORTS: dict[tuple[str, int], asyncio.Transport] = {}


@dataclass(frozen=True, slots=True)
class FaultRule:
    """When a fault strikes: at these ``calls`` (0-based, of all calls to a path that begins with
    ``path``), or at this ``rate``.
    """

    name: str
    rate: float = 0.0
    calls: Sequence[int] = ()
    path: str = ""
    status: int = 500
    retry_after: str | None = None
    pause_s: float = 1.0
    location: str = ""
    text: str = ""


class FaultScript:
    """Which call meets which fault: the first rule that strikes. The same seed and order of calls
    strike the same.
    """

    def __init__(self, rules: Sequence[FaultRule] = (), seed: int = 0) -> None:
        self.rules, self.seed = tuple(rules), seed
        self._random = random.Random(seed)
        self._call_counts = [0] * len(self.rules)

    def next_fault(self, path: str) -> FaultRule | None:
        hit = None
        for at, rule in enumerate(self.rules):
            if not path.startswith(rule.path):
                continue
            number, self._call_counts[at] = self._call_counts[at], self._call_counts[at] + 1
            if (number in rule.calls or self._random.random() < rule.rate) and hit is None:
                hit = rule
        return hit

    def __repr__(self) -> str:  # pytest prints it beside a failure: enough to play it again
        return f"Script({list(self.rules)!r}, seed={self.seed})"


@dataclass(slots=True)
class LoggedCall:
    """One call as the server saw it. ``body_hash`` identifies calls with the same body;
    times are time.monotonic().
    """

    started_at: float
    method: str
    path: str
    body_hash: str
    body: Any
    headers: Mapping[str, str]
    fault: str | None = None
    retry_after_s: float | None = None  # what Retry-After asked for
    status: int = 200
    calls_in_flight: int = 0  # other calls under way when it came
    # When an abandoned call's connection was given up by the client
    disconnected_at: float | None = None


@dataclass(slots=True)
class FaultServer:
    """An ASGI app: ``dialect`` "openai", "vllm", "llama-server" or "ollama"; see the module for the
    rest.
    """

    dialect: Literal["openai", "vllm", "llama-server", "ollama"] = "openai"
    model: ToyModel = field(default_factory=ToyModel)
    features: ServerFeatures = field(default_factory=ServerFeatures)
    script: FaultScript = field(default_factory=FaultScript)
    log: list[LoggedCall] = field(default_factory=list)
    key: str | None = None  # asked for as a Bearer token or api-key, if any
    delay_s: float = 0.0
    in_flight: int = 0
    max_in_flight: int = 0
    _last_answers: dict[str, Any] = field(default_factory=dict)

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        assert scope["type"] == "http"
        body = await _read_body(receive)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        row = hashlib.sha256(body).hexdigest()[:12]
        entry = LoggedCall(
            time.monotonic(),
            scope["method"],
            scope["path"],
            row,
            json.loads(body) if body else None,
            headers,
        )
        entry.calls_in_flight = self.in_flight
        self.log.append(entry)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await self._answer(scope, entry, receive, send)
        finally:
            self.in_flight -= 1

    async def _answer(self, scope: Message, entry: LoggedCall, receive: Any, send: Any) -> None:
        rule = self.script.next_fault(entry.path)
        entry.fault = rule.name if rule else None
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if rule and rule.name in _REQUEST_FAULTS:
            await _REQUEST_FAULTS[rule.name](
                rule, entry, _TRANSPORTS[tuple(scope["client"])], receive, send
            )
            return
        if (
            self.key
            and entry.headers.get("authorization") != f"Bearer {self.key}"
            and entry.headers.get("api-key") != self.key
        ):
            entry.status = 401
            await _send_json(
                send,
                401,
                {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}},
            )
            return
        try:
            call = ServerCall(entry.method, entry.path, entry.body, entry.headers)
            answer = DIALECTS[self.dialect](call, self.model, self.features)
        except ErrorResponse as refusal:
            entry.status = refusal.status
            await _send_json(send, refusal.status, refusal.body)
            return
        if isinstance(answer, list):  # the pieces of a stream
            await _send_stream(
                send,
                answer,
                "ollama" if self.dialect == "ollama" else "sse",
                rule,
                _TRANSPORTS[tuple(scope["client"])],
            )
            return
        answer = self._corrupt_answer(answer, rule, entry) if rule else answer
        self._last_answers[entry.path] = answer if not rule else self._last_answers.get(entry.path)
        text = json.dumps(answer).encode()
        if rule and rule.name in _BODY_FAULTS:
            await _BODY_FAULTS[rule.name](
                text, rule, entry, _TRANSPORTS[tuple(scope["client"])], receive, send
            )
            return
        await _send_json(send, 200, text)

    def _corrupt_answer(self, answer: Any, rule: FaultRule, entry: LoggedCall) -> Any:
        """An answer with 200 and well-formed JSON that is wrong all the same."""
        if rule.name == "swapped":
            return self._last_answers.get(entry.path) or answer
        answer = copy.deepcopy(answer)
        if rule.name == "wrong_model":
            answer["model"] = "another-model"
        for choice in [answer] if "message" in answer else answer.get("choices", []):
            if rule.name == "null_content":
                choice.get("message", choice)["content" if "message" in choice else "text"] = None
            if rule.name == "no_logprobs":
                choice.pop("logprobs", None)
                choice.pop("prompt_logprobs", None)
            if rule.name == "short_logprobs":
                _drop_last_logprob(choice)
            if rule.name == "length":
                choice["done_reason" if "done_reason" in choice else "finish_reason"] = "length"
        if rule.name == "no_choices":
            answer.pop("message", None)
            answer["choices"] = []
        return answer


@contextmanager
def serve(
    app: FaultServer | Callable[..., Any],
    *,
    host: str = "127.0.0.1",
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[str]:
    """Run the app on a free port of ``host`` until the block ends; the address, without a path.
    ``certificate``: files (chain, key).
    """
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        """Keeps each connection's transport where the app finds it: no ASGI message resets a
        connection.
        """

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            _TRANSPORTS[transport.get_extra_info("peername")[:2]] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            _TRANSPORTS.pop(self.transport.get_extra_info("peername")[:2], None)
            super().connection_lost(exc)

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, backlog=256)
    # Asyncio sets it only on sockets that it made: 40 ms a call.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    secure = (
        {"ssl_certfile": str(certificate[0]), "ssl_keyfile": str(certificate[1])}
        if certificate
        else {}
    )
    config = uvicorn.Config(
        app,
        http=Protocol,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        **secure,  # type: ignore[arg-type]
    )
    loops: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()
    work = _run_uvicorn(uvicorn.Server(config), listener, loops.put)
    thread = threading.Thread(target=lambda: asyncio.run(work), name="fault-server", daemon=True)
    thread.start()
    loop, stop = loops.get(timeout=10)
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"{'https' if certificate else 'http'}://{shown}:{listener.getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        listener.close()


async def _run_uvicorn(
    server: Any, listener: socket.socket, report_ready: Callable[[Any], None]
) -> None:
    """What uvicorn's own loop does, without the 0.2 seconds that it takes to end: there are many
    tests.
    """
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup(sockets=[listener])
    stop = asyncio.Event()
    report_ready((asyncio.get_running_loop(), stop))
    while not stop.is_set():
        await server.on_tick(0)  # keeps the header Date up to date
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.5)
    for listening in server.servers:
        listening.close()
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    await asyncio.sleep(0)


async def _read_body(receive: Callable[[], Awaitable[Message]]) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _send_json(
    send: Any, status: int, body: Any, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    base = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*base, *headers]})
    await send({"type": "http.response.body", "body": content})


async def _send_stream(
    send: Any, pieces: list[Any], form: str, rule: FaultRule | None, transport: asyncio.Transport
) -> None:
    kind = b"application/x-ndjson" if form == "ollama" else b"text/event-stream"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    for at, piece in enumerate(pieces):
        if rule and rule.name in {"cut", "cut_chunks", "cut_json"} and at >= len(pieces) // 2:
            transport.close()
            return
        if rule and rule.name == "drip":
            await asyncio.sleep(rule.pause_s)
        line = json.dumps(piece) + "\n" if form == "ollama" else f"data: {json.dumps(piece)}\n\n"
        await send({"type": "http.response.body", "body": line.encode(), "more_body": True})
    await send(
        {"type": "http.response.body", "body": b"" if form == "ollama" else b"data: [DONE]\n\n"}
    )


async def _wait_for_disconnect(receive: Any, entry: LoggedCall) -> None:
    """Wait until the client lets go of the connection, and note when."""
    while (await receive())["type"] != "http.disconnect":
        pass
    entry.disconnected_at = time.monotonic()


async def _send_status(
    rule: FaultRule, entry: LoggedCall, _transport: Any, _receive: Any, send: Any
) -> None:
    entry.status = rule.status
    headers = []
    if rule.retry_after is not None:
        kind, _, seconds = rule.retry_after.rpartition(":")
        now = time.time()
        # An HTTP date has whole seconds.
        then = math.floor(now + float(seconds)) if kind == "date" else None
        headers = [
            (b"retry-after", (formatdate(then, usegmt=True) if then else rule.retry_after).encode())
        ]
        with contextlib.suppress(ValueError):
            entry.retry_after_s = then - now if then else float(rule.retry_after)
    text = rule.text or "something is wrong with: the text of a record"
    await _send_json(
        send,
        rule.status,
        {"error": {"message": text, "type": "server_error", "code": None}},
        headers,
    )


async def _reset_connection(
    _rule: FaultRule, _entry: LoggedCall, transport: asyncio.Transport, receive: Any, _send: Any
) -> None:
    # A linger of zero makes the kernel send RST instead of FIN.
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    transport.abort()
    await receive()


async def _stall_request(
    _rule: FaultRule, entry: LoggedCall, _transport: Any, receive: Any, _send: Any
) -> None:
    await _wait_for_disconnect(receive, entry)


async def _send_html(
    _rule: FaultRule, _entry: LoggedCall, _transport: Any, _receive: Any, send: Any
) -> None:
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]}
    )
    await send(
        {
            "type": "http.response.body",
            "body": b"<html><body><h1>Gateway</h1>Please log in.</body></html>",
        }
    )


async def _send_redirect(
    rule: FaultRule, entry: LoggedCall, _transport: Any, _receive: Any, send: Any
) -> None:
    entry.status = 307
    await _send_json(send, 307, {}, [(b"location", rule.location.encode())])


async def _send_endless_body(
    _rule: FaultRule, entry: LoggedCall, transport: asyncio.Transport, receive: Any, send: Any
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json")],
        }
    )
    while not transport.is_closing():
        await send({"type": "http.response.body", "body": b" " * 1_000_000, "more_body": True})
    await _wait_for_disconnect(receive, entry)


async def _drip_body(
    text: bytes,
    rule: FaultRule,
    entry: LoggedCall,
    transport: asyncio.Transport,
    receive: Any,
    send: Any,
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", str(len(text)).encode())],
        }
    )
    for at in range(len(text)):
        if transport.is_closing():
            await _wait_for_disconnect(receive, entry)
            return
        await send(
            {
                "type": "http.response.body",
                "body": text[at : at + 1],
                "more_body": at + 1 < len(text),
            }
        )
        await asyncio.sleep(rule.pause_s)


async def _cut_body(
    text: bytes,
    _rule: FaultRule,
    _entry: LoggedCall,
    transport: asyncio.Transport,
    receive: Any,
    _send: Any,
) -> None:
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
    ).encode()
    transport.write(head + text[: len(text) // 2])
    transport.close()
    await receive()


async def _cut_chunked_body(
    text: bytes,
    _rule: FaultRule,
    _entry: LoggedCall,
    transport: asyncio.Transport,
    receive: Any,
    _send: Any,
) -> None:
    half = text[: len(text) // 2]
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    transport.write(head + f"{len(half):x}\r\n".encode() + half + b"\r\n")
    transport.close()
    await receive()


async def _cut_json_body(
    text: bytes, _rule: FaultRule, _entry: LoggedCall, _transport: Any, _receive: Any, send: Any
) -> None:
    await _send_json(send, 200, text[: len(text) // 2])


_REQUEST_FAULTS = {
    "status": _send_status,
    "reset": _reset_connection,
    "stall": _stall_request,
    "html": _send_html,
    "redirect": _send_redirect,
    "huge": _send_endless_body,
}
_BODY_FAULTS = {
    "drip": _drip_body,
    "cut": _cut_body,
    "cut_chunks": _cut_chunked_body,
    "cut_json": _cut_json_body,
}


def _drop_last_logprob(choice: dict[str, Any]) -> None:
    """Leave the last of the logprobs out."""
    logprobs = choice.get("logprobs")
    for holder, name in (
        (logprobs, "content"),
        (logprobs, "tokens"),
        (logprobs, "token_logprobs"),
        (choice, "logprobs"),
        (choice, "prompt_logprobs"),
    ):
        if isinstance(holder, dict) and isinstance(holder.get(name), list):
            holder[name] = holder[name][:-1]
