"""The data folder: one private folder for each data set, task, model and run."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import event
from sqlalchemy.orm import Session

from medtask.atomic_files import make_storage_error
from medtask.errors import InputError, UsageError
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

Resource = Literal[
    "datasets", "tasks", "models", "runs", "comparisons", "exports", "tunings", "reviews"
]
TASK_FILE = "task.yaml"
PAGE_FILE = "comparison.html"
_MAX_NAME_LENGTH = 120


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The folder of all files of a server. Its subfolders have mode 0700."""

    root: Path

    def get_folder(self, resource: Resource, number: int) -> Path:
        """The folder of a resource, which may not exist."""
        return self.root / resource / str(number)

    def create_folder(self, resource: Resource, number: int) -> Path:
        """Create the folder of a resource.

        Raises:
            StorageError: The data folder is not writable.
        """
        folder = self.get_folder(resource, number)
        self._make(folder.parent)
        self._make(folder)
        return folder

    def create_upload_folder(self) -> Path:
        """The folder of uploads that are not complete."""
        folder = self.root / "uploads"
        self._make(folder)
        return folder

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise make_storage_error(folder, error) from error

    def delete_folder(self, resource: Resource, number: int) -> None:
        """Delete the folder of a resource with all its files."""
        shutil.rmtree(self.get_folder(resource, number), ignore_errors=True)

    def delete_after_commit(self, session: Session, resource: Resource, number: int) -> None:
        """Delete the folder of a resource once a transaction is committed.

        The files are needed again if the database does not commit.
        """
        event.listen(
            session, "after_commit", lambda _: self.delete_folder(resource, number), once=True
        )

    def get_task_file(self, task_id: int) -> Path:
        """The task file of a stored task."""
        return self.get_folder("tasks", task_id) / TASK_FILE

    def load_task(self, task_id: int) -> Task:
        """Load a stored task; raises InputError if its file is missing."""
        file = self.get_task_file(task_id)
        if not file.exists():
            raise InputError(
                f"the file of task {task_id} is missing", fix="save the task again, or delete it"
            )
        return load_task(file, root=file.parent)


def clean_file_name(name: str) -> str:
    """The name of an uploaded file without folders, hidden prefixes and unusual characters.

    Raises:
        UsageError: Nothing is left of the name.
    """
    last = re.split(r"[\\/]", name)[-1]
    cleaned = re.sub(r"[^\w.\-]+", "_", last).lstrip("._-")
    if len(cleaned) > _MAX_NAME_LENGTH:
        suffix = "".join(Path(cleaned).suffixes[-2:])[-20:]
        cleaned = cleaned[: _MAX_NAME_LENGTH - len(suffix)] + suffix
    if not cleaned:
        raise UsageError("the uploaded file has no name", fix="name it, such as notes.csv")
    return cleaned
