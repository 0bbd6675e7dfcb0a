"""Jobs that tune, export, judge, audit and compare: the functions of the commands."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from medtask.server.access.roles import Role
from medtask.server.jobs.kind import make_job_context
from medtask.server.jobs.kinds import JOB_KINDS
from medtask.server.jobs.queue import DEFAULT_LEASE_S
from medtask.tasks.row_fingerprints import write_fingerprints
from support.jobs import run_one_worker
from support.server import ServerUnderTest, run_server
from support.stored_tasks import store_model
from support.tiny_models import save_model

pytestmark = pytest.mark.slow

TASK = """\
name: organ
instruction: Which organ?
input: "{{ text }}"
id: case
gold: organ
answer: {kind: label, labels: [lung, liver, knee]}
"""
QUESTIONS = """\
name: questions
instruction: Answer the question.
input: "{{ text }}"
id: case
gold: organ
answer: {kind: answer, max_tokens: 10}
"""
ORGANS = ("lung", "liver", "knee")
ROWS = [
    {"case": f"c{number}", "text": f"finding {number} of the {organ}", "organ": organ}
    for number in range(60)
    for organ in [ORGANS[number % 3]]
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerUnderTest]:
    folder = tmp_path_factory.mktemp("server") / "data"
    with run_server(folder) as running, run_one_worker(running, DEFAULT_LEASE_S):
        yield running


@pytest.fixture(scope="module")
def client(server: ServerUnderTest) -> TestClient:
    return server.connect(Role.TRAINER)


@pytest.fixture(scope="module")
def dataset(client: TestClient) -> int:
    added = client.post("/api/datasets/rows", json={"name": "findings", "rows": ROWS})
    return int(added.json()["id"])


@pytest.fixture(scope="module")
def task(client: TestClient) -> int:
    return int(client.post("/api/tasks", json={"text": TASK}).json()["id"])


@pytest.fixture(scope="module")
def run(client: TestClient, dataset: int, task: int) -> int:
    return answer(client, dataset, task)


def answer(client: TestClient, dataset: int, task: int, model: str = "fake:seed=1") -> int:
    """Run a task over the rows; returns the id of the run."""
    wanted = {"dataset_id": dataset, "task_id": task, "model": model, "baselines": False}
    started = client.post("/api/runs", json=wanted).json()
    assert wait(client, started["job"])["state"] == "succeeded"
    return int(started["run"]["id"])


def wait(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while job["ended_at"] is None:
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
        job = client.get(f"/api/jobs/{job['id']}").json()
    return job


def start(client: TestClient, path: str, **wanted: Any) -> dict[str, Any]:
    started = client.post(path, json=wanted)
    assert started.status_code == 202, started.text
    return wait(client, started.json())


def test_a_search_for_words_measures_candidates_and_keeps_no_text(client, dataset, task):
    wanted = {"dataset_id": dataset, "what": "examples", "model": "fake:seed=1"}
    job = start(client, f"/api/tasks/{task}/tune", budget="10s", keep_anyway=True, **wanted)
    assert job["state"] == "succeeded", job["problem"]
    assert job["result"]["trials"] > 1
    assert job["result"]["lines"] == [job["result"]["verdict"]]
    assert "finding" not in str(client.get(f"/api/jobs/{job['id']}/log").json()) + str(job)


def test_better_words_of_a_task_become_a_new_task(client, server, task):
    context = make_job_context(server.settings)
    folder = context.files.create_folder("tunings", 99) / "original"
    folder.mkdir()
    (folder / "tuned.yaml").write_text(f"{TASK}tuning_rows: task.tuned.rows.json\n")
    write_fingerprints(folder / "task.tuned.rows.json", [])
    parameters = {"job_id": 99, "task_id": task}
    with server.database.write() as session:
        found = JOB_KINDS["tune"].publish(session, context, parameters, {"what": "words"})
    assert found is not None
    tuned = client.get(f"/api/tasks/{found['task_id']}").json()
    assert tuned["name"] == "organ, tuned"
    checked = {"text": tuned["text"], "task_id": tuned["id"]}
    assert client.post("/api/tasks/check", json=checked).json()["valid"]
    assert not client.post("/api/tasks/check", json={"text": tuned["text"]}).json()["valid"]
    saved = client.put(f"/api/tasks/{tuned['id']}", json={"text": tuned["text"] + "# read\n"})
    assert saved.status_code == 200, saved.text
    assert not folder.exists()


def test_a_search_without_time_fails_and_says_why(client, dataset, task):
    wanted = {"dataset_id": dataset, "what": "examples", "model": "fake:ms_per_row=300"}
    job = start(client, f"/api/tasks/{task}/tune", budget="1s", **wanted)
    assert job["state"] == "failed"
    assert job["problem"]["fix"]


def test_an_audit_draws_a_sample_and_then_measures_the_run(client, run):
    job = start(client, f"/api/runs/{run}/audit", budget=30)
    assert job["state"] == "succeeded", job["problem"]
    assert job["result"]["sample"]["files"] == ["sample.csv", "sample.xlsx"]
    sample = client.get(f"/api/runs/{run}/audit/sample.csv").text
    rows = list(csv.DictReader(io.StringIO(sample)))
    gold = {row["case"]: row["organ"] for row in ROWS}
    identity = "case" if "case" in rows[0] else "id"
    labels = [{"id": row[identity], "gold": gold[row[identity]]} for row in rows]
    added = client.post("/api/datasets/rows", json={"name": "labels", "rows": labels}).json()
    job = start(client, f"/api/runs/{run}/audit", labels_dataset_id=added["id"])
    assert job["state"] == "succeeded", job["problem"]
    assert job["result"]["audit"]
    assert client.get(f"/api/runs/{run}/audit/audit.json").status_code == 422


def test_a_judge_grades_a_run_and_compares_it_with_another(client, dataset):
    questions = int(client.post("/api/tasks", json={"text": QUESTIONS}).json()["id"])
    first = answer(client, dataset, questions)
    second = answer(client, dataset, questions, "fake:seed=2")
    job = start(client, f"/api/runs/{first}/judge", model="fake:seed=3", limit=20, allow_self=True)
    assert job["state"] == "succeeded", job["problem"]
    assert job["result"]["table"] == "judgements.csv"
    assert job["result"]["asked"] == 20
    judged = client.get(f"/api/runs/{first}/judged/judgements.csv").text
    assert len(list(csv.DictReader(io.StringIO(judged)))) == 20
    again = start(
        client, f"/api/runs/{first}/judge", model="fake:seed=3", limit=20, allow_self=True
    )
    assert again["result"]["asked"] == 0  # nothing is asked twice
    # The texts of the fake engine are equal, so that there is nothing to prefer.
    wanted = {"model": "fake:seed=3", "against": second, "allow_self": True}
    pairs = start(client, f"/api/runs/{first}/judge", **wanted)
    assert pairs["state"] == "failed"
    assert "no pair of answers" in pairs["problem"]["detail"]
    assert client.get(f"/api/runs/{first}/judged/preferences.csv").status_code == 404


def test_labels_are_not_for_a_judge(client, run):
    job = start(client, f"/api/runs/{run}/judge", model="fake:seed=3")
    assert job["state"] == "failed"
    assert job["problem"]["fix"]
    missing = client.post(f"/api/runs/{run}/judge", json={"model": "../models/1"})
    assert missing.status_code == 422


def test_a_model_is_exported_and_its_files_are_downloaded(client, server, task, tmp_path):
    trained = save_model(tmp_path / "tiny", "llama")
    model = store_model(server, task, base="", trained=trained)
    job = start(client, f"/api/models/{model}/export", to="merged", rows=4)
    assert job["state"] == "succeeded", job["problem"]
    assert job["result"]["path"] == f"model-{model}"
    listed = client.get(f"/api/models/exports/{job['id']}/files").json()
    weights = next(one for one in listed if one["name"].endswith(".safetensors"))
    path = f"/api/models/exports/{job['id']}/files/{weights['name']}"
    assert len(client.get(path).content) == weights["bytes"]
    for outside in ("..%2F..%2Fmedtask.db", "../../medtask.db", "%2Fetc%2Fpasswd"):
        found = client.get(f"/api/models/exports/{job['id']}/files/{outside}")
        assert found.status_code in (404, 422)
    assert str(server.settings.data_folder) not in str(job)
    assert client.delete(f"/api/jobs/{job['id']}").status_code == 204
    assert not (server.settings.data_folder / "exports" / str(job["id"])).exists()


def test_an_export_that_is_not_possible_says_so(client, server, task):
    model = store_model(server, task, base="fake:seed=1")
    job = start(client, f"/api/models/{model}/export", to="gguf")
    assert job["state"] == "failed"
    assert job["problem"]["fix"]
    assert str(server.settings.data_folder) not in str(job)


def test_a_comparison_has_a_report_until_one_of_its_runs_is_deleted(client, dataset, task, run):
    run_ids = [answer(client, dataset, task, "fake:seed=4"), run]
    job = start(client, "/api/runs/compare", run_ids=run_ids, baselines=False)
    assert job["state"] == "succeeded", job["problem"]
    path = f"/api/runs/comparisons/{job['id']}/report"
    report = client.get(path)
    assert report.status_code == 200
    assert "sandbox" in report.headers["content-security-policy"]
    assert path in client.get(f"/comparisons/{job['id']}").text
    assert client.delete(f"/api/runs/{run_ids[0]}").status_code == 204
    assert client.get(path).status_code == 404


def test_a_comparison_of_runs_without_common_rows_fails(client, task, run):
    rows = [{"case": f"a{one}", "text": f"lung a {one}", "organ": "lung"} for one in range(9)]
    added = client.post("/api/datasets/rows", json={"name": "a", "rows": rows}).json()
    other = answer(client, added["id"], task)
    job = start(client, "/api/runs/compare", run_ids=[run, other], baselines=False)
    assert job["state"] == "failed"
    assert job["problem"]["fix"]
