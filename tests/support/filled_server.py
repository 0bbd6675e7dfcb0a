"""A live server with a data set, tasks, a trained model and runs, made through its API."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from medtask.server.access.guard import CSRF_HEADER
from medtask.server.access.roles import Role
from medtask.server.access.secrets import make_csrf_token
from support.live_server import LiveServer

TASK = """\
name: Untersuchung
instruction: Welche Untersuchung wird angefordert?
input: "{{ text }}"
id: id
gold: untersuchung
answer:
  kind: label
  labels:
    Röntgen Thorax: Lunge, Pneumonie, Pleuraerguss
    Sonographie Abdomen: Leber, Gallenblase, Niere
    MRT Schädel: Kopf, Hirn, Schlaganfall
"""
_WORDS = {
    "Röntgen Thorax": ("Husten und Fieber, Pneumonie?", "Pleuraerguss links, Größe?"),
    "Sonographie Abdomen": ("Gallensteine, Leberwerte erhöht", "Nierenstau rechts?"),
    "MRT Schädel": ("Verdacht auf Schlaganfall, Hirn", "Kopfschmerz, Raumforderung im Hirn?"),
}


def make_table(rows: int = 90) -> bytes:
    """A table in German with gold, as CSV."""
    lines = ["id,text,untersuchung"]
    for number in range(rows):
        label = list(_WORDS)[number % len(_WORDS)]
        text = _WORDS[label][number // len(_WORDS) % 2]
        lines.append(f'{number + 1:03},"{text}, Fall {number % 17}",{label}')
    return "\n".join(lines).encode()


class ApiClient:
    """Calls the API as a signed-in administrator."""

    def __init__(self, server: LiveServer, name: str = "") -> None:
        cookie = server.sign_in(Role.ADMIN, name)
        self._client = httpx2.Client(
            base_url=server.address,
            cookies={cookie["name"]: cookie["value"]},
            headers={CSRF_HEADER: make_csrf_token(cookie["value"])},
            timeout=60,
        )

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        response = self._client.request(method, path, **options)
        assert response.is_success, response.text
        return response.json()

    def get(self, path: str) -> bytes:
        """The content of a file."""
        response = self._client.get(path)
        assert response.is_success, response.text
        return bytes(response.content)

    def upload(self, name: str, table: bytes) -> int:
        return int(self.call("POST", "/api/datasets", files={"file": (name, table)})["id"])

    def wait(self, job: Mapping[str, Any], seconds: float = 90) -> dict[str, Any]:
        """Wait until a job has ended, which must have succeeded."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.call("GET", f"/api/jobs/{job['id']}")
            if found["ended_at"]:
                assert found["state"] == "succeeded", json.dumps(found["problem"])
                return found
            time.sleep(0.2)
        raise AssertionError("the job did not end in time")


def fill_server(server: LiveServer) -> None:
    """A data set, a task, a model that learned from the first rows, and two runs with gold."""
    with ApiClient(server) as api:
        dataset = api.upload("anforderungen.csv", make_table())
        new_rows = api.upload("neue.csv", make_table(30).replace(b", Fall", b", Zimmer"))
        task = api.call("POST", "/api/tasks", json={"text": TASK})["id"]
        model = {"name": "TF-IDF", "task_id": task, "dataset_id": dataset, "method": "linear"}
        model_id = api.call("POST", "/api/models", json=model)["id"]
        api.wait(api.call("POST", f"/api/models/{model_id}/train", json={}))
        for chosen in ({"model_id": model_id}, {"model": "fake:"}):
            new = {"task_id": task, "dataset_id": new_rows, "baselines": False, **chosen}
            api.wait(api.call("POST", "/api/runs", json=new)["job"])


def write_table(folder: Path, name: str = "neue tabelle.csv") -> Path:
    """A table as a file, to upload in a browser."""
    path = folder / name
    path.write_bytes(make_table(40))
    return path
