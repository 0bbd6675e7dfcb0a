"""Verbs of the client that the server carries out as jobs, with a real worker."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx2", reason="the extra http is not installed")

import medtask
from medtask.client import MedtaskClient, ServerProblem
from support.api_server import run_api_server

TASK = """\
name: purpose
instruction: Decide the purpose of the operation.
input: "{{ text }}"
gold: purpose
answer:
  kind: label
  labels: [curative, palliative]
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MedtaskClient]:
    folder = tmp_path_factory.mktemp("jobs") / "data"
    with run_api_server(folder, workers=1) as server, server.connect_client() as client:
        yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "task.yaml").write_text(TASK)
    with (folder / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "purpose"])
        for number in range(60):
            word, purpose = [("resection", "curative"), ("stent", "palliative")][number % 2]
            writer.writerow([f"{word} of segment {number}", purpose])
    return folder


def test_a_model_is_trained_run_and_evaluated_as_in_python(
    client: MedtaskClient, files: Path, tmp_path: Path
) -> None:
    states: list[str] = []
    model = client.train(
        files,
        files / "rows.csv",
        method="linear",
        seed=1,
        on_progress=lambda job: states.append(job.state),
    )
    assert model.state == "ready"
    assert 0 < model.metrics["accuracy"]["value"] <= 1
    assert states[-1] == "succeeded"

    (answer,) = client.predict(model=model.id, rows=["resection of segment 99"])
    assert answer.value == "curative"

    run = client.run(None, model.id, files / "rows.csv", baselines=False)
    assert run.dataset_id
    assert sum(run.statuses.values()) == 60
    path = client.download(run, tmp_path / "answers.csv")
    assert len(list(medtask.read_table(path))) == 60

    # All rows are new to this model; those that the other one was trained on do not count.
    other = client.run(model.task_id, "fake:", run.dataset_id, baselines=False)
    evaluation = client.evaluate(other, baselines=False)
    assert 0 < evaluation["metrics"]["accuracy"]["value"] < 1

    third = client.run(model.task_id, "fake:seed=2", run.dataset_id, baselines=False)
    comparison = client.compare([other, third], baselines=False)
    assert comparison["n"] == 60
    assert {system["name"] for system in comparison["systems"]} == {str(other.id), str(third.id)}
    with pytest.raises(ServerProblem) as caught:
        client.compare([other, other])
    assert caught.value.fix


def test_the_speed_of_models_is_measured(client: MedtaskClient, files: Path) -> None:
    measured = client.benchmark(files, ["fake:", "fake:seed=2"], files / "rows.csv", rows=8)
    assert len(measured["models"]) == 2


def test_a_job_that_fails_is_raised_with_its_remedy(client: MedtaskClient, files: Path) -> None:
    with pytest.raises(ServerProblem) as caught:
        client.run(files, "fake:fails_after=3", files / "rows.csv")
    assert caught.value.fix


def test_rows_are_uploaded_as_a_data_set(client: MedtaskClient, files: Path) -> None:
    rows = [{"text": f"resection {number}", "purpose": "curative"} for number in range(5)]
    run = client.run(files, "fake:", rows, limit=3, baselines=False)
    assert sum(run.statuses.values()) == 3
