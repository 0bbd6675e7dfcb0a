"""Task files as text, loaded, and their faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medtask.errors import TaskFaults
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

Load = Callable[..., Task]
Faults = Callable[..., list[tuple[int | None, str]]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(text: str, name: str = "task.yaml") -> Task:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return load_task(tmp_path / name)

    return write_and_load


@pytest.fixture
def faults(load: Load) -> Faults:
    def load_and_fail(text: str, name: str = "task.yaml") -> list[tuple[int | None, str]]:
        with pytest.raises(TaskFaults) as caught:
            load(text, name)
        return [(fault.line, fault.message) for fault in caught.value.faults]

    return load_and_fail
