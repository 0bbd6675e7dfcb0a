"""Runs in a real MLflow store: what is logged, and what is not."""

from __future__ import annotations

import os
import stat
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import MissingExtra, StorageError, UsageError
from medtask.runs.local_run import Run, run
from medtask.runs.manifest import read_manifest
from medtask.runs.tracking.mlflow import ARTEFACT_FOLDER, STORE_FILE
from medtask.runs.tracking.tracked_run import TrackingRecord
from medtask.runs.tracking.tracker import log_run, open_tracker
from medtask.tables.read import read_table
from medtask.tasks.task import Example, Label, Task

CANARY = "Q7 rare canary illness"
LABELS = tuple(Label(name, f"the {name} one", name) for name in ("first", "second"))
DOCUMENT = {
    "rows": 4,
    "metrics": {"accuracy": {"value": 0.5, "low": 0.15, "high": 0.85, "n": 4}},
    "statuses": {"ok": 4},
}

needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed")


@pytest.fixture(autouse=True)
def isolated_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def run_once(folder: Path, phi: bool = False) -> Run:
    rows = [
        {"id": f"{number}", "text": f"{CANARY} {number}", "gold": "first"} for number in range(4)
    ]
    task = Task(
        "canaries",
        "Choose.",
        "{{ text }}",
        labels=LABELS,
        examples=(Example({"text": f"{CANARY} example"}, "second"),),
        id_column="id",
        gold_column="gold",
        phi=phi,
    )
    return run(task, FakeEngine(), read_table(rows), out=folder)


def track_run(result: Run, where: str = "mlflow", **more: Any) -> Any:
    tracker = open_tracker(where, runs_folder=result.folder.parent, task="canaries", **more)
    manifest = read_manifest(result.folder) or {}
    output = log_run(
        tracker,
        TrackingRecord(
            "run",
            task="canaries",
            name=result.folder.name,
            document=DOCUMENT,
            manifest=manifest,
            folder=result.folder,
        ),
    )
    assert output.error is None
    assert output.status_line.startswith("tracked in MLflow at sqlite:///")
    return tracker


@needs_mlflow
@pytest.mark.slow
def test_a_run_is_read_back_as_it_was_logged_and_no_text_of_a_record_is_in_the_store(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run_once(tmp_path / "a home" / "r1")
    track_run(result)
    assert capfd.readouterr().out == ""  # standard output is for results
    tracker = track_run(result)  # once more, as a command that is run again does
    (kept,) = tracker.client.search_runs([tracker.experiment_id])
    assert tracker.client.get_experiment(tracker.experiment_id).name == "canaries"
    assert (kept.info.run_name, kept.info.status) == ("r1", "FINISHED")
    assert kept.data.metrics == {
        "accuracy": 0.5,
        "accuracy.low": 0.15,
        "accuracy.high": 0.85,
        "accuracy.n": 4.0,
        "rows": 4.0,
        "statuses.ok": 4.0,
    }
    manifest = read_manifest(result.folder) or {}
    assert kept.data.params["task.fingerprint"] == manifest["task"]["fingerprint"]
    assert kept.data.params["data.sha256"] == manifest["data"]["sha256"]
    assert kept.data.params["engine"] == "fake"
    assert kept.data.tags["medtask.folder"] == str(result.folder.resolve())
    assert sorted(file.path for file in tracker.client.list_artifacts(kept.info.run_id)) == [
        "manifest.json",
        "run.json",
    ]
    home = tmp_path / "a home"
    files = [
        home / STORE_FILE,
        *(path for path in (home / ARTEFACT_FOLDER).rglob("*") if path.is_file()),
    ]
    assert len(files) == 3
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert CANARY in (result.folder / "answers.csv").read_text()  # it is there to be found
    assert not (tmp_path / "mlruns").exists()


@needs_mlflow
@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs file modes")
def test_the_store_beside_the_runs_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        track_run(run_once(tmp_path / "home" / "r1"))
    finally:
        os.umask(before)
    for index in (STORE_FILE, ARTEFACT_FOLDER):
        assert stat.S_IMODE((tmp_path / "home" / index).stat().st_mode) & 0o077 == 0


@needs_mlflow
@pytest.mark.slow
def test_another_file_is_taken_from_the_command_or_from_mlflows_own_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_once(tmp_path / "r1")
    track_run(result, f"mlflow:sqlite:///{tmp_path / 'named.db'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'variable.db'}")
    track_run(result)
    assert (tmp_path / "named.db").stat().st_size > 0
    assert (tmp_path / "variable.db").stat().st_size > 0
    assert not (tmp_path / STORE_FILE).exists()


@needs_mlflow
@pytest.mark.slow
def test_a_store_that_fails_afterwards_is_reported_and_does_not_raise(tmp_path: Path) -> None:
    result = run_once(tmp_path / "r1")
    tracker = open_tracker("mlflow", runs_folder=tmp_path, task="canaries")
    (tmp_path / STORE_FILE).write_bytes(b"no database at all")
    output = log_run(
        tracker, TrackingRecord("run", task="canaries", name="r1", document=DOCUMENT, manifest={})
    )
    assert output.error
    assert "the run itself is whole" in output.status_line
    assert result.exit_code == 0


@needs_mlflow
@pytest.mark.slow
def test_a_store_that_is_none_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / STORE_FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match="cannot be opened"):
        open_tracker("mlflow", runs_folder=tmp_path, task="t")


@needs_mlflow
@pytest.mark.slow
def test_a_server_that_does_not_answer_is_reported_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9 cannot be opened"):
        open_tracker("mlflow:http://127.0.0.1:9", runs_folder=tmp_path, task="t")


def test_a_missing_package_is_reported_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtra) as caught:
        open_tracker("mlflow", runs_folder=tmp_path, task="t")
    assert caught.value.fix.startswith("pip install")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("mlflow:http://10.0.0.5:5000", "another machine"),
        ("mlflow:https://mlflow.example.org", "another machine"),
        ("mlflow:databricks", "does not track in an MLflow store of the kind"),
        ("mlflow:postgresql://db/mlflow", "of the kind 'postgresql'"),
        ("mlflow:./mlruns", "of the kind 'folder'"),
        ("mlflow:http://me:secret@127.0.0.1:5000", "holds a user name"),
        ("wandb", "nothing is known of tracking in 'wandb'"),
        ("", "nothing is known of tracking"),
    ],
)
def test_other_places_are_refused(where: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_tracker(where, runs_folder=tmp_path, task="t")
    assert "secret" not in f"{caught.value} {caught.value.fix}"


def test_telemetry_is_off_before_mlflow_is_imported() -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
