"""Tasks and models of a server, stored without a request."""

from __future__ import annotations

import shutil
from pathlib import Path

from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredModel, StoredTask
from medtask.tasks.load import load_task
from support.server import ServerUnderTest

PURPOSE_TASK = """\
name: purpose
instruction: Decide the purpose of the operation.
input: "{{ text }}"
answer:
  kind: label
  labels: [curative, palliative, diagnostic]
"""
DOMAINS_TASK = """\
name: domains
instruction: Choose the domains of the paper.
input: "{{ title }} {{ abstract }}"
id: paper
answer:
  kind: labels
  labels: [cardiology, neurology, oncology]
"""


def store_task(server: ServerUnderTest, text: str) -> int:
    """Store a task file; returns the id of the task."""
    with server.database.write() as session:
        stored = StoredTask(name="task", kind="", fingerprint="")
        session.add(stored)
        session.flush()
        file = DataFolder(server.settings.data_folder).create_folder("tasks", stored.id)
        (file / "task.yaml").write_text(text, encoding="utf-8")
        task = load_task(file)
        stored.name, stored.kind, stored.fingerprint = task.name, task.kind, task.fingerprint
        return stored.id


def store_model(
    server: ServerUnderTest, task_id: int, base: str = "fake:", trained: Path | None = None
) -> int:
    """Store a model: a base as it is, or a copy of a trained folder; returns its id."""
    with server.database.write() as session:
        stored = StoredModel(name="model", task_id=task_id, base=base, settings={})
        session.add(stored)
        session.flush()
        if trained is not None:
            folder = DataFolder(server.settings.data_folder).get_folder("models", stored.id)
            folder.parent.mkdir(exist_ok=True)
            shutil.copytree(trained, folder)
            stored.is_trained = True
        return stored.id
