"""`POST /classify`: one text, many texts, rows, and a title with its abstract."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import medtask
from medtask.records import Answer
from medtask.server.access.roles import Role, Scope
from support.server import ServerUnderTest
from support.stored_tasks import DOMAINS_TASK, PURPOSE_TASK, store_model, store_task

PAPER = {"title": "Statins after stroke", "abstract": "We followed 500 patients."}


@pytest.fixture(scope="module")
def server(shared_server: ServerUnderTest) -> ServerUnderTest:
    """Tests of this module leave the server as it is, or add objects that others do not see."""
    return shared_server


def predict(text: str, tmp_path: Any, rows: list[dict[str, Any]]) -> list[Answer]:
    folder = tmp_path / "expected"
    folder.mkdir(exist_ok=True)
    (folder / "task.yaml").write_text(text)
    return list(medtask.predict(medtask.load_task(folder), medtask.load_model("fake:"), rows))


def classify(server: ServerUnderTest, **body: Any) -> Any:
    return server.connect(Role.VIEWER).post("/classify", json=body)


@pytest.mark.parametrize("path", ["/classify", "/classify/", "/api/classify", "/api/classify/"])
def test_a_title_and_an_abstract_get_their_domains(
    server: ServerUnderTest, tmp_path: Any, path: str
) -> None:
    model_id = store_model(server, store_task(server, DOMAINS_TASK))
    response = server.connect(Role.VIEWER).post(path, json={**PAPER, "model_id": model_id})
    (expected,) = predict(DOMAINS_TASK, tmp_path, [{**PAPER, "paper": "1"}])
    found = response.json()
    assert response.status_code == 200
    assert found["predicted_domains"] == list(expected.value or ())
    assert found["answer"] == list(expected.value or ())
    assert found["probabilities"] == expected.probabilities
    assert found["confidence"] == expected.confidence
    assert found["status"] == str(expected.status)


def test_many_texts_get_the_answers_of_predict_in_their_order(
    server: ServerUnderTest, tmp_path: Any
) -> None:
    task_id = store_task(server, PURPOSE_TASK + "model: 'fake:'\n")
    texts = [f"resection of the colon {number}" for number in range(20)]
    found = classify(server, task_id=task_id, texts=["", *texts]).json()["answers"]
    expected = predict(PURPOSE_TASK, tmp_path, [{"text": text} for text in ["", *texts]])
    assert [one["answer"] for one in found] == [one.value for one in expected]
    assert [one["probabilities"] for one in found] == [one.probabilities for one in expected]
    assert found[0]["status"] == "empty_input"
    assert found[0]["reason"]


def test_one_text_and_rows_are_answered_alike(server: ServerUnderTest) -> None:
    model_id = store_model(server, store_task(server, PURPOSE_TASK))
    one = classify(server, model_id=model_id, text="biopsy of the liver").json()
    rows = classify(
        server, model_id=model_id, rows=[{"text": "biopsy of the liver", "other": 3}]
    ).json()
    assert one["answer"] in ("curative", "palliative", "diagnostic")
    assert rows["answers"][0]["probabilities"] == one["probabilities"]
    assert one["predicted_domains"] == [one["answer"]]
    assert one["task"] == rows["task"] == "purpose"
    assert one["model"] == f"model {model_id}"


def test_requests_of_many_clients_are_answered_as_alone(server: ServerUnderTest) -> None:
    model_id = store_model(server, store_task(server, PURPOSE_TASK))
    texts = [f"text {number}" for number in range(24)]
    alone = classify(server, model_id=model_id, texts=texts).json()["answers"]
    client = server.connect_with_key(Role.VIEWER, Scope.LABEL)

    def ask(text: str) -> Any:
        return client.post("/classify", json={"model_id": model_id, "text": text}).json()

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(ask, texts))
    assert [one["probabilities"] for one in together] == [one["probabilities"] for one in alone]


def test_a_changed_task_is_used_from_the_next_request_on(server: ServerUnderTest) -> None:
    task_id = store_task(server, PURPOSE_TASK)
    model_id = store_model(server, task_id)
    before = classify(server, model_id=model_id, text="biopsy").json()
    file = server.settings.data_folder / "tasks" / str(task_id) / "task.yaml"
    file.write_text(PURPOSE_TASK.replace("diagnostic", "preventive"))
    after = classify(server, model_id=model_id, text="biopsy").json()
    assert set(before["probabilities"]) - set(after["probabilities"]) == {"diagnostic"}


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"text": "x"}, 422, "names no task"),
        ({"model_id": 99, "text": "x"}, 404, "no model 99"),
        ({"task_id": 99, "text": "x"}, 404, "no task 99"),
        ({"model_id": "MODEL"}, 422, "has no text"),
        ({"model_id": "MODEL", "text": "x", "texts": ["y"]}, 422, "gives text, texts"),
        ({"model_id": "MODEL", "text": "  "}, 422, "empty"),
        ({"model_id": "MODEL", "texts": []}, 422, "body.texts"),
        ({"model_id": "MODEL", "texts": [3]}, 422, "body.texts.0"),
        ({"model_id": "MODEL", "text": ["x"]}, 422, "body.text"),
        ({"model_id": "MODEL", "title": "x"}, 422, "lacks"),
        ({"model_id": "MODEL", "texts": ["x"] * 1001}, 422, "at most 1,000 texts"),
        ({"model_id": "MODEL", "text": "x" * 200_001}, 413, "200,001 characters"),
        ({"model_id": "MODEL", "model": "minilm", "text": "x"}, 422, "two models"),
        ({"model_id": "MODEL", "task_id": 77, "text": "x"}, 422, "belongs to task"),
        ({"task_id": "TASK", "model": "../secret", "text": "x"}, 422, "not by a path"),
    ],
)
def test_what_cannot_be_classified_is_refused_with_a_remedy(
    server: ServerUnderTest, body: dict[str, Any], status: int, detail: str
) -> None:
    task_id = store_task(server, PURPOSE_TASK)
    model_id = store_model(server, task_id)
    ids = {"MODEL": model_id, "TASK": task_id}
    given = {
        name: ids.get(value, value) if isinstance(value, str) else value
        for name, value in body.items()
    }
    response = classify(server, **given)
    problem = response.json()
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert detail in problem["detail"]
    assert problem["fix"]


def test_a_text_for_a_task_with_several_columns_names_them(server: ServerUnderTest) -> None:
    model_id = store_model(server, store_task(server, DOMAINS_TASK))
    problem = classify(server, model_id=model_id, text="x").json()
    assert problem["status"] == 422
    assert "abstract" in problem["detail"] and "title" in problem["detail"]


def test_a_model_that_is_not_trained_is_refused(server: ServerUnderTest) -> None:
    model_id = store_model(server, store_task(server, PURPOSE_TASK))
    with server.database.write() as session:
        from medtask.server.storage.tables import StoredModel

        session.get_one(StoredModel, model_id).method = "linear"
    problem = classify(server, model_id=model_id, text="x").json()
    assert "not trained" in problem["detail"]
    assert "/train" in problem["fix"]


def test_a_request_that_takes_too_long_is_ended_with_a_remedy(server: ServerUnderTest) -> None:
    task_id = store_task(server, PURPOSE_TASK)
    model_id = store_model(server, task_id, base="fake:ms_per_row=300")
    response = classify(
        server, model_id=model_id, texts=[f"text {n}" for n in range(40)], timeout_s=0.5
    )
    assert response.status_code == 408
    assert "timeout_s" in response.json()["fix"]


def test_metrics_count_texts_and_contain_none(server: ServerUnderTest) -> None:
    model_id = store_model(server, store_task(server, PURPOSE_TASK), base="fake:seed=8")
    classify(server, model_id=model_id, texts=["resection of a secret", "biopsy"])
    metrics = server.connect(Role.VIEWER).get("/metrics").text
    assert 'medtask_model_texts_total{model="fake:seed=8"} 2.0' in metrics
    assert 'medtask_model_waiting_texts{model="fake:seed=8"} 0.0' in metrics
    assert "secret" not in metrics
