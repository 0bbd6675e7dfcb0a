"""Task files as text, loaded, and their faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medtask.errors import TaskFaults
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

LoadTask = Callable[..., Task]
LoadFaults = Callable[..., list[tuple[int | None, str]]]


@pytest.fixture
def load_text(tmp_path: Path) -> LoadTask:
    def write_and_load_task(text: str, name: str = "task.yaml") -> Task:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return load_task(tmp_path / name)

    return write_and_load_task


@pytest.fixture
def load_faults(load_text: LoadTask) -> LoadFaults:
    def load_and_list_faults(text: str, name: str = "task.yaml") -> list[tuple[int | None, str]]:
        with pytest.raises(TaskFaults) as caught:
            load_text(text, name)
        return [(fault.line, fault.message) for fault in caught.value.faults]

    return load_and_list_faults
