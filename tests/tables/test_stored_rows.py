"""Stored rows can be iterated repeatedly, and leave no file behind."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from medtask.tables.missing import MissingText
from medtask.tables.stored_rows import store_rows

ROWS = [
    [number, f"text {number}", None, {"a": 0.5}, ("x", "y"), MissingText("NA")]
    for number in range(1000)
]


def test_rows_come_back_in_every_iteration_also_in_nested_ones(tmp_path: Path) -> None:
    with store_rows(tmp_path, iter(ROWS)) as stored:
        assert list(stored) == ROWS
        outer = iter(stored)
        first = list(islice(outer, 600))
        assert list(stored) == ROWS
        assert first + list(outer) == ROWS
        assert all(isinstance(row[5], MissingText) for row in stored)
    assert not list(tmp_path.iterdir())


def test_no_rows_are_no_rows(tmp_path: Path) -> None:
    with store_rows(tmp_path, []) as stored:
        assert list(stored) == []
