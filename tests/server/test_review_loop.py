"""From rows that nobody has labelled to a model that has learned from what people decided."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from medtask.server.access.roles import Role
from support.review_runs import load_items, make_submission
from support.server import run_server
from support.worker_process import run_worker_thread

ORGANS = ("lung", "liver", "knee")
TASK = """\
name: organ
instruction: Which organ?
input: "{{ text }}"
id: case
answer: {kind: label, labels: [lung, liver, knee]}
"""


@pytest.mark.slow
def test_a_model_learns_from_reviewed_rows_and_answers_new_ones(tmp_path: Path) -> None:
    rows = [
        {"case": f"c{number}", "text": f"finding {number} of the {ORGANS[number % 3]}"}
        for number in range(60)
    ]
    with run_server(tmp_path / "data") as server, run_worker_thread(server.settings):
        trainer, reader = server.connect(Role.TRAINER), server.connect(Role.REVIEWER)
        dataset = trainer.post("/api/datasets/rows", json={"name": "findings", "rows": rows}).json()
        task = trainer.post("/api/tasks", json={"text": TASK}).json()
        ids = {"dataset_id": dataset["id"], "task_id": task["id"]}
        queue = trainer.post("/api/reviews", json=ids).json()["id"]
        while items := load_items(reader, queue, 100):
            for item in items:
                organ = next(name for name in ORGANS if name in item["text"])
                decision = make_submission(item, organ)
                saved = reader.post(f"/api/reviews/{queue}/decisions", json=decision)
                assert saved.status_code == 200, saved.text
        gold = trainer.post(f"/api/reviews/{queue}/dataset", json={}).json()
        assert gold["rows"] == 60

        new = {"name": "learned", "method": "linear", **ids, "dataset_id": gold["dataset_id"]}
        model = trainer.post("/api/models", json=new).json()["id"]
        job = trainer.post(f"/api/models/{model}/train", json={"gold": "gold"}).json()
        deadline = time.monotonic() + 150
        while job["ended_at"] is None:
            assert time.monotonic() < deadline, job
            time.sleep(0.1)
            job = trainer.get(f"/api/jobs/{job['id']}").json()
        assert job["state"] == "succeeded", job["problem"]

        texts = [f"another finding of the {organ}" for organ in ORGANS]
        asked = {"model_id": model, "texts": texts}
        answers = server.connect(Role.VIEWER).post("/classify", json=asked).json()["answers"]
        assert [answer["answer"] for answer in answers] == list(ORGANS)
