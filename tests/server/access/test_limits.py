"""Limits of requests: each is refused at once, and says what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from httpx2 import Response

from medtask.server.access.rate import RateLimiter
from medtask.server.access.roles import Role
from medtask.server.problems import TooManyRequests
from medtask.server.settings import RequestLimits
from support.server import ServerUnderTest, run_server
from support.stored_tasks import PURPOSE_TASK, store_task

LIMITS = RequestLimits(
    body_bytes=10_000, requests_per_minute=120, sign_ins_per_minute=12, body_seconds=0.3
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    with run_server(tmp_path / "data", limits=LIMITS) as running:
        yield running


def test_a_long_body_is_refused_before_it_is_read(server: ServerUnderTest) -> None:
    client = server.connect(Role.ADMIN)
    begun = time.monotonic()
    response = client.post("/api/accounts", content=b"x" * 10_001)
    assert response.status_code == 413
    assert response.json()["fix"] == "send less at once"
    assert time.monotonic() - begun < 1


def test_a_long_body_without_a_length_is_refused(server: ServerUnderTest) -> None:
    def send_parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b'{"a": "' + b"x" * 1_000

    response = server.connect(Role.ADMIN).post("/api/accounts", content=send_parts())
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"


def test_a_body_that_does_not_arrive_is_given_up(server: ServerUnderTest) -> None:
    sent: list[int] = []

    async def ask() -> None:
        async def never_arrive() -> dict[str, object]:
            await anyio.sleep(60)
            raise AssertionError

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                sent.append(int(str(message["status"])))

        client = server.connect(Role.ADMIN)
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        headers = {
            "host": "127.0.0.1",
            "cookie": cookie,
            "content-type": "application/json",
            "x-csrf-token": str(client.headers["X-CSRF-Token"]),
        }
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/accounts",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        await server.app(scope, never_arrive, send)  # type: ignore[arg-type]

    begun = time.monotonic()
    anyio.run(ask)
    assert sent == [408]
    assert time.monotonic() - begun < 10


def test_a_user_with_too_many_requests_waits_and_others_do_not(server: ServerUnderTest) -> None:
    client = server.connect(Role.VIEWER)
    responses = [client.get("/api/me") for _ in range(40)]
    assert {one.status_code for one in responses[:20]} == {200}
    # The last may be allowed again: a permit comes back every half second.
    refused = next(one for one in responses if one.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert server.connect(Role.ADMIN).get("/api/me").status_code == 200


def test_attempts_to_sign_in_are_limited_by_address(server: ServerUnderTest) -> None:
    client = server.connect()
    statuses = {
        client.post("/sign-in", data={"name": f"user {number}", "password": "x"}).status_code
        for number in range(5)
    }
    assert statuses == {401, 429}


def test_refusals_take_less_than_a_tenth_of_a_second(server: ServerUnderTest) -> None:
    client, hasty = server.connect(Role.ADMIN), server.connect(Role.VIEWER)
    requests = {
        413: lambda: client.post("/api/accounts", content=b"x" * 10_001),
        403: lambda: client.get("/api/me", headers={"Host": "elsewhere.example"}),
        429: lambda: hasty.get("/api/me"),
    }
    while hasty.get("/api/me").status_code != 429:
        pass
    for status, send in requests.items():
        check_refusals(send, status, also=200)  # a permit comes back meanwhile


def check_refusals(send: Callable[[], Response], status: int, also: int = 0) -> None:
    """95 % of the refusals of a request take less than 100 ms of the processor."""
    seconds = []
    for _ in range(40):
        begun = time.process_time()  # of the processor: the machine may be busy
        response = send()
        seconds.append(time.process_time() - begun)
        assert response.status_code in (status, also), response.text
    assert sorted(seconds)[int(0.95 * len(seconds))] < 0.1, (status, seconds)


def test_refusals_of_texts_and_of_full_queues_take_less_than_a_tenth_of_a_second(
    tmp_path: Path,
) -> None:
    limits = RequestLimits(rows_per_request=100, characters_per_text=1_000, queue_length=2)
    with run_server(tmp_path / "data", limits=limits) as server:
        client, task = server.connect(Role.TRAINER), store_task(server, PURPOSE_TASK)

        def classify(**body: object) -> Response:
            return client.post("/classify", json={"task_id": task, "model": "fake:", **body})

        check_refusals(lambda: classify(texts=["x"] * 101), 422)
        check_refusals(lambda: classify(text="x" * 1_001), 413)
        check_refusals(lambda: client.post("/ask", json={"question": "x", "max_tokens": 9999}), 422)

        rows = {"name": "rows", "rows": [{"text": "x"}]}
        dataset = client.post("/api/datasets/rows", json=rows).json()["id"]
        run = {"task_id": task, "dataset_id": dataset, "model": "fake:"}
        assert [client.post("/api/runs", json=run).status_code for _ in range(2)] == [202] * 2
        check_refusals(lambda: client.post("/api/runs", json=run), 429)

        service = server.app.state.inference
        with service._count_request(), service._count_request():  # as many as may be answered
            check_refusals(lambda: classify(text="x"), 429)
        assert classify(text="x").status_code == 200


def test_permits_come_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("medtask.server.access.rate.time.monotonic", lambda: now)
    limiter = RateLimiter(60)
    for _ in range(10):
        limiter.take("a")
    with pytest.raises(TooManyRequests):
        limiter.take("a")
    now += 2.0
    limiter.take("a")
    limiter.take("a")
    with pytest.raises(TooManyRequests):
        limiter.take("a")


def test_a_server_that_is_hammered_forgets_addresses() -> None:
    limiter = RateLimiter(60)
    for number in range(30_000):
        limiter.take(f"address {number}")
    assert len(limiter._buckets) <= 10_000
