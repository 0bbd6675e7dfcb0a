"""Data sets, tasks, models, runs and jobs over HTTP, worked on by a real worker."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text as sql

from medtask.server.access.roles import Role
from medtask.server.settings import RequestLimits
from support.example_files import EXAMPLES
from support.server import ServerUnderTest, run_server
from support.worker_process import run_worker_thread

RADIOLOGY = EXAMPLES / "radiology_protocol"


@pytest.fixture
def sqlite_server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    """For tests of jobs that write nothing else to the database than those on both databases."""
    with run_server(tmp_path / "data") as running:
        yield running


def upload(client: TestClient, path: Path = RADIOLOGY / "notes.csv") -> dict[str, Any]:
    response = client.post("/api/datasets/", files={"file": (path.name, path.read_bytes())})
    assert response.status_code == 201, response.text
    return dict(response.json())


def create_task(client: TestClient) -> dict[str, Any]:
    text = (RADIOLOGY / "task.yaml").read_text("utf-8")
    response = client.post("/api/tasks", json={"text": text})
    assert response.status_code == 201, response.text
    return dict(response.json())


def wait(client: TestClient, job: dict[str, Any], limit_s: float = 150) -> dict[str, Any]:
    deadline = time.monotonic() + limit_s
    while job["ended_at"] is None:
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
        job = client.get(f"/api/jobs/{job['id']}/").json()
    return job


def test_an_uploaded_table_is_listed_previewed_counted_and_deleted(
    shared_server: ServerUnderTest,
) -> None:
    client = shared_server.connect(Role.TRAINER)
    added = upload(client)
    assert (added["rows"], added["file_name"]) == (300, "notes.csv")

    listed = client.get("/api/datasets").json()
    assert added["id"] in [one["id"] for one in listed]
    page = client.get(f"/api/datasets/{added['id']}/rows?offset=298&limit=5").json()
    assert (len(page["rows"]), page["total"]) == (2, 300)
    task = create_task(client)
    statistics = client.get(
        f"/api/datasets/{added['id']}/statistics", params={"task_id": task["id"]}
    ).json()
    assert statistics["task"]["gold_rows"] > 250
    protocol = next(one for one in statistics["columns"] if one["name"] == "protocol")
    assert sum(one["rows"] for one in protocol["frequent_values"]) == 300 - protocol["missing"]

    folder = shared_server.settings.data_folder / "datasets" / str(added["id"])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert client.delete(f"/api/datasets/{added['id']}/").status_code == 204
    assert not folder.exists()
    assert client.get(f"/api/datasets/{added['id']}").status_code == 404


def test_a_table_is_uploaded_as_a_body_and_as_rows(shared_server: ServerUnderTest) -> None:
    client = shared_server.connect(Role.TRAINER)

    body = client.post(
        "/api/datasets?file_name=a.csv", content=b"id;text\n1;Schr\xe4g\n2;b\n"
    ).json()
    rows = client.post(
        "/api/datasets/rows", json={"name": "rows", "rows": [{"id": 1}, {"id": 2, "text": "b"}]}
    ).json()

    assert (body["rows"], body["columns"]) == (2, ["id", "text"])
    assert (rows["rows"], rows["columns"]) == (2, ["id", "text"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b""),
        ("a.exe", b"MZ"),
        ("a.xlsx", b"PK\x03\x04 broken"),
        ("a.parquet", b"PAR1"),
        ("../../etc/passwd", b"root"),
        ("a.csv", b'id,text\n1,"open'),
    ],
)
def test_a_file_that_is_no_table_is_refused_and_nothing_is_kept(
    shared_server: ServerUnderTest, name: str, content: bytes
) -> None:
    client = shared_server.connect(Role.TRAINER)
    before = client.get("/api/datasets").json()

    response = client.post("/api/datasets", files={"file": (name, content)})

    problem = response.json()
    assert response.status_code == 422, problem
    assert problem["fix"]
    assert str(shared_server.settings.data_folder) not in response.text
    assert client.get("/api/datasets").json() == before
    assert list((shared_server.settings.data_folder / "uploads").iterdir()) == []


def test_names_of_fields_and_files_are_of_any_script(shared_server: ServerUnderTest) -> None:
    client = shared_server.connect(Role.TRAINER)
    form = {"file": ("Röntgen 胸部.csv", b"id,text\n1,a\n"), "字段": (None, b"x")}

    added = client.post("/api/datasets", files=form).json()

    assert (added["name"], added["file_name"]) == ("Röntgen 胸部.csv", "Röntgen_胸部.csv")


def test_an_upload_that_is_too_long_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    limits = RequestLimits(upload_bytes=100_000)
    with run_server(tmp_path / "data", limits=limits) as server:
        client = server.connect(Role.TRAINER)

        def send() -> Iterator[bytes]:
            yield b"id,text\n"
            for number in range(5_000):
                yield b"%d,a text of some length\n" % number

        response = client.post("/api/datasets?file_name=a.csv", content=send())

        assert response.status_code == 413
        assert list((server.settings.data_folder / "uploads").iterdir()) == []


def test_all_faults_of_a_task_are_shown_with_their_lines(shared_server: ServerUnderTest) -> None:
    client = shared_server.connect(Role.TRAINER)
    text = "name: a\ninstruktion: b\ninput: '{{ x }}'\nanswer:\n  kind: lable\n"

    refused = client.post("/api/tasks", json={"text": text})
    checked = client.post("/api/tasks/check/", json={"text": text}).json()

    assert refused.status_code == 422
    assert [fault["line"] for fault in refused.json()["errors"]][-1] == 5
    assert not checked["valid"]
    assert checked["faults"] == refused.json()["errors"]


def test_a_task_cannot_name_a_schema_of_the_server(
    shared_server: ServerUnderTest, tmp_path: Path
) -> None:
    client = shared_server.connect(Role.TRAINER)
    (tmp_path / "secret.json").write_text('{"type": "object", "properties": {"SECRET": {}}}')
    for schema in (tmp_path / "secret.json", "../../1/secret.json"):
        text = (
            "name: a\ninstruction: b\ninput: '{{ x }}'\n"
            f"answer: {{kind: fields, schema: {schema}}}\n"
        )
        refused = client.post("/api/tasks", json={"text": text})
        assert refused.status_code == 422
        assert "read no files" in refused.text
        assert "SECRET" not in refused.text


@pytest.mark.parametrize(
    "lines",
    [
        "examples: /etc/passwd",
        "examples: {file: ../../1/notes.csv}",
        "tuning_rows: /etc/passwd",
        "data: ../../datasets/1/notes.csv",
        "data: /etc/passwd",
        "model: /etc",
        "model: ../models/1",
        "passes: [{name: a, when: {confidence_below: 0.5}, model: ./secret}]",
    ],
)
def test_a_task_cannot_name_a_file_of_the_server(
    shared_server: ServerUnderTest, lines: str
) -> None:
    client = shared_server.connect(Role.TRAINER)
    text = (
        "name: a\ninstruction: b\ninput: '{{ x }}'\n"
        "answer: {kind: label, labels: [one, two]}\n" + lines
    )

    problem = client.post("/api/tasks", json={"text": text}).json()

    assert problem["status"] == 422
    assert problem["errors"][0]["line"] == 5
    assert ("remove the line" in json.dumps(problem)) == lines.startswith("data:")
    assert "root:" not in json.dumps(problem)


def test_faults_of_a_task_do_not_name_the_folder_of_the_server(
    shared_server: ServerUnderTest,
) -> None:
    client = shared_server.connect(Role.TRAINER)
    rows = {"name": "other columns", "rows": [{"remark": "a"}]}
    number = client.post("/api/datasets/rows", json=rows).json()["id"]
    text = (RADIOLOGY / "task.yaml").read_text("utf-8")
    draft = {"text": text, "dataset_id": number}
    asked = {"task_id": create_task(client)["id"]}
    responses = [
        client.post("/api/tasks/preview", json=draft),
        client.post("/tasks/check", data=draft),
        client.get(f"/api/datasets/{number}/statistics", params=asked),
    ]

    for response in responses:
        assert "but the table has" in response.text
        assert str(shared_server.settings.data_folder) not in response.text
    assert [response.status_code for response in responses] == [422, 200, 422]


def test_a_task_whose_file_is_missing_can_be_written_again(shared_server: ServerUnderTest) -> None:
    client = shared_server.connect(Role.TRAINER)
    number = create_task(client)["id"]
    (shared_server.settings.data_folder / "tasks" / str(number) / "task.yaml").unlink()

    assert client.get(f"/api/tasks/{number}").status_code == 422
    assert client.get(f"/tasks/{number}").status_code == 200
    text = (RADIOLOGY / "task.yaml").read_text("utf-8")
    assert client.put(f"/api/tasks/{number}", json={"text": text}).status_code == 200


def test_a_prompt_is_previewed_before_a_task_is_saved(shared_server: ServerUnderTest) -> None:
    client = shared_server.connect(Role.TRAINER)
    text = (RADIOLOGY / "task.yaml").read_text("utf-8")

    preview = client.post(
        "/api/tasks/preview", json={"text": text, "dataset_id": upload(client)["id"], "row": 2}
    ).json()

    assert preview["messages"][-1]["role"] == "user"
    assert len(preview["branches"][0]["candidates"]) >= 4


@pytest.mark.parametrize("number", ["0", "2147483648", "9" * 30, "٣٣٣٣٣٣٣٣٣٣٣٣", "1e3"])
def test_an_id_that_no_object_can_have_is_no_server_error(
    shared_server: ServerUnderTest, number: str
) -> None:
    client = shared_server.connect(Role.TRAINER)
    task = (RADIOLOGY / "task.yaml").read_text("utf-8")
    draft = {"text": task, "task_id": number, "dataset_id": number, "row": number}
    assert client.get(f"/tasks/new?template=dataset-{number}").status_code == 200
    assert client.post("/tasks/check", data=draft).status_code == 200
    for path in ("/datasets", "/tasks", "/models", "/runs", "/jobs", "/reviews"):
        assert client.get(f"{path}/{number}").status_code in (404, 422)


def test_the_list_of_jobs_names_what_they_work_on(shared_server: ServerUnderTest) -> None:
    client = shared_server.connect(Role.TRAINER)
    ids = {"task_id": create_task(client)["id"], "dataset_id": upload(client)["id"]}
    model = {"name": "TF-IDF of radiology", "method": "linear", **ids}
    model_id = client.post("/api/models", json=model).json()["id"]
    client.post(f"/api/models/{model_id}/train", json={})
    client.post("/api/runs", json={"name": "First <run>", "model": "fake:", **ids})
    page = client.get("/jobs/list").text
    assert page.index("First &lt;run&gt;") < page.index("TF-IDF of radiology")


@pytest.mark.scale
def test_a_model_is_trained_and_answers_a_data_set(server: ServerUnderTest) -> None:
    client = server.connect(Role.TRAINER)
    dataset, task = upload(client), create_task(client)
    model = client.post(
        "/api/models/",
        json={"name": "TF-IDF", "model_type": "traditional", "dataset": dataset["id"]},
    ).json()
    assert (model["task_id"], model["state"]) == (task["id"], "created")

    with run_worker_thread(server.settings):
        trained = wait(
            client,
            client.post(f"/api/models/{model['id']}/train/", json={"fast_mode": True}).json(),
        )
        assert trained["state"] == "succeeded", trained["problem"]
        started = client.post(
            "/api/runs",
            json={"dataset_id": dataset["id"], "model_id": model["id"], "baselines": False},
        ).json()
        answered = wait(client, started["job"])
        other = client.post(
            "/api/runs",
            json={
                "dataset_id": dataset["id"],
                "task_id": task["id"],
                "model": "fake:",
                "baselines": False,
            },
        ).json()
        wait(client, other["job"])
        run_ids = [started["run"]["id"], other["run"]["id"]]
        compared = wait(
            client,
            client.post("/api/runs/compare", json={"run_ids": run_ids, "baselines": False}).json(),
        )
        evaluated = wait(
            client,
            client.post(f"/api/runs/{run_ids[0]}/evaluate", json={"baselines": False}).json(),
        )

    view = client.get(f"/api/models/{model['id']}").json()
    assert view["state"] == "ready"
    assert view["metrics"]["accuracy"]["n"] == 20
    assert answered["state"] == "succeeded", answered["problem"]
    assert compared["state"] == "succeeded", compared["problem"]
    assert evaluated["result"]["metrics"]["accuracy"]["value"] > 0.9
    board = client.get(
        "/api/runs/leaderboard", params={"task_id": task["id"], "dataset_id": dataset["id"]}
    ).json()
    assert [entry["run"]["id"] for entry in board] == run_ids
    answers = client.get(f"/api/runs/{run_ids[0]}/answers?limit=3").json()
    assert len(answers["rows"]) == 3
    assert "probabilities" in answers["rows"][0]
    report = client.get(f"/api/runs/{run_ids[0]}/report")
    assert "sha256-" in report.headers["content-security-policy"]
    assert client.get(f"/api/runs/{run_ids[0]}/answers.csv").text.startswith("note_id,")
    assert client.post(f"/api/models/{model['id']}/train").status_code == 409


@pytest.mark.slow
def test_a_run_without_any_answer_is_a_failure_that_says_why(
    sqlite_server: ServerUnderTest,
) -> None:
    client = sqlite_server.connect(Role.TRAINER)
    task = create_task(client)
    columns = client.get("/api/tasks").json() and upload(client)["columns"]
    rows = [dict.fromkeys(columns, "") | {columns[0]: str(number)} for number in range(3)]
    dataset = client.post("/api/datasets/rows", json={"name": "empty", "rows": rows}).json()

    with run_worker_thread(sqlite_server.settings):
        started = client.post(
            "/api/runs",
            json={"dataset_id": dataset["id"], "task_id": task["id"], "model": "fake:"},
        ).json()
        job = wait(client, started["job"])

    assert job["state"] == "failed"
    assert "3 empty_input" in job["problem"]["detail"] or "gold" in job["problem"]["detail"]
    assert job["problem"]["fix"]


@pytest.mark.slow
def test_events_follow_a_job_to_its_end_and_cancelling_takes_less_than_five_seconds(
    shared_server: ServerUnderTest,
) -> None:
    client = shared_server.connect(Role.TRAINER)
    dataset, task = upload(client), create_task(client)
    with run_worker_thread(shared_server.settings):
        started = client.post(
            "/api/runs",
            json={
                "dataset_id": dataset["id"],
                "task_id": task["id"],
                "model": "fake:ms_per_row=200",
                "baselines": False,
            },
        ).json()
        job_id = started["job"]["id"]
        events, cancelled_at = [], 0.0
        with client.stream("GET", f"/api/jobs/{job_id}/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            for line in response.iter_lines():
                if line.startswith("event: "):
                    events.append(line.removeprefix("event: "))
                if line.startswith("data: {") and not cancelled_at:
                    progress = json.loads(line.removeprefix("data: ")).get("progress") or {}
                    if progress.get("done"):
                        client.post(f"/api/jobs/{job_id}/cancel")
                        cancelled_at = time.monotonic()
        seconds = time.monotonic() - cancelled_at

    assert events[-1] == "end"
    assert client.get(f"/api/jobs/{job_id}").json()["state"] == "cancelled"
    assert seconds < 5.5


CANARY = "Zebrafink-4711"


@pytest.mark.slow
def test_no_text_of_a_record_is_in_the_tables_of_jobs_whatever_goes_wrong(
    sqlite_server: ServerUnderTest,
) -> None:
    server = sqlite_server
    client = server.connect(Role.TRAINER)
    rows = [{"id": number, "x": f"{CANARY} {number}", "y": CANARY} for number in range(30)]
    dataset = client.post("/api/datasets/rows", json={"name": "a", "rows": rows}).json()["id"]
    text = (
        "name: a\ninstruction: b\ninput: '{{ x }}'\nid: id\n"
        "answer: {kind: label, labels: [one, two]}\n"
    )
    task = client.post("/api/tasks", json={"text": text}).json()["id"]
    ids = {"task_id": task, "dataset_id": dataset}
    model = client.post("/api/models", json={"name": "a", "method": "linear", **ids}).json()["id"]
    run = {"model": "fake:", "baselines": False, **ids}
    jobs = [
        client.post("/api/runs", json=body).json()["job"]
        for body in ({**run, "gold": "y"}, {**run, "model": "fake:fails_after=3"}, run)
    ]
    jobs.append(client.post(f"/api/models/{model}/train", json={"gold": "y"}).json())
    with run_worker_thread(server.settings):
        ended = [wait(client, job) for job in jobs]
        evaluation = client.post("/api/runs/3/evaluate", json={"gold": "y", "baselines": False})
        ended.append(wait(client, evaluation.json()))

    states = [job["state"] for job in ended]
    assert states[:4] == ["failed", "failed", "succeeded", "failed"]
    assert all(job["problem"]["fix"] for job in ended if job["state"] == "failed")
    with server.database.read() as session:
        for table in ("jobs", "job_lines", "runs", "models", "audit_entries"):
            content = session.execute(sql(f"SELECT * FROM {table}")).all()
            assert CANARY not in str(content), table


def test_a_user_with_too_many_waiting_jobs_is_asked_to_wait(tmp_path: Path) -> None:
    with run_server(tmp_path / "data", limits=RequestLimits(queue_length=2)) as server:
        client = server.connect(Role.TRAINER)
        ids = {"dataset_id": upload(client)["id"], "task_id": create_task(client)["id"]}
        statuses = [
            client.post("/api/runs", json={"model": "fake:", **ids}).status_code for _ in range(3)
        ]

    assert statuses == [202, 202, 429]
