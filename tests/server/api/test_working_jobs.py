"""Objects that a job works on, or reads, are neither deleted nor changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from medtask.errors import InputError
from medtask.server.access.roles import Role
from medtask.server.jobs.queue import add_job
from medtask.server.purge import purge
from medtask.server.storage.files import DataFolder
from support.server import ServerUnderTest, run_server

TASK = """name: purpose
instruction: Decide.
input: "{{ note }}"
answer: {kind: label, labels: [curative, palliative]}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    with run_server(tmp_path / "data") as running:
        yield running


@pytest.fixture
def client(server: ServerUnderTest) -> TestClient:
    return server.connect(Role.TRAINER)


def create(client: TestClient, path: str, **body: Any) -> int:
    response = client.post(path, json=body)
    assert response.status_code < 300, response.text
    found = response.json()
    return int(found.get("run", found)["id"])


@pytest.fixture
def ids(client: TestClient) -> dict[str, int]:
    """The ids of a data set, a task, a model and a run without a job that works."""
    dataset = create(client, "/api/datasets/rows", name="notes", rows=[{"note": "Resektion"}])
    task = create(client, "/api/tasks", text=TASK)
    model = create(client, "/api/models", name="base", task_id=task, base="minilm")
    run = create(client, "/api/runs", dataset_id=dataset, task_id=task, model="fake:")
    assert client.post("/api/jobs/1/cancel").json()["state"] == "cancelled"
    return {"datasets": dataset, "tasks": task, "models": model, "runs": run}


def list_refused(client: TestClient, ids: dict[str, int]) -> set[str]:
    """The objects that cannot be deleted because of a job."""
    refused = set()
    for name, number in ids.items():
        response = client.delete(f"/api/{name}/{number}")
        if response.status_code == 409 and "works on this" in response.json()["detail"]:
            refused.add(name)
    return refused


@pytest.mark.parametrize(
    ("kind", "parameters", "expected"),
    [
        ("evaluate", {"run_id": "runs"}, {"runs"}),
        ("compare", {"run_ids": ["runs"]}, {"runs"}),
        ("judge", {"run_id": "runs", "against": None, "model": "models"}, {"runs", "models"}),
        ("audit", {"run_id": "runs", "labels_dataset_id": "datasets"}, {"runs", "datasets"}),
        ("export", {"model_id": "models", "dataset_id": "datasets"}, {"models", "datasets"}),
        (
            "benchmark",
            {"task_id": "tasks", "models": ["models", "minilm"], "dataset_id": "datasets"},
            {"models", "datasets"},
        ),
        (
            "tune",
            {"dataset_id": "datasets", "settings": {"model": None, "proposer": "models"}},
            {"models", "datasets"},
        ),
    ],
)
def test_what_a_job_names_is_not_deleted_before_its_end(
    server: ServerUnderTest,
    client: TestClient,
    ids: dict[str, int],
    kind: str,
    parameters: dict[str, Any],
    expected: set[str],
) -> None:
    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fill(one) for name, one in value.items()}
        if isinstance(value, list):
            return [fill(one) for one in value]
        return ids.get(value, value)

    with server.database.write() as session:
        job = add_job(session, kind, fill(parameters)).id

    assert list_refused(client, {name: ids[name] for name in expected}) == expected
    assert client.post(f"/api/jobs/{job}/cancel").json()["state"] == "cancelled"
    assert list_refused(client, ids) == set()


def test_a_model_is_neither_deleted_nor_trained_while_a_run_uses_it(
    client: TestClient, ids: dict[str, int]
) -> None:
    create(client, "/api/runs", dataset_id=ids["datasets"], model_id=ids["models"])

    assert list_refused(client, {"models": ids["models"], "datasets": ids["datasets"]}) == {
        "models",
        "datasets",
    }
    assert client.post(f"/api/models/{ids['models']}/train").status_code == 409
    assert client.put(f"/api/tasks/{ids['tasks']}", json={"text": TASK}).status_code == 409


def test_nothing_is_purged_while_a_job_reads_it(
    server: ServerUnderTest, ids: dict[str, int]
) -> None:
    with server.database.write() as session:
        add_job(session, "judge", {"run_id": ids["runs"], "against": None, "model": "fake:"})

    with pytest.raises(InputError, match="works on run"):
        purge(server.settings, "run", ids["runs"])


def test_a_run_is_not_resumed_with_a_model_that_has_the_name_of_its_own(
    client: TestClient, ids: dict[str, int]
) -> None:
    model = create(client, "/api/models", name="fake:", task_id=ids["tasks"], base="minilm")
    started = client.post("/api/runs", json={"dataset_id": ids["datasets"], "model_id": model})
    run, job = (started.json()[name]["id"] for name in ("run", "job"))
    client.post(f"/api/jobs/{job}/cancel")
    assert client.delete(f"/api/models/{model}").status_code == 204

    response = client.post(f"/api/runs/{run}/resume")

    assert (response.status_code, response.json()["detail"]) == (
        409,
        "the model of this run was deleted",
    )
    assert client.post(f"/api/runs/{ids['runs']}/resume").status_code == 202


def test_the_files_stay_when_the_deletion_is_not_committed(
    client: TestClient, server: ServerUnderTest, ids: dict[str, int]
) -> None:
    folder = DataFolder(server.settings.data_folder).get_folder("datasets", ids["datasets"])

    def fail(connection: Connection) -> None:
        raise OperationalError("COMMIT", None, Exception("the disk is full"))

    event.listen(server.database.engine, "commit", fail)
    assert client.delete(f"/api/datasets/{ids['datasets']}").status_code == 500
    event.remove(server.database.engine, "commit", fail)

    assert any(folder.iterdir())
    assert client.get(f"/api/datasets/{ids['datasets']}").status_code == 200
