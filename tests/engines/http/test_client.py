"""Rows R10 to R13 of the reliability plan, against a server that does all of it on purpose."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from medtask.engines.http.client import HttpClient, InvalidResponse, RequestRejected, ServerCall
from medtask.engines.http.concurrency import AsyncClock
from medtask.engines.http.endpoint import API_KEY_VARIABLE, find_endpoint
from medtask.errors import EngineError, UsageError
from medtask.privacy import block_network
from medtask.records import Fault, Status
from support.fault_server import (
    FaultRule,
    FaultScript,
    FaultServer,
    LoggedCall,
    ServerFeatures,
    serve,
)
from support.skipping_clock import SkippingClock

ROWS = 40
PATH = "chat/completions"
SECRET = "patient 4711 has gout"


def make_body(row: int) -> dict[str, Any]:
    return {
        "model": "toy-1",
        "max_tokens": 2,
        "messages": [{"role": "user", "content": f"row {row} {SECRET}"}],
    }


def make_calls(count: int = ROWS) -> Iterator[ServerCall]:
    return (ServerCall(str(row), PATH, make_body(row)) for row in range(count))


def read_text(_call: ServerCall, value: Any) -> str:
    """What a dialect's reader does, in short: every part that an answer is made of must be
    there.
    """
    (choice,) = value["choices"] or [None]
    if choice is None or value["model"] != "toy-1" or choice["finish_reason"] is None:
        raise InvalidResponse("it holds no answer")
    steps = choice["logprobs"]["content"] if "logprobs" in _call.body else None
    text = choice["message"]["content"]
    if not isinstance(text, str) or (
        steps is not None and "".join(step["token"] for step in steps) != text
    ):
        raise InvalidResponse("it holds no whole answer")
    return text


@contextmanager
def open_client(app: FaultServer, *, fast: bool = True, **options: Any) -> Iterator[HttpClient]:
    clock = {"clock": SkippingClock().make_clock()} if fast else {}
    with (
        serve(app) as url,
        HttpClient(find_endpoint(f"{url}/v1#toy-1"), **clock, **options) as client,
    ):
        yield client


def post_all(client: HttpClient, count: int = ROWS) -> dict[str, str | Fault]:
    return {
        call.record_id: result for call, result in client.post_all(make_calls(count), read_text)
    }


@pytest.fixture(scope="module")
def reference_answers() -> dict[str, str | Fault]:
    with open_client(FaultServer()) as client:
        output = post_all(client)
    assert len(output) == ROWS
    # Answers differ, so that swapped ones are noticed.
    assert len(set(map(str, output.values()))) > 5
    return output


def group_by_row(log: Sequence[LoggedCall]) -> dict[str, list[LoggedCall]]:
    rows = defaultdict(list)
    for entry in log:
        rows[entry.body_hash].append(entry)
    return rows


# Until a response has been read, which takes long on a busy machine, calls cannot respect it.
RESPONSE_S = 0.3


def assert_retry_after_respected(log: Sequence[LoggedCall]) -> None:
    """By the server's own log: behind a 429 no call is begun before the time that it named."""
    output = [
        (entry.started_at, entry.retry_after_s) for entry in log if entry.retry_after_s is not None
    ]
    assert output
    for at, wait_s in output:
        assert not [
            entry.started_at - at
            for entry in log
            if at + RESPONSE_S < entry.started_at < at + wait_s
        ]
    for entries in group_by_row(log).values():
        for earlier, later in pairwise(entries):
            assert (
                earlier.retry_after_s is None
                or later.started_at >= earlier.started_at + earlier.retry_after_s
            )


# R10
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_after", ["0.3", None, "soon", "-5"])
def test_429_is_waited_for_and_changes_nothing(
    reference_answers: dict[str, str], retry_after: str | None
) -> None:
    app = FaultServer(
        script=FaultScript(
            [FaultRule("status", rate=0.3, status=429, retry_after=retry_after)], seed=10
        )
    )
    with open_client(app) as client:
        assert post_all(client) == reference_answers
    assert len(app.log) <= 2 * ROWS, app.script
    assert any(entry.fault for entry in app.log)


@pytest.mark.parametrize("retry_after", ["0.6", "date:1"])
def test_no_call_is_made_before_the_time_that_the_server_names(retry_after: str) -> None:
    few = [2] if "date" in retry_after else [2, 9, 10]
    app = FaultServer(
        script=FaultScript([FaultRule("status", calls=few, status=429, retry_after=retry_after)])
    )
    with open_client(app, fast=False, concurrency=4) as client:
        assert not [fault for fault in post_all(client, 16).values() if isinstance(fault, Fault)]
    assert_retry_after_respected(app.log)


@pytest.mark.slow
@pytest.mark.parametrize("retry_after", ["0.5", pytest.param("date:1.5", marks=pytest.mark.scale)])
def test_no_call_is_made_too_early_at_three_refusals_in_ten(
    reference_answers: dict[str, str], retry_after: str
) -> None:
    app = FaultServer(
        script=FaultScript(
            [FaultRule("status", rate=0.3, status=429, retry_after=retry_after)], seed=11
        )
    )
    with open_client(app, fast=False) as client:
        assert post_all(client) == reference_answers
    assert_retry_after_respected(app.log)
    assert len(app.log) <= 2 * ROWS


def test_an_overloaded_server_is_asked_fewer_things_at_once() -> None:
    app = FaultServer(
        script=FaultScript(
            [FaultRule("status", calls=range(8, 16), status=429, retry_after="0.6")]
        ),
        delay_s=0.2,
    )
    with open_client(app, fast=False, concurrency=8) as client:
        post_all(client, 32)
    assert max(entry.calls_in_flight for entry in app.log[:8]) == 7
    refused = max(entry.started_at for entry in app.log if entry.fault)
    after = [one.calls_in_flight for one in app.log if one.started_at > refused + RESPONSE_S]
    assert max(after[:8]) <= 5  # half as many, and one more at a time
    assert after


def test_the_number_of_places_halves_once_per_overload_and_grows_again() -> None:
    async def run() -> list[int]:
        from medtask.engines.http.concurrency import ConcurrencyLimiter

        now = [0.0]
        pace = ConcurrencyLimiter(8, seed=0, clock=AsyncClock(now=lambda: now[0]))
        seen = []
        entered = [await pace.acquire() for _ in range(8)]
        now[0] = 1.0
        for one in entered:
            pace.reduce_limit(one)  # eight calls of the same moment
            pace.release()
        seen.append(pace.limit)
        now[0] = 2.0
        pace.reduce_limit(await pace.acquire())
        seen.append(pace.limit)
        for _ in range(40):
            pace.record_success()
        return [*seen, pace.limit]

    assert anyio.run(run) == [4, 2, 8]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (
            FaultRule("status", rate=1, status=429, retry_after="86400"),
            "asks to wait 86,400 seconds",
        ),
        (FaultRule("status", rate=1, status=429), "20 consecutive calls to the server failed"),
    ],
)
def test_a_server_that_is_out_of_reach_for_today_stops_the_run(rule: FaultRule, says: str) -> None:
    with (
        open_client(FaultServer(script=FaultScript([rule]))) as client,
        pytest.raises(EngineError, match=says) as caught,
    ):
        post_all(client)
    assert caught.value.exit_code == 5


# R11
# ------------------------------------------------------------------------------

FAILURES = [FaultRule("status", rate=0.05, status=status) for status in (500, 502, 503, 504)]


@pytest.mark.parametrize(
    "rules",
    [FAILURES, [FaultRule("reset", rate=0.2)], [FaultRule("status", rate=0.2, status=408)]],
    ids=["5xx", "reset", "408"],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_failing_server_changes_nothing(
    reference_answers: dict[str, str], rules: list[FaultRule], seed: int
) -> None:
    app = FaultServer(script=FaultScript(rules, seed=seed))
    with open_client(app) as client:
        assert post_all(client) == reference_answers, app.script
    assert len(app.log) <= 2 * ROWS


def test_delays_grow_are_spread_and_stay_below_a_minute() -> None:
    from medtask.engines.http.concurrency import ConcurrencyLimiter

    async def run(seed: int) -> list[float]:
        pace = ConcurrencyLimiter(8, seed=seed, clock=AsyncClock())
        return [pace.draw_delay_s(tries) for tries in range(40)]

    one, same, other = anyio.run(run, 1), anyio.run(run, 1), anyio.run(run, 2)
    assert one == same != other
    assert all(0 <= delay <= min(60, 0.5 * 2**tries) for tries, delay in enumerate(one))
    assert max(one) > 40
    assert min(one[10:]) < 20  # full jitter: from nothing up


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(
    "rule",
    [
        FaultRule("status", rate=1, status=503),
        FaultRule("reset", rate=1),
        FaultRule("html", rate=1),
    ],
    ids=lambda rule: rule.name,
)
def test_twenty_failures_in_a_row_open_the_circuit(rule: FaultRule, concurrency: int) -> None:
    app = FaultServer(script=FaultScript([rule]))
    with (
        open_client(app, concurrency=concurrency) as client,
        pytest.raises(EngineError, match="20 consecutive calls to the server") as caught,
    ):
        post_all(client)
    assert caught.value.exit_code == 5
    assert "run the same command again" in caught.value.fix
    # Of calls that broke off together one was counted, at most four more times until one call at a
    # time looked after the server.
    assert len(app.log) == 20 if concurrency == 1 else 20 <= len(app.log) <= 20 + 5 * 8


def test_many_calls_that_break_off_together_are_one_failure(
    reference_answers: dict[str, str],
) -> None:
    app = FaultServer(script=FaultScript([FaultRule("reset", calls=range(30))]), delay_s=0.05)
    with open_client(app, concurrency=30) as client:
        assert post_all(client) == reference_answers


def test_a_row_is_given_up_where_only_it_fails() -> None:
    class SingleRowFaultServer(FaultServer):
        async def _answer(self, scope: Any, entry: LoggedCall, receive: Any, send: Any) -> None:
            self.script = FaultScript(
                [FaultRule("status", rate=1, status=500)]
                if "row 5 " in json.dumps(entry.body)
                else []
            )
            await super()._answer(scope, entry, receive, send)

    with open_client(SingleRowFaultServer(), concurrency=2) as client:
        output = post_all(client, 40)
    faults = {row: result for row, result in output.items() if isinstance(result, Fault)}
    assert faults == {"5": Fault("5", Status.FAILED, "engine_unavailable: HTTP 500 (server_error)")}


@pytest.mark.parametrize("concurrency", [1, 8])
def test_no_row_is_given_up_for_a_server_that_is_down_for_good(concurrency: int) -> None:
    app = FaultServer(script=FaultScript([FaultRule("status", status=503, calls=range(10, 10**6))]))
    output: dict[str, Any] = {}
    with (
        open_client(app, concurrency=concurrency) as client,
        pytest.raises(EngineError, match="20 consecutive calls to the server failed"),
    ):
        for call, result in client.post_all(make_calls(40), lambda _, value: value):
            output[call.record_id] = result
    assert output
    assert not [result for result in output.values() if isinstance(result, Fault)]


def test_a_server_fails_if_several_calls_failed_and_none_has_succeeded_since() -> None:
    from medtask.engines.http.concurrency import ConcurrencyLimiter

    now = [0.0]
    limiter = ConcurrencyLimiter(8, seed=0, clock=AsyncClock(now=lambda: now[0]))
    seen = []
    for call in (1, 1, 2, 3):
        limiter.record_failure(call, now[0], "HTTP 503")
        seen.append(limiter.is_server_failing)
    limiter.record_success()
    assert [*seen, limiter.is_server_failing] == [False, False, False, True, False]


def test_a_server_that_is_away_for_a_while_is_waited_for(reference_answers: dict[str, str]) -> None:
    app = FaultServer(script=FaultScript([FaultRule("reset", calls=range(10, 24))]))
    with open_client(app, concurrency=8) as client:
        assert post_all(client) == reference_answers


def test_a_server_that_is_not_running_is_reported_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with HttpClient(
        find_endpoint(f"http://127.0.0.1:{port}/v1#m"), clock=SkippingClock().make_clock()
    ) as client:
        with pytest.raises(
            EngineError, match=f"no usable answer from http://127.0.0.1:{port}/v1"
        ) as caught:
            client.get("models")
        assert "no connection could be made" in str(caught.value)


@contextmanager
def make_certificate(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A certificate of an authority of one's own for the name model.test."""
    chain, key = folder / "chain.pem", folder / "key.pem"
    subject = ["-subj", "/CN=model.test", "-addext", "subjectAltName=DNS:model.test"]
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        str(key),
        "-out",
        str(chain),
        *subject,
    ]
    subprocess.run(made, check=True, capture_output=True)
    yield chain, key


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    with make_certificate(tmp_path_factory.mktemp("tls")) as files:
        yield files


def open_https_client(url: str, host: str, **options: Any) -> HttpClient:
    endpoint = find_endpoint(
        f"https://{host}:{url.rpartition(':')[2]}/v1#toy-1",
        resolve=lambda _host, _port: ["127.0.0.1"],
    )
    return HttpClient(endpoint, clock=SkippingClock().make_clock(), **options)


def test_the_name_that_the_user_wrote_is_the_name_that_the_certificate_must_have(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = FaultServer()
    with serve(app, certificate=certificate) as url:
        with (
            open_https_client(url, "model.test") as client,
            pytest.raises(EngineError, match=r"certificate of model\.test cannot be trusted"),
        ):
            client.get("models")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        with open_https_client(url, "model.test") as client:
            assert client.get("models")
        with (
            open_https_client(url, "other.test") as client,
            pytest.raises(EngineError, match=r"certificate of other\.test"),
        ):
            client.get("models")
    assert {entry.headers["host"].partition(":")[0] for entry in app.log} == {"model.test"}


def test_a_broken_handshake_is_tried_again(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port on which every other connection does not speak TLS."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with (
        serve(FaultServer(), certificate=certificate) as url,
        run_flaky_proxy(
            int(url.rpartition(":")[2]), is_broken=lambda number: number % 2 == 0
        ) as port,
        open_https_client(f"x:{port}", "model.test") as client,
    ):
        assert not [result for result in post_all(client, 10).values() if isinstance(result, Fault)]


@contextmanager
def run_flaky_proxy(target: int, is_broken: Callable[[int], bool]) -> Iterator[int]:
    """A port of 127.0.0.1 that passes bytes on to ``target``, but answers nonsense on the
    connections that are to be spoilt.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = []

    def copy_bytes(source: socket.socket, sink: socket.socket) -> None:
        try:
            while part := source.recv(65536):
                sink.sendall(part)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def accept_connections() -> None:
        number = 0
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            ends.append(near)
            if is_broken(number):
                near.recv(1024)
                near.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                near.shutdown(socket.SHUT_RDWR)
            else:
                far = socket.create_connection(("127.0.0.1", target))
                ends.append(far)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=copy_bytes, args=pair, daemon=True).start()
            number += 1

    thread = threading.Thread(target=accept_connections, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        for end in ends:
            end.close()


# R12
# ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        FaultRule("stall", rate=1),
        FaultRule("drip", rate=1, pause_s=0.05),
        FaultRule("huge", rate=1),
    ],
    ids=lambda rule: rule.name,
)
def test_the_deadline_of_a_request_holds_whatever_the_server_does(rule: FaultRule) -> None:
    app = FaultServer(script=FaultScript([rule]))
    with open_client(app, deadline_s=0.3) as client:
        began = time.monotonic()
        with pytest.raises(EngineError):
            client.post(PATH, make_body(1), parse_retries=0)
        took = time.monotonic() - began
        deadline = time.monotonic() + 20
        while (
            rule.name != "huge"
            and any(entry.disconnected_at is None for entry in app.log)
            and time.monotonic() < deadline
        ):
            time.sleep(0.02)
    assert took < 6  # without a deadline they would go on for more than 20 s
    assert 1 <= len(app.log) <= 3
    for entry in app.log:
        assert rule.name == "huge" or (
            entry.disconnected_at is not None and 0.2 < entry.disconnected_at - entry.started_at < 5
        )


@pytest.mark.parametrize("name", ["stall", "drip"])
def test_rows_behind_a_stalled_one_get_their_answers(
    reference_answers: dict[str, str], name: str
) -> None:
    app = FaultServer(script=FaultScript([FaultRule(name, calls=[3, 11], pause_s=0.1)]))
    with open_client(app, deadline_s=0.5) as client:
        assert post_all(client, 20) == {row: reference_answers[row] for row in map(str, range(20))}


def count_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path would not be faster to read


# Answers at once and in a separate process: ten thousand calls take seconds.
_QUICK_SERVER = """
import asyncio
total = 0
async def serve(reader, writer):
    global total
    served = 0
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\\r\\n")[0] or 0))
            served, total = served + 1, total + 1
            if served % 10 == 0:    # every tenth answer on a connection is cut
                writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 9\\r\\n\\r\\n{}")
                break
            if total % 14 == 0:     # every fourteenth comes too late
                await asyncio.sleep(30)
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{}")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""  # noqa: E501 - data as it is read


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.scale)])
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files by /proc")
def test_no_connection_is_left_behind(count: int) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", _QUICK_SERVER], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout
        endpoint = find_endpoint(f"http://127.0.0.1:{int(server.stdout.readline())}/v1#m")
        before = count_open_files()
        with HttpClient(endpoint, deadline_s=0.1, clock=SkippingClock().make_clock()) as client:
            most = done = 0
            for done, _ in enumerate(
                client.post_all(
                    (ServerCall(str(row), "x", {}) for row in range(count)),
                    lambda _call, value: value,
                ),
                start=1,
            ):
                if done % 50 == 0:
                    most = max(most, count_open_files())
            assert done == count
            assert most <= before + 8 + 6  # the connections, and what an event loop needs
        assert count_open_files() <= before
    finally:
        server.terminate()
        server.wait()
        assert server.stdout
        server.stdout.close()


# R13
# ------------------------------------------------------------------------------

BROKEN_ANSWER_FAULTS = [
    "cut",
    "cut_chunks",
    "cut_json",
    "html",
    "no_choices",
    "null_content",
    "no_logprobs",
    "short_logprobs",
    "wrong_model",
    "swapped",
]


@pytest.mark.parametrize("name", BROKEN_ANSWER_FAULTS)
def test_half_and_wrong_answers_are_asked_again_and_become_no_label(
    reference_answers: dict[str, str], name: str
) -> None:
    """Swapped answers can be detected by ids only: there, and only there, the client can see
    it.
    """
    app = FaultServer(script=FaultScript([FaultRule(name, rate=0.1)], seed=13))
    asked = [
        ServerCall(call.record_id, PATH, {**call.body, "logprobs": True, "top_logprobs": 2})
        for call in make_calls()
    ]
    with open_client(app) as client:
        output = {call.record_id: result for call, result in client.post_all(asked, read_text)}
    assert output == reference_answers, app.script
    # The first answer on a path cannot be swapped with an earlier one.
    assert len(app.log) > ROWS


@pytest.mark.parametrize(
    "name", [name for name in BROKEN_ANSWER_FAULTS if name not in {"cut", "cut_chunks"}]
)
def test_what_stays_wrong_is_named_as_what_it_is(name: str) -> None:
    app = FaultServer()
    with open_client(app, concurrency=1) as client:
        post_all(client, 1)
        app.script = FaultScript([FaultRule(name, rate=1)])
        asked = [
            ServerCall(call.record_id, PATH, {**call.body, "logprobs": True, "top_logprobs": 2})
            for call in make_calls(3)
        ][1:]
        output = [result for _, result in client.post_all(asked, read_text)]
    assert len(output) == 2
    for fault in output:
        assert isinstance(fault, Fault)
        assert fault.status is Status.FAILED
        assert fault.reason.startswith("engine_protocol: ")
        assert SECRET not in fault.reason
    assert len(app.log) == 1 + 2 * 3


def test_a_body_without_end_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medtask.engines.http.transport.MAX_BODY_BYTES", 4 * 1024 * 1024)
    with open_client(FaultServer(script=FaultScript([FaultRule("huge", rate=1)]))) as client:
        output = [
            result for _, result in client.post_all(make_calls(1), read_text, parse_retries=0)
        ]
    assert output == [Fault("0", Status.FAILED, "engine_protocol: it is larger than 4 MB")]


# What a server refuses
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_refused_row_is_a_fault_at_once_and_without_the_servers_words(status: int) -> None:
    app = FaultServer(
        script=FaultScript(
            [FaultRule("status", rate=1, status=status, text=f"cannot handle: {SECRET}")]
        )
    )
    with open_client(app) as client:
        output = post_all(client, 3)
    assert output["1"] == Fault(
        "1", Status.FAILED, f"refused by the server: HTTP {status} (server_error)"
    )
    assert len(app.log) == 3


def test_a_prompt_that_is_too_long_has_a_status_of_its_own() -> None:
    with open_client(FaultServer("vllm", features=ServerFeatures(context=5))) as client:
        output = post_all(client, 2)
    assert {result.status for result in output.values() if isinstance(result, Fault)} == {
        Status.TOO_LONG
    }


@pytest.mark.parametrize(
    "text",
    [
        "the request exceeds the available context size, try increasing it",
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "the input length exceeds the context length",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "exceed_context_size_error",
        "Requested tokens (5000) exceed context window of 2048",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
    ],
)
def test_each_servers_way_to_say_too_long_is_understood(text: str) -> None:
    for status in (400, 500):
        with (
            open_client(
                FaultServer(
                    script=FaultScript([FaultRule("status", rate=1, status=status, text=text)])
                )
            ) as client,
            pytest.raises(RequestRejected) as caught,
        ):
            client.post(PATH, make_body(1))
        assert caught.value.too_long


def test_a_row_too_large_for_its_quota_is_not_asked_for_ever() -> None:
    text = "Request too large for this model on tokens per min (TPM): Limit 30000, Requested 40000."
    app = FaultServer(script=FaultScript([FaultRule("status", rate=1, status=429, text=text)]))
    with open_client(app) as client:
        (output,) = post_all(client, 1).values()
    assert isinstance(output, Fault)
    assert output.status is Status.TOO_LONG
    assert len(app.log) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_stops_the_run_and_names_its_variable(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "secret-key")
    app = FaultServer(script=FaultScript([FaultRule("status", calls=range(8), status=status)]))
    with open_client(app) as client, pytest.raises(EngineError) as caught:
        post_all(client)
    assert f"{API_KEY_VARIABLE} (it is set)" in caught.value.fix
    assert "secret-key" not in f"{caught.value!r} {caught.value.fix}"
    assert len(app.log) <= 8
    assert app.log[0].headers["authorization"] == "Bearer secret-key"


def test_no_redirect_is_followed() -> None:
    elsewhere = FaultServer()
    with serve(elsewhere) as other:
        for location in (
            f"{other}/v1/chat/completions",
            "http://169.254.169.254/latest",
            "https://example.invalid/",
        ):
            app = FaultServer(
                script=FaultScript([FaultRule("redirect", rate=1, location=location)])
            )
            with open_client(app) as client, pytest.raises(UsageError, match="redirects") as caught:
                post_all(client, 1)
            assert caught.value.exit_code == 2
            assert len(app.log) == 1
    assert not elsewhere.log


def test_a_name_is_looked_up_once_and_what_it_becomes_later_does_not_count() -> None:
    app, answers = FaultServer(), [["127.0.0.1"], ["169.254.169.254"]]
    with serve(app) as url:
        endpoint = find_endpoint(
            f"http://model.test:{url.rpartition(':')[2]}/v1#m",
            resolve=lambda _host, _port: answers.pop(0),
        )
        with block_network() as guard, HttpClient(endpoint) as client:
            assert client.get("models")
    assert len(answers) == 1
    assert guard.attempts == 0  # neither a look-up nor a connection that is not to this machine
    assert app.log[0].headers["host"].startswith("model.test:")


def test_every_address_of_a_name_is_tried() -> None:
    with serve(FaultServer()) as url:
        endpoint = find_endpoint(
            f"http://localhost:{url.rpartition(':')[2]}/v1#m",
            resolve=lambda _host, _port: ["127.0.0.2", "127.0.0.1"],
        )
        with HttpClient(endpoint) as client:
            assert client.get("models")


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with open_client(FaultServer()) as client:
        assert client.get("models")


# How it is used
# ------------------------------------------------------------------------------


def test_connections_are_used_again() -> None:
    app = FaultServer()
    peers: set[tuple[str, int]] = set()

    async def watch(scope: Any, receive: Any, send: Any) -> None:
        peers.add(tuple(scope["client"]))
        await app(scope, receive, send)

    with serve(watch) as url, HttpClient(find_endpoint(f"{url}/v1#toy-1"), concurrency=4) as client:
        post_all(client)
    assert len(peers) <= 4
    assert app.max_in_flight <= 4


def test_results_come_as_they_are_ready_and_rows_are_read_as_places_come_free() -> None:
    app = FaultServer(script=FaultScript([FaultRule("stall", calls=[0])]))
    read = []

    def list_calls() -> Iterator[ServerCall]:
        for call in make_calls():
            read.append(call.record_id)
            yield call

    with open_client(app, concurrency=4, deadline_s=5) as client:
        results = client.post_all(list_calls(), read_text)
        first = [next(results)[0].record_id for _ in range(6)]
        assert "0" not in first
        assert len(read) <= 6 + 4
        results.close()
    assert len(app.log) <= 12  # what was under way was cancelled, and nothing was begun behind that


def test_an_error_of_the_caller_cancels_pending_calls() -> None:
    def fail_after_some() -> Iterator[ServerCall]:
        yield from make_calls(2)
        raise KeyboardInterrupt

    app = FaultServer(script=FaultScript([FaultRule("stall", rate=1)]))
    with open_client(app, concurrency=4, deadline_s=30) as client:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(client.post_all(fail_after_some(), read_text))
        assert time.monotonic() - began < 20  # the calls would take 30 s


def test_an_unknown_path_is_none_and_no_json_too() -> None:
    app = FaultServer("vllm")
    with open_client(app) as client:
        assert client.get("/version") == {"version": "0.21.0"}
        assert client.get("/props") is None
        app.script = FaultScript([FaultRule("html", rate=1)])
        assert client.get("/version") is None


def test_a_stream_comes_in_pieces() -> None:
    with open_client(FaultServer()) as client:
        pieces = list(client.stream(PATH, {**make_body(1), "max_tokens": 6, "stream": True}))
        full = client.post(PATH, {**make_body(1), "max_tokens": 6})
    texts = [piece["choices"][0]["delta"].get("content", "") for piece in pieces]
    assert "".join(texts) == full["choices"][0]["message"]["content"]
    assert len([text for text in texts if text]) >= 3


def test_a_stream_of_lines_is_read_like_one_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(FaultServer("ollama")) as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        with HttpClient(find_endpoint("ollama:toy-1")) as client:
            pieces = list(client.stream("api/chat", make_body(1)))
    assert [piece["done"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len(pieces) > 2


def test_a_stream_that_breaks_off_is_malformed_and_one_that_has_not_begun_is_tried_again() -> None:
    app = FaultServer(
        script=FaultScript([FaultRule("reset", calls=[0]), FaultRule("cut", calls=[1])])
    )
    asked = {**make_body(1), "max_tokens": 6, "stream": True}
    with open_client(app) as client:
        received = []
        with pytest.raises(InvalidResponse, match="broke off"):
            received.extend(client.stream(PATH, asked))
        assert list(client.stream(PATH, asked))[-1]["choices"][0]["finish_reason"]
    assert len(app.log) == 3


def test_a_stream_that_is_left_is_cancelled() -> None:
    app = FaultServer(script=FaultScript([FaultRule("drip", rate=1, pause_s=0.05)]))
    with open_client(app, deadline_s=30) as client:
        pieces = client.stream(PATH, {**make_body(1), "max_tokens": 200, "stream": True})
        next(pieces)
        began = time.monotonic()
        pieces.close()
        assert time.monotonic() - began < 8  # its deadline is after 30 s


def test_it_works_where_a_loop_runs_already() -> None:
    async def notebook() -> Any:
        with open_client(FaultServer()) as client:
            return client.get("models")

    assert anyio.run(notebook)


def test_neither_texts_nor_keys_are_in_any_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "secret-key")
    rules = [
        FaultRule("reset", calls=[1]),
        FaultRule("cut_json", calls=[3]),
        FaultRule("status", calls=[5], status=400, text=SECRET),
    ]
    with (
        caplog.at_level(logging.DEBUG),
        open_client(FaultServer(script=FaultScript(rules))) as client,
    ):
        post_all(client, 10)
    written = "\n".join(
        f"{record.getMessage()} {record.exc_text}"
        for record in caplog.records
        if not record.name.startswith("uvicorn")
    )
    assert written  # the library below does write at this level
    assert SECRET not in written
    assert "secret-key" not in written


def test_a_closed_client_raises_with_a_clear_message() -> None:
    with open_client(FaultServer()) as client:
        pass
    client.close()
    with pytest.raises(EngineError, match="was closed"):
        client.get("models")


def test_half_a_character_does_not_stop_a_run() -> None:
    with open_client(FaultServer()) as client:
        asked = ServerCall(
            "1", PATH, {**make_body(1), "messages": [{"role": "user", "content": "\ud800"}]}
        )
        assert len(list(client.post_all([asked], read_text))) == 1
