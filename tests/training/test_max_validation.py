"""Fewer validation rows: a random sample of those that were set aside."""

from __future__ import annotations

import pytest

from medtask.errors import UsageError
from medtask.tables.read import read_table
from medtask.tasks.load import load_task
from medtask.training.training_data import RowSelection, build_training_data
from support.example_files import EXAMPLES

FOLDER = EXAMPLES / "radiology_protocol"


def build(selection: RowSelection):  # type: ignore[no-untyped-def]
    table = read_table(FOLDER / "notes.csv")
    return build_training_data(load_task(FOLDER), table, selection=selection)


def test_validation_uses_a_sample_and_training_rows_stay_the_same() -> None:
    whole, sample = build(RowSelection()), build(RowSelection(max_validation=20))

    assert len(sample.validation) == 20 < len(whole.validation)
    assert sample.train == whole.train
    numbers = {example.row for example in whole.validation}
    assert {example.row for example in sample.validation} < numbers
    assert sample.notes[-1] == f"validated on 20 of {len(whole.validation)} validation rows"


def test_the_default_is_not_part_of_a_trainings_identity() -> None:
    assert "max_validation" not in RowSelection().to_json()
    assert RowSelection(max_validation=20).to_json()["max_validation"] == 20


def test_at_least_one_row_is_needed() -> None:
    with pytest.raises(UsageError, match="max-validation is 0"):
        build(RowSelection(max_validation=0))
