"""`make serve`: the example is ready, with a trained model and its answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.example_files import EXAMPLES

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from medtask.server.access.roles import Role
from support.server import run_server


@pytest.mark.scale
def test_a_newcomer_finds_rows_a_trained_model_and_its_answers(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "prepare_server.py"), str(tmp_path / "data")]
    for _ in range(2):  # the second time nothing is added
        subprocess.run(command, check=True)

    with run_server(tmp_path / "data") as server:
        client = server.connect(Role.VIEWER)
        rows = {one["name"]: one["rows"] for one in client.get("/api/datasets").json()}
        (model,) = client.get("/api/models").json()
        (run,) = client.get("/api/runs").json()

    assert rows == {"Imaging requests": 300, "Imaging requests of an earlier year": 600}
    assert (model["state"], run["state"]) == ("ready", "succeeded")
    assert model["metrics"]["accuracy"]["value"] > 0.8
    assert sum(run["statuses"].values()) == 300
    assert run["metrics"]["accuracy"]["n"] > 280  # no row of the table trained the model
