"""The functions of jobs, called in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import medtask
from medtask.server.jobs.messages import JobChannel
from medtask.server.jobs.observer import JobObserver
from medtask.server.jobs.work import train_model
from support.example_files import EXAMPLES

RADIOLOGY = EXAMPLES / "radiology_protocol"


@pytest.fixture
def observer() -> Iterator[JobObserver]:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    yield JobObserver(JobChannel(nowhere))
    os.close(nowhere)


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
