"""What runs and judgings have in common: the manifest over several sessions, and how they end."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import EngineError
from medtask.privacy import EgressError
from medtask.records import Prompt, Record, Scores
from medtask.runs import ledger
from medtask.runs.progress import NullRunObserver
from medtask.runs.session import Session, open_session
from medtask.runs.session_request import SessionRequest
from medtask.tasks.serialization import make_minimal_task

TASK = replace(make_minimal_task("letters", "label", ["a", "b"]), input="{{ text }}")
RECORDS = [Record(str(row), {"text": f"text {row}"}) for row in range(100)]


class ConnectingEngine(FakeEngine):
    """Tries to reach another machine with every batch."""

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        with pytest.raises(EgressError):
            socket.create_connection(("192.0.2.1", 80))
        return super().score_batch(batch)


class StoppingObserver(NullRunObserver):
    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        signal.raise_signal(signal.SIGTERM)


def make_request(folder: Path, rows: int = len(RECORDS)) -> SessionRequest:
    return SessionRequest(TASK, "digest", rows, out=folder)


def answer(folder: Path, rows: int, engine: FakeEngine, observer: Any = None) -> Session:
    with open_session(make_request(folder, rows), engine, observer) as session:
        session.answer(RECORDS[:rows])
    return session


def read_manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def test_a_second_session_adds_to_the_manifest_of_the_first(tmp_path: Path) -> None:
    answer(tmp_path, 50, ConnectingEngine(batch=64))
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**read_manifest(tmp_path), "created": "2026-01-01T00:00:00+00:00"}))
    answer(tmp_path, 100, ConnectingEngine(batch=64))
    manifest = read_manifest(tmp_path)
    assert manifest["created"] == "2026-01-01T00:00:00+00:00"
    assert manifest["egress"]["connections_attempted"] == 1 + 2
    assert (manifest["timing"]["sessions"], manifest["timing"]["asked"]) == (2, 100)
    assert manifest["state"] == "finished"


def test_a_manifest_without_timing_is_resumed(tmp_path: Path) -> None:
    answer(tmp_path, 10, FakeEngine())
    manifest = read_manifest(tmp_path)
    del manifest["timing"]  # as judgings wrote it before they shared the session
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    answer(tmp_path, 20, FakeEngine())
    assert read_manifest(tmp_path)["timing"]["sessions"] == 2


def test_a_signal_ends_the_block_and_the_next_session_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "FLUSH_SECONDS", 0)
    session = answer(tmp_path, 100, FakeEngine(batch=16), StoppingObserver())
    assert (session.state, session.exit_code) == ("interrupted", 143)
    assert read_manifest(tmp_path)["state"] == "interrupted"
    again = answer(tmp_path, 100, FakeEngine(batch=16))
    assert again.state == "finished" and 0 < again.cost.rows < 100
    assert any(note.startswith("resuming") for note in again.notes)


def test_an_error_keeps_the_answers_and_is_named_in_the_manifest(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match="ran out of memory") as error,
        open_session(make_request(tmp_path), FakeEngine()) as session,
    ):
        session.answer(RECORDS)
        raise MemoryError
    assert "--memory" in error.value.fix
    assert read_manifest(tmp_path)["stopped_by"] == "MemoryError"
    assert answer(tmp_path, 100, FakeEngine()).cost.rows == 0


def test_facts_of_the_end_are_in_the_manifest(tmp_path: Path) -> None:
    with open_session(make_request(tmp_path), FakeEngine()) as session:
        session.answer(RECORDS)
        assert session.finish(calibration="none")["counts"] == session.statuses
    assert read_manifest(tmp_path)["calibration"] == "none"


def test_an_error_that_a_library_makes_of_a_signal_is_an_interruption(tmp_path: Path) -> None:
    with open_session(make_request(tmp_path), FakeEngine(batch=64)) as session:
        session.answer(RECORDS)
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("cannot load module more than once per process") from None
    assert session.state == "interrupted"
    assert session.exit_code == 143
    assert read_manifest(tmp_path)["state"] == "interrupted"
    assert sum(session.statuses.values()) == len(RECORDS)


def test_a_session_without_missing_rows_reads_no_record(tmp_path: Path) -> None:
    answer(tmp_path, 100, FakeEngine())
    records = iter(RECORDS)
    with open_session(make_request(tmp_path), FakeEngine()) as session:
        session.answer(records)
    assert session.state == "finished" and session.statuses
    assert next(records) is RECORDS[0]
