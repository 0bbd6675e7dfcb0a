"""The client against a real server on this machine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx2", reason="the extra http is not installed")

import medtask
from medtask.client import MedtaskClient, ServerProblem, ServerUnreachable
from medtask.client.connection import ServerConnection
from medtask.errors import UsageError
from medtask.server.access.roles import Role, Scope
from medtask.server.settings import RequestLimits
from support.api_server import ApiServer, run_api_server
from support.stored_tasks import PURPOSE_TASK, store_model, store_task

OPTIONS = {"A": "ECG", "B": "Chest X-ray"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with run_api_server(tmp_path_factory.mktemp("live") / "data") as running:
        yield running


@pytest.fixture
def client(server: ApiServer) -> Iterator[MedtaskClient]:
    with server.connect_client() as client:
        yield client


def test_predict_gives_the_answers_of_predict_without_a_server(
    server: ApiServer, client: MedtaskClient, tmp_path: Path
) -> None:
    (tmp_path / "task.yaml").write_text(PURPOSE_TASK)
    task = medtask.load_task(tmp_path)
    model_id = store_model(server, store_task(server, PURPOSE_TASK))
    texts = [f"resection of the colon {number}" for number in range(300)]
    rows = [{"text": text} for text in texts]
    expected = list(medtask.predict(task, medtask.load_model("fake:"), rows))
    for given in (texts, rows):
        found = list(client.predict(model=model_id, rows=given))
        assert [one.record_id for one in found] == [one.record_id for one in expected]
        assert [one.value for one in found] == [one.value for one in expected]
        assert [one.probabilities for one in found] == [one.probabilities for one in expected]
        assert [one.status for one in found] == [one.status for one in expected]


def test_a_task_file_is_uploaded(client: MedtaskClient, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(PURPOSE_TASK)
    (answer,) = client.predict(tmp_path, "fake:", ["biopsy of the liver"])
    assert answer.value in ("curative", "palliative", "diagnostic")


def test_predict_reads_rows_as_answers_are_taken(server: ApiServer, client: MedtaskClient) -> None:
    model_id = store_model(server, store_task(server, PURPOSE_TASK))
    read: list[int] = []

    def endless() -> Iterator[str]:
        number = 0
        while True:
            read.append(number)
            yield f"text {number}"
            number += 1

    answers = client.predict(model=model_id, rows=endless())
    assert next(answers).record_id == "1"
    assert len(read) < 1000
    answers.close()  # type: ignore[attr-defined]


def test_answers_that_nobody_takes_are_not_waited_for(
    server: ApiServer, client: MedtaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = store_task(server, PURPOSE_TASK)
    post, closed = client.post, threading.Event()
    started: list[str] = []
    ended: list[str] = []

    def answer_first_rows_only(path: str, body: Any) -> Any:
        started.append(path)
        if "text 0" not in body["texts"]:
            assert closed.wait(30)
        try:
            return post(path, body)
        finally:
            ended.append(path)

    monkeypatch.setattr(client, "post", answer_first_rows_only)
    answers = client.predict(task, "fake:", (f"text {number}" for number in range(200)))
    assert next(answers).record_id == "1"
    thread = threading.Thread(target=answers.close)  # type: ignore[attr-defined]
    thread.start()
    thread.join(10)
    is_waiting = thread.is_alive()
    closed.set()
    while len(ended) < len(started):  # they use the connection, which is closed after the test
        time.sleep(0.01)
    assert not is_waiting


def test_a_question_is_answered(client: MedtaskClient) -> None:
    found = client.ask("What is next?", case="Chest pain.", options=OPTIONS, model="fake:")
    assert found.answer in OPTIONS
    assert found.option == OPTIONS[found.answer]
    assert found.status is medtask.Status.OK or found.status is medtask.Status.REVIEW
    assert found.analysis
    assert sum((found.probabilities or {}).values()) == pytest.approx(1)
    assert found.to_json()["option"] == found.option


def test_a_question_is_streamed(client: MedtaskClient) -> None:
    thoughts: list[str] = []
    texts: list[str] = []
    found = client.ask(
        "What is glaucoma?", model="fake:", on_text=texts.append, on_thought=thoughts.append
    )
    whole = client.ask("What is glaucoma?", model="fake:")
    assert found == whole
    assert "".join(texts).strip() == found.answer
    assert "".join(thoughts).strip() == (found.analysis or "").strip()


@pytest.mark.parametrize("streamed", [False, True])
def test_an_error_of_the_server_is_raised_with_its_remedy(
    client: MedtaskClient, streamed: bool
) -> None:
    on_text = print if streamed else None
    with pytest.raises(ServerProblem, match="there is no question") as caught:
        client.ask(" ", on_text=on_text)
    assert caught.value.fix == 'give "question", "case", or both'
    assert caught.value.status == 422
    assert caught.value.exit_code == 4
    assert isinstance(caught.value, medtask.MedtaskError)


def test_a_key_that_is_not_valid_is_refused_when_connecting(server: ApiServer) -> None:
    with pytest.raises(ServerProblem) as caught:
        medtask.connect(server.url, key="mtk_wrong")
    assert caught.value.status == 401
    assert caught.value.exit_code == 2


def test_the_key_is_read_from_the_environment(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDTASK_KEY", server.create_key(Role.VIEWER, Scope.READ))
    with medtask.connect(server.url) as client:
        assert client.get("/api/me")["role"] == "viewer"


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("ftp://127.0.0.1", "http://127.0.0.1:8000"),
        ("http://hospital.example:8000", "https"),
    ],
)
def test_an_address_that_is_not_safe_is_refused(url: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        medtask.connect(url)
    assert fix in caught.value.fix


def test_a_server_that_does_not_run_is_reported(unused_tcp_port: int) -> None:
    with pytest.raises(ServerUnreachable, match="does not answer") as caught:
        medtask.connect(f"http://127.0.0.1:{unused_tcp_port}")
    assert "medtask serve" in caught.value.fix


@pytest.fixture
def unused_tcp_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    limits = RequestLimits(queue_length=1)
    with run_api_server(tmp_path / "data", limits=limits) as server:
        model_id = store_model(server, store_task(server, PURPOSE_TASK), base="fake:ms_per_row=5")
        with server.connect_client() as client:
            answers = list(client.predict(model=model_id, rows=[f"text {n}" for n in range(200)]))

            def ask(question: str) -> str | None:
                slow = "fake:ms_per_row=300"
                return client.ask(question, model=slow, on_text=lambda piece: None).answer

            with ThreadPoolExecutor(2) as threads:  # one streamed question waits for the other
                assert all(threads.map(ask, ("one?", "two?")))
        assert [answer.record_id for answer in answers] == [str(n) for n in range(1, 201)]
        assert all(answer.value for answer in answers)


def test_a_download_that_breaks_off_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """The server announces more than it sends."""
    file = tmp_path / "answers.csv"
    file.write_text("earlier")
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:

        def send_half() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

        sent = threads.submit(send_half)
        connection = ServerConnection(f"http://127.0.0.1:{listener.getsockname()[1]}", None, 30)
        with closing(connection), pytest.raises(ServerUnreachable):
            connection.download("/api/runs/1/answers.csv", file)
        sent.result(30)
    assert file.read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["answers.csv"]
