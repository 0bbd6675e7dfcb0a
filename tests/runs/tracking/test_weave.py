"""Runs as calls of Weave, sent to a server of this machine that has as much of its API as one
call needs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from medtask.errors import MissingExtra, StorageError, UsageError
from medtask.privacy import find_unset_variables
from medtask.runs.tracking import weave as room
from medtask.runs.tracking.tracked_run import TrackingRecord
from medtask.runs.tracking.tracker import log_run, open_tracker

MANIFEST = {
    "medtask": "1",
    "identity": {"data.sha256": "abc"},
    "task": {"fingerprint": "f"},
    "model": {"title": "m", "name": "hf"},
}
DOCUMENT = {"metrics": {"accuracy": {"value": 0.5, "n": 3}}, "rows": 3}


class StubWeaveServer(BaseHTTPRequestHandler):
    """W&B's GraphQL and Weave's trace server, as far as one call goes through them."""

    calls: ClassVar[dict[str, dict[str, Any]]] = {}
    paths: ClassVar[list[str]] = []
    broken: ClassVar[bool] = False

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            self._answer(json.loads(body or b"{}"))
        except ValueError:
            self._answer({})

    def _answer(self, asked: dict[str, Any]) -> None:
        path = self.path.partition("?")[0]
        self.paths.append(path)
        if self.broken and path.endswith("calls/complete"):
            self._send(400, {"detail": "no"})
        elif path.endswith("/graphql"):
            self._send(
                200, {"data": {"viewer": {"username": "me"}, "project": {"name": "purpose"}}}
            )
        elif path.endswith("/server_info"):
            self._send(
                200,
                {"min_required_weave_python_version": "0.0.1", "trace_server_version": "99.0.0"},
            )
        elif path.endswith("/stream_query"):
            ids = asked["filter"]["call_ids"]
            self._write(
                200,
                "\n".join(
                    json.dumps(self.calls[name]) for name in ids if name in self.calls
                ).encode(),
            )
        else:
            for call in asked.get("batch", ()):
                self.calls[call["id"]] = call
            self._send(200, {"digest": "a" * 43})

    def _send(self, status: int, document: dict[str, Any]) -> None:
        self._write(status, json.dumps(document).encode())

    def _write(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StubWeaveServer]]:
    StubWeaveServer.calls, StubWeaveServer.paths, StubWeaveServer.broken = {}, [], False
    listening = ThreadingHTTPServer(("127.0.0.1", 0), StubWeaveServer)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    yield StubWeaveServer
    listening.shutdown()
    listening.server_close()


def track_run(where: str = "weave:team/purpose") -> Any:
    tracker = open_tracker(where, runs_folder=None, task="purpose")  # type: ignore[arg-type]
    return log_run(
        tracker,
        TrackingRecord("run", task="purpose", name="r1", document=DOCUMENT, manifest=MANIFEST),
    )


@pytest.mark.slow
@pytest.mark.skipif(find_spec("weave") is None, reason="Weave is not installed")
@pytest.mark.filterwarnings("ignore")  # Weave's own
def test_a_run_is_one_call_with_facts_and_figures(server: type[StubWeaveServer]) -> None:
    result = track_run()
    assert result.error is None
    (call,) = server.calls.values()
    assert (call["display_name"], call["project_id"]) == ("r1", "team/purpose")
    assert call["op_name"].startswith("weave:///team/purpose/op/medtask.run")
    assert call["inputs"]["parameters"]["data.sha256"] == "abc"
    assert call["output"]["figures"] == {"accuracy": 0.5, "accuracy.n": 3.0, "rows": 3.0}
    assert call["attributes"]["weave"] == {}  # neither machine nor client is sent
    assert find_unset_variables() == ()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("weave") is None, reason="Weave is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_call_that_never_arrives_is_reported(server: type[StubWeaveServer]) -> None:
    server.broken = True
    assert track_run().error


class FakeWeave:
    """The part of the library that is used, and what was asked of it. It has Weave's way of losing
    calls without a word.
    """

    def __init__(self, lose: bool = False, refuse: bool = False) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.lose, self.refuse = lose, refuse
        self.switches: dict[str, str | None] = {}

    def init(self, project: str) -> FakeWeave:
        if self.refuse:
            raise ConnectionError("the key is kkk")
        self.switches = {
            name: os.environ.get(name)
            for name in ("WEAVE_DISABLED", "WANDB_ERROR_REPORTING", "WEAVE_CAPTURE_CODE")
        }
        self.asked.append(("init", project))
        return self

    def create_call(self, **result: Any) -> SimpleNamespace:
        self.asked.append(("create", result))
        return SimpleNamespace(id="1")

    def finish_call(self, call: Any, output: Any) -> None:
        self.asked.append(("finish", output))

    def flush(self) -> None:
        self.asked.append(("flush", None))

    def get_call(self, name: str) -> None:
        if self.lose:
            raise ValueError("no such call: kkk")
        self.asked.append(("read back", name))

    def finish(self) -> None:
        self.asked.append(("close", None))


@pytest.fixture
def fake_weave(server: type[StubWeaveServer], monkeypatch: pytest.MonkeyPatch) -> FakeWeave:
    library = FakeWeave()
    monkeypatch.setitem(sys.modules, "weave", library)  # type: ignore[arg-type]
    monkeypatch.setattr(room, "find_spec", lambda _: object())
    return library


def test_the_library_is_asked_in_this_order_with_its_switches_open_for_as_long(
    fake_weave: FakeWeave,
) -> None:
    assert track_run().error is None
    assert [what for what, _ in fake_weave.asked] == [
        "init",
        "close",
        "init",
        "create",
        "finish",
        "flush",
        "read back",
        "close",
    ]
    result = dict(fake_weave.asked)
    assert result["create"]["inputs"]["parameters"]["task.fingerprint"] == "f"
    assert result["finish"]["figures"]["accuracy"] == 0.5
    assert fake_weave.switches == {
        "WEAVE_DISABLED": "false",
        "WANDB_ERROR_REPORTING": "false",
        "WEAVE_CAPTURE_CODE": "false",
    }
    assert find_unset_variables() == ()


def test_a_call_that_cannot_be_read_back_is_reported_without_the_librarys_words(
    fake_weave: FakeWeave,
) -> None:
    fake_weave.lose = True
    result = track_run()
    assert result.error == "ValueError"
    assert "kkk" not in result.status_line
    assert fake_weave.asked[-1] == ("close", None)


def test_a_server_that_does_not_open_is_reported_before_the_run(fake_weave: FakeWeave) -> None:
    fake_weave.refuse = True
    with pytest.raises(StorageError) as caught:
        track_run()
    assert "kkk" not in f"{caught.value} {caught.value.fix}"
    assert find_unset_variables() == ()


def test_whose_project_it_is_has_to_be_settled(
    fake_weave: FakeWeave, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="whose Weave project"):
        track_run("weave")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    assert track_run("weave").place.startswith("Weave project team/purpose at http://127.0.0.1:")


def test_the_cloud_needs_a_word(fake_weave: FakeWeave, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_BASE_URL")
    with pytest.raises(UsageError, match=r"https://api\.wandb\.ai is another machine"):
        track_run()
    assert fake_weave.asked == []


def test_nobody_is_asked_for_a_key(fake_weave: FakeWeave, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UsageError, match="WANDB_API_KEY is not set"):
        track_run()


def test_a_missing_package_is_reported_with_the_command_that_installs_it(
    server: type[StubWeaveServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra) as caught:
        track_run()
    assert "pip install" in caught.value.fix
