"""`--track`, as the verbs call it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from medtask.cli.tracking import open_tracking, report_to_tracker
from medtask.errors import UsageError
from medtask.tasks.load import load_task
from support.command_line import RunCommand

DOCUMENT = {"metrics": {"accuracy": {"value": 0.5, "n": 4}}}


def test_without_a_store_nothing_is_reported(
    project_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = load_task(Path("surgery"))
    assert open_tracking(None, task, None) is None
    assert report_to_tracker(None, "run", task, project_folder, DOCUMENT) == DOCUMENT
    assert capsys.readouterr().err == ""


def test_a_server_elsewhere_needs_a_word_before_anything_is_computed(project_folder: Path) -> None:
    with pytest.raises(UsageError, match="another machine"):
        open_tracking("mlflow:https://mlflow.example.org", load_task(Path("surgery")), None)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed")
def test_a_run_and_another_tools_table_are_logged_to_the_store_beside_the_runs(
    medtask: RunCommand,
    project_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert medtask("run", "surgery", "--model", "fake:", "-q").code == 0
    (run,) = (path for path in Path("surgery/runs").iterdir() if path.is_dir())
    task = load_task(Path("surgery"))
    tracker = open_tracking("mlflow", task, None)
    assert (project_folder / "surgery/runs/mlflow.db").is_file()
    document = report_to_tracker(tracker, "run", task, run, DOCUMENT)
    assert document["tracked"]["error"] is None
    assert capsys.readouterr().err.startswith("tracked in MLflow at sqlite:///")
    report_to_tracker(
        tracker, "evaluate", task, project_folder / "procedures.csv", DOCUMENT, {"max_error": 0.05}
    )
    kept = {
        output.info.run_name: output
        for output in tracker.client.search_runs([tracker.experiment_id])
    }  # type: ignore[union-attr]
    assert kept[run.name].data.params["engine"] == "fake"
    assert kept["procedures"].data.params == {"verb": "evaluate", "max_error": "0.05"}
    assert kept["procedures"].data.metrics == {"accuracy": 0.5, "accuracy.n": 4.0}
    # The store's folder is not taken for a run's.
    assert medtask("run", "surgery", "--model", "fake:", "-q").code == 0
    assert json.loads((run / "manifest.json").read_text())["timing"]["sessions"] == 2
