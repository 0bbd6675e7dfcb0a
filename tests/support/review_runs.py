"""A finished run in the data folder of a server, and queues over it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

import medtask
from support.live_server import LiveServer
from support.server import ServerUnderTest
from support.tasks_by_kind import write_task_and_table

ROWS = 60


def make_run(kind: str, folder: Path, rows: int = ROWS) -> Path:
    """Run the small task of a kind with the fake engine; returns the run folder."""
    task_folder, table = write_task_and_table(kind, folder, rows)
    run_folder = folder / "run"
    task, model = medtask.load_task(task_folder), medtask.load_model("fake:seed=1")
    medtask.run(task, model, table, out=run_folder)
    return run_folder


def add_run(server: ServerUnderTest | LiveServer, run_folder: Path, number: int = 1) -> int:
    """Copy a run folder to where the server expects the run with this id."""
    target = server.settings.data_folder / "runs" / str(number)
    shutil.copytree(run_folder, target)
    return number


def create_queue(client: TestClient, run_id: int, **settings: Any) -> int:
    """Create a queue over a run; returns its id."""
    response = client.post("/api/reviews", json={"run_id": run_id, "settings": settings})
    assert response.status_code == 201, response.text
    return int(response.json()["id"])


def load_items(client: TestClient, queue: int, count: int = 20) -> list[dict[str, Any]]:
    response = client.post(f"/api/reviews/{queue}/assignments", json={"count": count})
    assert response.status_code == 200, response.text
    return list(response.json())


def make_submission(item: dict[str, Any], value: object, **changes: Any) -> dict[str, Any]:
    """The decision about one loaded item, with a key of its own."""
    identity = {"id": item["id"], "version": item["version"]}
    key = changes.pop("key", f"key-{item['id']}-{item['version']}-{value}")
    return {"key": key, "items": [identity], "outcome": "answer", "value": value, **changes}


def make_run_of_texts(
    texts: Sequence[str], folder: Path, labels: Sequence[str] = ("lung", "knee", "other")
) -> Path:
    """Run a task with these labels on these texts; returns the run folder."""
    content = {
        "instruction": "Decide about the text.",
        "input": "{{ text }}",
        "id": "case",
        "answer": {"kind": "label", "labels": list(labels)},
    }
    (folder / "task.json").write_text(json.dumps(content))
    rows = [{"case": f"case-{number}", "text": text} for number, text in enumerate(texts, 1)]
    task, model = medtask.load_task(folder), medtask.load_model("fake:seed=1")
    medtask.run(task, model, rows, out=folder / "run")
    return folder / "run"
