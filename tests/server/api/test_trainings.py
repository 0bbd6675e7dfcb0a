"""Trainings over HTTP: what is resumed, and what starts anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medtask.server.access.roles import Role
from medtask.server.storage.tables import StoredModel
from support.example_files import EXAMPLES
from support.server import ServerUnderTest, run_server

RADIOLOGY = EXAMPLES / "radiology_protocol"
RESULT = {"task": "radiology-protocol", "measure": "accuracy", "metrics": {}, "rivals": {}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    with run_server(tmp_path / "data") as running:
        yield running


@pytest.mark.parametrize(
    ("state", "wanted", "starts_anew"),
    [
        ("interrupted", {}, False),
        ("interrupted", {"epochs": 3}, True),
        ("interrupted", {"again": True}, True),
        ("finished", {"again": True}, True),
        ("finished", {}, None),
    ],
)
def test_a_training_that_was_stopped_with_a_model_is_resumed(
    server: ServerUnderTest, state: str, wanted: dict[str, Any], starts_anew: bool | None
) -> None:
    client = server.connect(Role.TRAINER)
    text = (RADIOLOGY / "task.yaml").read_text("utf-8")
    task = client.post("/api/tasks", json={"text": text}).json()["id"]
    rows = {"name": "rows", "rows": [{"note": "MRI of the knee", "protocol": "MSK"}]}
    dataset = client.post("/api/datasets/rows", json=rows).json()["id"]
    new = {"name": "m", "task_id": task, "dataset_id": dataset, "method": "encoder"}
    model = client.post("/api/models", json=new).json()["id"]
    job = client.post(f"/api/models/{model}/train").json()["id"]
    client.post(f"/api/jobs/{job}/cancel")
    with server.database.write() as session:
        stored = session.get_one(StoredModel, model)
        stored.is_trained, stored.result = True, {"state": state, "tasks": [RESULT]}

    page = client.get(f"/models/{model}").text
    response = client.post(f"/api/models/{model}/train", json=wanted)

    assert ("Continue the training" in page) is (state == "interrupted")
    assert ('name="again"' in page) is (state == "finished")
    assert response.status_code == (409 if starts_anew is None else 202)
    if starts_anew is not None:
        assert response.json()["parameters"]["starts_anew"] is starts_anew
