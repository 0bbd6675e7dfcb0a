"""Damaged task files: each is read, or refused with a remedy, in a moment."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from pathlib import Path

import pytest

from medtask.errors import MedtaskError, TaskFaults
from medtask.tasks.load import load_task
from support.file_mutants import mutate

EXAMPLES = sorted(Path(__file__, "../../../examples").resolve().glob("*/task.yaml"))


def load_mutants(folder: Path, first: int, count: int) -> Counter[str]:
    """How many mutants of the example tasks were read and refused."""
    path, endings = folder / "task.yaml", Counter[str]()
    for seed in range(first, first + count):
        path.write_bytes(mutate(EXAMPLES[seed % len(EXAMPLES)].read_bytes(), seed, ".yaml"))
        started = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load_task(path)
            endings["read"] += 1
        except MedtaskError as error:
            assert error.fix
            endings["refused"] += 1
        assert time.process_time() - started < 5, seed
    return endings


def test_damaged_task_files_are_read_or_refused(tmp_path: Path) -> None:
    endings = load_mutants(tmp_path, 0, 300)
    assert endings.total() == 300
    assert min(endings.values()) > 0


@pytest.mark.scale
def test_thousands_of_damaged_task_files_are_read_or_refused(tmp_path: Path) -> None:
    assert load_mutants(tmp_path, 1000, 4000).total() == 4000


def test_a_mapping_that_is_cut_off_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("answer:\n  fields: {t")
    with pytest.raises(TaskFaults):
        load_task(path)
