"""The functions of jobs, called in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import medtask
from medtask.server.access.roles import Role, User
from medtask.server.jobs.messages import JobChannel, MessageReader
from medtask.server.jobs.observer import JobObserver
from medtask.server.jobs.tables import Job
from medtask.server.jobs.work import train_model
from medtask.server.pages.job_views import describe_job
from support.example_files import EXAMPLES

RADIOLOGY = EXAMPLES / "radiology_protocol"


@pytest.fixture
def observer() -> Iterator[JobObserver]:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    yield JobObserver(JobChannel(nowhere))
    os.close(nowhere)


@pytest.mark.slow
def test_a_training_whose_task_was_changed_starts_anew(
    tmp_path: Path, observer: JobObserver
) -> None:
    folder, file = tmp_path / "model", tmp_path / "task.yaml"
    folder.mkdir()
    text = (RADIOLOGY / "task.yaml").read_text("utf-8")
    arguments = {
        "task_file": str(file),
        "table": str(RADIOLOGY / "notes.csv"),
        "read_options": {},
        "folder": str(folder),
        "base": None,
        "method": "linear",
        "load_options": {"memory": None, "allow_remote": False},
        "settings": {},
        "starts_anew": False,
        "is_retry": False,
    }
    for version in (text, text.replace("Choose the", "Please choose the", 1)):
        file.write_text(version)

        outcome = train_model(arguments, observer)

        assert outcome.state == "succeeded"
        fingerprint = medtask.load_task(file).fingerprint
        manifest = (folder / "medtask.json").read_text("utf-8")
        assert fingerprint in manifest


def test_the_time_left_is_not_that_of_an_earlier_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    receiving, sending = os.pipe()
    observer, reader = JobObserver(JobChannel(sending)), MessageReader()
    monkeypatch.setattr("medtask.server.jobs.messages._PROGRESS_INTERVAL_S", 0)
    now = datetime.now(UTC)
    job = Job(id=1, kind="run", state="running", parameters={}, started_at=now, created_at=now)
    shown = []
    for report in (
        lambda: (observer.on_start(100, 0), observer.on_batch(50, 1, 0)),
        lambda: observer.on_baseline("TF-IDF", 10, 100),
        observer.on_finish,
    ):
        report()
        reader.add(os.read(receiving, 65536))
        job.progress, _ = reader.take()
        shown.append(describe_job(job, User("1", "reader", Role.VIEWER)))
    os.close(receiving)
    os.close(sending)

    assert [bool(one.rows_per_s) for one in shown] == [True, False, False]
    assert [bool(one.remaining) for one in shown] == [True, False, False]
