"""Every operation of the API answers any request without a server error, on both databases.

2,000 requests of each operation, which takes an hour or more:

    MEDTASK_TEST_REQUESTS=2000 pytest tests/server/test_openapi.py -k scale
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings

from medtask.server.access.roles import Role
from support.example_files import EXAMPLES
from support.postgres import POSTGRES
from support.server import BASE_URL, run_server

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

EXAMPLE = EXAMPLES / "radiology_protocol"
# Requests of each operation in the test for scale, half of them valid.
REQUESTS = int(os.environ.get("MEDTASK_TEST_REQUESTS", "46"))
# Signing out ends the session of the client that asks.
LEFT_OUT = {("POST", "/sign-out")}


@pytest.fixture
def clients(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, TestClient]]:
    """Administrators of a server on SQLite and of one on PostgreSQL, if that is installed.

    Requests take longer to invent than to answer: both servers get the same ones.
    """
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    urls = {"sqlite": ""}
    if POSTGRES:
        urls["postgresql"] = request.getfixturevalue("postgres").create_database()
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(run_server(tmp_path / name, url))
            for name, url in urls.items()
        }
        yield {name: server.connect(Role.ADMIN) for name, server in servers.items()}


def add_objects(client: TestClient) -> dict[str, int]:
    """One object of every resource; the job has ended, because events of a job last as long."""
    content = (EXAMPLE / "notes.csv").read_bytes()
    dataset = client.post("/api/datasets", files={"file": ("notes.csv", content)}).json()
    task = client.post("/api/tasks", json={"text": (EXAMPLE / "task.yaml").read_text()}).json()
    ids = {"dataset_id": dataset["id"], "task_id": task["id"]}
    model = client.post("/api/models", json={"name": "a", "method": "linear", **ids}).json()
    run = client.post("/api/runs", json={"model": "fake:", **ids}).json()
    client.post(f"/api/jobs/{run['job']['id']}/cancel")
    return {**ids, "model_id": model["id"], "run_id": run["run"]["id"], "job_id": run["job"]["id"]}


def list_operations(client: TestClient) -> list[Any]:
    """The operations of the schema; what deletes objects comes last."""
    document = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    operations = [result.ok() for result in schema.get_all_operations()]
    found = [one for one in operations if (one.method.upper(), one.path) not in LEFT_OUT]
    return sorted(found, key=lambda one: (one.method.upper() == "DELETE", one.path))


def send(client: TestClient, case: Any) -> str | None:
    """Send a request; returns what is wrong with its response."""
    arguments = case.as_transport_kwargs(base_url=BASE_URL)
    arguments.pop("cookies", None)
    if isinstance(arguments.get("data"), str | bytes):
        arguments["content"] = arguments.pop("data")  # the name in httpx
    parts = arguments.get("files") or ()
    contents = [part[1] if isinstance(part, tuple) else part for _, part in parts]
    if not all(isinstance(content, str | bytes) for content in contents):
        return None  # the client cannot write such a form
    arguments["headers"] = {
        name: value.encode("utf-8", "replace")
        for name, value in dict(arguments.get("headers") or {}).items()
        if name.lower() not in ("host", "authorization", "cookie")
    }
    response = client.request(**arguments)
    response.request.read()  # the check reads it, and forms with files are sent as streams
    try:
        case.operation.validate_response(response)
    except schemathesis.core.failures.FailureGroup as error:
        return f"another body than the schema states: {error.exceptions}"
    if response.status_code >= 500 and response.status_code not in (503, 507):
        return f"{response.status_code} {arguments}"
    if response.status_code >= 400:
        problem: Mapping[str, Any] = response.json()
        is_problem = response.headers["content-type"] == "application/problem+json"
        if not is_problem or not problem.get("fix"):
            return f"{response.status_code} without a remedy: {response.text[:200]}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize(
    "examples", [1, pytest.param(REQUESTS // 2, marks=pytest.mark.scale, id="scale")]
)
def test_no_request_leads_to_a_server_error(clients: dict[str, TestClient], examples: int) -> None:
    ids: dict[str, int] = {}
    for client in clients.values():
        ids = add_objects(client)  # the same on each
    operations = list_operations(clients["sqlite"])
    assert len(operations) > 40
    faults: list[str] = []
    sent: Counter[str] = Counter()

    for operation in operations:
        names = {parameter.name for parameter in operation.path_parameters}
        known = {name: number for name, number in ids.items() if name in names}
        for mode in schemathesis.GenerationMode:
            is_positive = mode is schemathesis.GenerationMode.POSITIVE
            overrides = {"path_parameters": known} if known and is_positive else {}

            @seed(0)
            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode, **overrides))
            def check(case: Any) -> None:
                sent[f"{case.method} {case.path}"] += 1
                for database, client in clients.items():
                    if fault := send(client, case):
                        faults.append(f"{database}: {case.method} {case.path}: {fault}")

            try:
                check()
            except Exception as error:
                if type(error).__name__ not in ("Unsatisfiable", "SkipTest"):
                    faults.append(f"{operation.label}: {type(error).__name__} {error}"[:500])

    assert not faults, "\n".join(faults[:10])
    assert len(sent) > 60
    # Operations without parameters have one possible request, and some few valid ones.
    assert sum(count >= examples for count in sent.values()) >= 45, sent
