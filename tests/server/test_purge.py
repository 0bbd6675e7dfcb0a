"""Purging: after it, no file and no table has the texts of what was removed."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from medtask.errors import InputError
from medtask.server.access.roles import Role
from medtask.server.database.base import Base
from medtask.server.jobs.queue import add_job
from medtask.server.jobs.tables import FAILED
from medtask.server.purge import purge
from medtask.server.storage.files import DataFolder
from support.command_line import RunCommand
from support.server import ServerUnderTest
from support.worker_process import run_worker_thread

CANARY = "Canary-Appendektomie"
TASK = """name: purpose
instruction: Decide.
input: "{{ note }}"
answer: {kind: label, labels: [curative, palliative]}
"""


def find_canary(server: ServerUnderTest) -> list[str]:
    """Files and tables with the text."""
    files = [
        str(path)
        for path in server.settings.data_folder.rglob("*")
        if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    with server.database.read() as session:
        tables = [
            table.name
            for table in Base.metadata.sorted_tables
            if any(CANARY in str(row) for row in session.execute(text(f"SELECT * FROM {table}")))
        ]
    return files + tables


def answer_rows(server: ServerUnderTest, client: TestClient) -> dict[str, Any]:
    """Upload rows, run a task over them and review them; returns the run."""
    rows = [{"note": f"{CANARY} {number} wegen akuter Appendizitis"} for number in range(40)]
    dataset = client.post("/api/datasets/rows", json={"name": "notes", "rows": rows}).json()
    task = client.post("/api/tasks", json={"text": TASK}).json()
    wanted = {"dataset_id": dataset["id"], "task_id": task["id"], "model": "fake:"}
    started = client.post("/api/runs", json={**wanted, "baselines": False})
    assert started.status_code < 300, started.text
    with run_worker_thread(server.settings):
        deadline = time.monotonic() + 150
        while any(job["ended_at"] is None for job in client.get("/api/jobs").json()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    run: dict[str, Any] = client.get("/api/runs").json()[0]
    queue = client.post("/api/reviews", json={"run_id": run["id"]})
    assert queue.status_code == 201, queue.text
    unanswered = {"dataset_id": dataset["id"], "task_id": task["id"]}
    assert client.post("/api/reviews", json=unanswered).status_code == 201
    return {**run, "dataset_id": dataset["id"]}


@pytest.mark.slow
def test_nothing_is_left_of_a_run_and_its_data_set(
    server: ServerUnderTest, medtask: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = server.connect(Role.ADMIN)
    run = answer_rows(server, client)
    assert {Path(place).name for place in find_canary(server)} >= {
        "rows.jsonl",
        "answers.csv",
        "review_rows",
    }
    copy = server.settings.data_folder / "medtask.db.0001.copy"
    copy.write_text(CANARY)

    with pytest.raises(InputError, match="copies"):
        purge(server.settings, "dataset", run["dataset_id"])
    monkeypatch.setenv("MEDTASK_DB", server.settings.database_url)
    shown = medtask("purge", "run", run["id"], "--yes", "--data", server.settings.data_folder)
    assert shown.code == 0, shown.err
    assert "Removed review queue 1." in shown.out
    assert purge(server.settings, "dataset", run["dataset_id"]) == ["data set 1", "review queue 2"]
    copy.unlink(missing_ok=True)
    assert find_canary(server) == []
    assert client.get(f"/api/runs/{run['id']}").status_code == 404
    with server.database.read() as session:
        assert list(server.app.state.audit_log.find_faults(session)) == []
        actions = session.execute(text("SELECT action FROM audit_entries")).scalars().all()
    assert actions[-2:] == ["run.purge", "dataset.purge"]


def test_an_object_that_does_not_exist_is_reported(server: ServerUnderTest) -> None:
    with pytest.raises(InputError, match="no model 7"):
        purge(server.settings, "model", 7)


def test_without_an_answer_nothing_is_removed(
    medtask: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    outcome = medtask("purge", "run", "1", "--data", tmp_path)
    assert outcome.code == 2
    assert "nothing was removed" in outcome.err


@pytest.mark.parametrize("name", ["dataset", "task"])
def test_what_a_killed_search_has_left_is_purged_with_its_data(
    server: ServerUnderTest, name: str
) -> None:
    client = server.connect(Role.ADMIN)
    rows = [{"note": f"{CANARY} {number}"} for number in range(3)]
    ids = {
        "dataset": client.post("/api/datasets/rows", json={"name": "notes", "rows": rows}),
        "task": client.post("/api/tasks", json={"text": TASK}),
    }
    asked = {f"{kind}_id": answer.json()["id"] for kind, answer in ids.items()}
    with server.database.write() as session:
        job = add_job(session, "tune", {**asked, "settings": {"model": None}})
        job.state = FAILED
    left = DataFolder(server.settings.data_folder).create_folder("tunings", job.id)
    (left / "copy.csv").write_text(CANARY)

    purge(server.settings, name, asked[f"{name}_id"])

    assert not left.exists()
