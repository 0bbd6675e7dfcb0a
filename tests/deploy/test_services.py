"""The services of compose.yaml, started by hand: PostgreSQL, server, worker and model server.

llama-cpp-python's server is in Ollama's place: both serve a GGUF file over the same protocol.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from medtask.engines.files.model_files import find_built_in_model
from support.model_servers import LLAMA_SERVER_PACKAGES, find_missing_packages, run_llama_server
from support.postgres import MISSING_POSTGRES, POSTGRES, run_postgres
from support.server_process import ServerProcess, start_server

PASSWORD = "nine wooden bridges"
TASK = """name: purpose
instruction: Decide the purpose of the operation.
input: "{{ note }}"
answer: {kind: label, labels: [curative, palliative]}
"""
NOTES = ("Sigmoidresektion bei Karzinom", "Stent bei Stenose", "Tumorresektion mit Lymphknoten")

pytestmark = [
    pytest.mark.scale,
    pytest.mark.skipif(not POSTGRES, reason=MISSING_POSTGRES),
    pytest.mark.skipif(
        bool(find_missing_packages(LLAMA_SERVER_PACKAGES)),
        reason="the extra peers is not installed",
    ),
]


@contextmanager
def start_worker(data: Path, database_url: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "medtask", "worker", "--allow-remote", "--data", str(data)]
    environment = {**os.environ, "MEDTASK_DB": database_url}
    with subprocess.Popen(command, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def create_key(server: ServerProcess) -> str:
    """Create the first account with the printed link, and a key, as a person would."""
    with httpx2.Client(base_url=server.url, timeout=30) as browser:
        chosen = {"name": "Ada", "password": PASSWORD, "repeated": PASSWORD}
        assert server.link is not None
        assert browser.post(server.link, data=chosen).status_code == 303
        page = browser.get("/docs").text
        token = page.split('name="csrf-token" content="')[1].split('"')[0]
        created = browser.post(
            "/api/keys",
            json={"name": "script", "scopes": ["read", "label", "train"]},
            headers={"X-CSRF-Token": token},
        )
        return str(created.json()["secret"])


def test_the_services_answer_rows_together(tmp_path: Path) -> None:
    data = tmp_path / "data"
    model = find_built_in_model()
    if model is None:
        pytest.skip("the built-in model is not installed")
    with run_postgres() as postgres, run_llama_server(model) as model_url:
        database_url = postgres.create_database()
        with (
            start_server(
                data, "--workers", "0", "--allow-remote", database_url=database_url
            ) as web,
            start_worker(data, database_url) as worker,
            httpx2.Client(base_url=web.url, timeout=60) as client,
        ):
            client.headers["Authorization"] = f"Bearer {create_key(web)}"
            rows = [{"note": note} for note in NOTES]
            dataset = client.post("/api/datasets/rows", json={"name": "notes", "rows": rows})
            task = client.post("/api/tasks", json={"text": TASK})
            wanted = {
                "dataset_id": dataset.json()["id"],
                "task_id": task.json()["id"],
                "model": f"{model_url}#smollm2",
                "baselines": False,
            }
            started = client.post("/api/runs", json=wanted)
            assert started.status_code < 300, started.text
            deadline = time.monotonic() + 200
            while (job := client.get("/api/jobs").json()[0])["ended_at"] is None:
                assert time.monotonic() < deadline
                assert worker.poll() is None
                time.sleep(0.3)
            assert job["state"] == "succeeded", job
            run = client.get("/api/runs").json()[0]
            answers = client.get(f"/api/runs/{run['id']}/answers").json()
            assert [one["answer"] in {"curative", "palliative"} for one in answers["rows"]] == [
                True
            ] * 3

            worker.send_signal(signal.SIGTERM)
            assert worker.wait(20) in {0, 143}
