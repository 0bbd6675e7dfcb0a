"""`POST /ask`: questions and cases, with and without options, and their events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import medtask
from medtask.server.access.roles import Role, Scope
from medtask.tasks.single_question import make_question_task
from medtask.tasks.task import FreeText, MultipleChoice, Reasoning
from support.server import ServerUnderTest

CASE = "A 60-year-old man has had crushing chest pain for an hour."
OPTIONS = {"A": "ECG", "B": "Chest X-ray", "C": "Ultrasound of the liver"}


@pytest.fixture(scope="module")
def server(shared_server: ServerUnderTest) -> ServerUnderTest:
    """Tests of this module leave the server as it is, or add objects that others do not see."""
    return shared_server


def ask(server: ServerUnderTest, role: Role = Role.TRAINER, **body: Any) -> Any:
    return server.connect(role).post("/ask", json={"model": "fake:", **body})


def test_a_case_with_options_gets_the_most_probable_one_after_an_analysis(
    server: ServerUnderTest,
) -> None:
    response = ask(server, case=CASE, question="What is next?", options=OPTIONS)
    found = response.json()
    task = make_question_task(MultipleChoice(columns=("options",)), Reasoning(256))
    row = {"question": f"{CASE}\n\nWhat is next?", "options": OPTIONS}
    (expected,) = medtask.predict(task, medtask.load_model("fake:"), [row])
    assert response.status_code == 200
    assert found["answer"] == expected.value
    assert found["option"] == OPTIONS[found["answer"]]
    assert found["probabilities"] == expected.probabilities
    assert found["analysis"] == expected.thoughts != ""
    assert found["confidence"] == max(found["probabilities"].values())


@pytest.mark.parametrize("options", [["ECG", "X-ray"], "A) ECG\nB) X-ray", {"b": "ECG", "c": "CT"}])
def test_options_may_be_a_list_a_text_or_letters(server: ServerUnderTest, options: Any) -> None:
    found = ask(server, question="What is next?", options=options, analysis_tokens=0).json()
    letters = {"B", "C"} if isinstance(options, dict) else {"A", "B"}
    assert set(found["probabilities"]) == letters
    assert found["analysis"] is None


def test_a_question_without_options_gets_a_text(server: ServerUnderTest) -> None:
    found = ask(server, question="What is glaucoma?", analysis_tokens=0, max_tokens=20).json()
    task = make_question_task(FreeText(max_tokens=20))
    (expected,) = medtask.predict(
        task, medtask.load_model("fake:"), [{"question": "What is glaucoma?"}]
    )
    assert found["answer"] == expected.value
    assert found["probabilities"] is None
    assert found["status"] == "ok"
    assert not found["truncated"]


def test_a_streamed_answer_is_the_answer_that_is_not_streamed(server: ServerUnderTest) -> None:
    body = {"case": CASE, "options": OPTIONS}
    whole = ask(server, **body).json()
    response = ask(server, **body, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = read_events(response.text)
    names = [name for name, _ in events]
    assert names[-1] == "answer"
    assert set(names[:-1]) == {"thought"}
    assert events[-1][1] == whole
    thoughts = "".join(piece["text"] for _, piece in events[:-1])
    assert thoughts.strip() == whole["analysis"].strip()


def read_events(text: str) -> list[tuple[str, Any]]:
    events = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        events.append((fields["event"], json.loads(fields["data"])))
    return events


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({}, 422, "there is no question"),
        ({"question": "  "}, 422, "there is no question"),
        ({"question": 3}, 422, "body.question"),
        ({"question": "x", "options": {"A": "only one"}}, 422, "option"),
        ({"question": "x", "temperature": -1}, 422, "body.temperature"),
        ({"question": "x", "answer": "y"}, 422, "body.answer"),
        ({"question": "x" * 200_001}, 413, "200,001 characters"),
        ({"question": "x", "model": "/etc/passwd"}, 422, "not by a path"),
        ({"question": "x", "task_id": 99}, 404, "no task 99"),
        ({"question": "x", "model": None, "model_id": 99}, 404, "no model 99"),
        ({"question": "x", "timeout_s": 0}, 422, "body.timeout_s"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_remedy(
    server: ServerUnderTest, body: dict[str, Any], status: int, detail: str, stream: bool
) -> None:
    response = ask(server, **body, stream=stream)
    problem = response.json()
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert detail in problem["detail"]
    assert problem["fix"]


def test_only_trainers_may_name_other_models_than_the_built_in_ones(
    server: ServerUnderTest,
) -> None:
    assert ask(server, Role.VIEWER, question="x").status_code == 403
    assert ask(server, Role.TRAINER, question="x").status_code == 200


def test_a_key_needs_the_scope_of_labels(server: ServerUnderTest) -> None:
    body = {"question": "What is glaucoma?", "model": "fake:"}
    read = server.connect_with_key(Role.TRAINER, Scope.READ)
    label = server.connect_with_key(Role.TRAINER, Scope.LABEL)
    assert read.post("/ask", json=body).status_code == 403
    assert label.post("/ask/", json=body).status_code == 200


def test_a_body_that_is_not_utf8_is_refused(server: ServerUnderTest) -> None:
    client = server.connect(Role.VIEWER)
    response = client.post(
        "/ask",
        content='{"question": "Schädel"}'.encode("latin-1"),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 400
    assert response.json()["fix"]


LETTER_TASK = """name: letters
instruction: Answer from the letter.
input: "{{ question }}"
answer: {kind: answer, context: letter, max_tokens: 20}
"""
LABEL_TASK = """name: purpose
instruction: Decide.
input: "{{ note }}"
answer: {kind: label, labels: [curative, palliative]}
"""


def test_the_context_of_a_question_to_a_stored_task_is_read(
    server: ServerUnderTest, tmp_path: Path
) -> None:
    client = server.connect(Role.TRAINER)
    task_id = client.post("/api/tasks", json={"text": LETTER_TASK}).json()["id"]

    found = ask(server, task_id=task_id, question="Which drug?", context="She takes statins.")

    file = tmp_path / "task.yaml"
    file.write_text(LETTER_TASK)
    row = {"question": "Which drug?", "letter": "She takes statins."}
    (expected,) = medtask.predict(medtask.load_task(file), medtask.load_model("fake:"), [row])
    assert found.json()["answer"] == expected.value
    assert ask(server, task_id=task_id, question="Which drug?").status_code == 200


@pytest.mark.parametrize(
    ("text", "body", "detail"),
    [
        (LABEL_TASK, {"context": "She takes statins."}, "no context"),
        (LABEL_TASK, {"max_tokens": 5, "seed": 1}, "determines max_tokens, seed"),
        (LETTER_TASK, {"options": OPTIONS}, "does not read options"),
    ],
)
def test_what_a_stored_task_would_ignore_is_refused(
    server: ServerUnderTest, text: str, body: dict[str, Any], detail: str
) -> None:
    client = server.connect(Role.TRAINER)
    task_id = client.post("/api/tasks", json={"text": text}).json()["id"]

    response = ask(server, task_id=task_id, question="Which drug?", **body)

    assert (response.status_code, detail in response.json()["detail"]) == (422, True)
