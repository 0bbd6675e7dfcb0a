"""Results as gold: `medtask evaluate` and `medtask train` read what people have decided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import medtask
from medtask.server.access.roles import Role
from support.review_runs import add_run, create_queue, load_items, make_submission
from support.server import ServerUnderTest, run_server

Runs = Callable[[str], Path]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with run_server(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


def answer_like_the_model(item: dict[str, Any]) -> Any:
    value = (item["model"] or {}).get("value")
    return {"side": "left", "size": 2.5, "seen": True} if isinstance(value, dict) else value


def read_all(server: ServerUnderTest, run_folder: Path, number: int) -> int:
    """Agree with the model on every item that has an answer; returns the queue."""
    client = server.connect(Role.TRAINER)
    run_id = add_run(server, run_folder, number)
    queue = create_queue(client, run_id, query={"statuses": ["ok", "review"]})
    for _ in range(5):
        for item in load_items(client, queue, 100):
            body = make_submission(item, answer_like_the_model(item))
            response = client.post(f"/api/reviews/{queue}/decisions", json=body)
            assert response.status_code == 200, response.text
    return queue


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *(("labels", suffix) for suffix in ("csv", "parquet", "xlsx", "jsonl")),
        *((kind, "csv") for kind in ("several", "choice", "answer", "passes")),
    ],
)
def test_evaluation_finds_the_model_right_where_people_agreed_with_it(
    server, runs, tmp_path, kind, suffix
):
    number = ["labels", "several", "choice", "answer", "passes"].index(kind) + 1
    folder = server.settings.data_folder / "runs" / str(number)
    queue = (
        read_all(server, runs(kind), number)
        if not folder.exists()
        else next(
            one["id"]
            for one in server.connect(Role.ADMIN).get("/api/reviews").json()
            if one["run_id"] == number
        )
    )
    response = server.connect(Role.REVIEWER).get(f"/api/reviews/{queue}/gold?format={suffix}")
    assert response.status_code == 200
    path = tmp_path / f"people.{suffix}"
    path.write_bytes(response.content)
    evaluation = medtask.evaluate(runs(kind), gold=f"{path}#gold")
    headline = next(iter(evaluation.metrics.values()))
    assert headline.value == pytest.approx(1)
    assert headline.n >= 20


def test_fields_are_exported_as_objects_that_fit_the_schema(server, runs, tmp_path):
    queue = read_all(server, runs("fields"), 20)
    client = server.connect(Role.REVIEWER)
    lines = client.get(f"/api/reviews/{queue}/gold?format=jsonl").text.splitlines()
    rows = [json.loads(line) for line in lines]
    assert {json.dumps(row["gold"]) for row in rows} == {
        '{"side": "left", "size": 2.5, "seen": true}'
    }
    assert {row["gold_by"] for row in rows} == {"test trainer"}
    assert all(row["gold_at"].endswith("+00:00") for row in rows)
    path = tmp_path / "gold.csv"
    path.write_bytes(client.get(f"/api/reviews/{queue}/gold").content)
    evaluation = medtask.evaluate(runs("fields"), gold=f"{path}#gold")
    assert all(metric.n for metric in evaluation.metrics.values() if metric)
    assert len(rows) == 55


def test_a_model_is_trained_on_the_data_set_of_what_people_decided(server, tmp_path):
    client = server.connect(Role.TRAINER)
    folder = tmp_path / "task"
    folder.mkdir()
    words = {"lung": "upper lobe resection", "knee": "arthroscopy of the knee"}
    (folder / "task.json").write_text(
        json.dumps(
            {
                "instruction": "Decide.",
                "input": "{{ text }}",
                "answer": {"kind": "label", "labels": list(words)},
            }
        )
    )
    rows = [{"text": f"{words[name]} case {n}"} for n in range(30) for name in words]
    task = medtask.load_task(folder)
    medtask.run(task, medtask.load_model("fake:seed=1"), rows, out=tmp_path / "run")
    queue = create_queue(client, add_run(server, tmp_path / "run", 30))
    for _ in range(3):
        for item in load_items(client, queue, 60):
            value = "lung" if "lobe" in item["text"] else "knee"
            client.post(f"/api/reviews/{queue}/decisions", json=make_submission(item, value))
    stored = client.post(f"/api/reviews/{queue}/dataset", json={}).json()
    assert stored["rows"] == len(rows)
    path = server.settings.data_folder / "datasets" / str(stored["dataset_id"]) / "gold.parquet"
    table = medtask.read_table(path)
    names = ("by", "at", "how", "comment", "selection")
    assert table.columns == ("text", "id", "gold", *(f"gold_{name}" for name in names))
    # All rows were read, so they are no selection.
    assert {row["gold_selection"] for row in table} == {"random"}
    model = medtask.train(task, path, gold="gold", method="linear", out=tmp_path / "model")
    assert model.metrics["accuracy"].value == 1
