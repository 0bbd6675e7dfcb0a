from __future__ import annotations

from pathlib import Path

import pytest

from medtask.errors import InputError, UsageError
from medtask.tables.read import read_table
from medtask.training.search.search_data import build_search_data
from support.prompt_search import make_rows, make_table, write_task


def test_the_three_parts_share_no_row_and_leave_none_out(tmp_path: Path) -> None:
    parts = build_search_data(
        write_task(tmp_path), make_table(120), test_share=0.25, validation_share=0.5
    )
    ids = [
        {example.record.id for example in part}
        for part in (parts.train, parts.validation, parts.test)
    ]
    assert [len(part) for part in ids] == [45, 45, 30]
    assert len(set.union(*ids)) == 120


def test_rows_of_one_patient_and_equal_texts_stay_in_one_part(tmp_path: Path) -> None:
    rows = [{**row, "patient": f"p{number // 4}"} for number, row in enumerate(make_rows(120))]
    rows += [
        {**row, "case_id": f"again {row['case_id']}", "patient": f"q{number}"}
        for number, row in enumerate(rows[:20])
    ]
    parts = build_search_data(write_task(tmp_path, "group: patient\n"), read_table(rows))
    for column in ("patient", "procedure"):
        found = [
            {example.record.fields[column] for example in part}
            for part in (parts.train, parts.validation, parts.test)
        ]
        assert not found[0] & found[1] | found[0] & found[2] | found[1] & found[2]


def test_the_same_seed_divides_alike_and_another_one_otherwise(tmp_path: Path) -> None:
    task, table = write_task(tmp_path), make_table(120)
    tests = [
        [example.record.id for example in build_search_data(task, table, seed=seed).test]
        for seed in (3, 3, 4)
    ]
    assert tests[0] == tests[1]
    assert set(tests[0]) != set(tests[2])


def test_what_may_be_learnt_from_is_a_table_without_the_test(tmp_path: Path) -> None:
    parts = build_search_data(write_task(tmp_path), make_table(120))
    ids = {str(row["case_id"]) for row in parts.to_training_table()}
    assert len(ids) == 90
    assert not ids & {example.record.id for example in parts.test}


def test_parts_have_a_random_order(tmp_path: Path) -> None:
    rows = sorted(make_rows(120), key=lambda row: str(row["purpose"]))
    parts = build_search_data(write_task(tmp_path), read_table(rows))
    assert len({example.record.gold for example in parts.validation[:10]}) == 3


def test_a_handful_of_rows_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few"):
        build_search_data(write_task(tmp_path), make_table(24))


@pytest.mark.parametrize("share", [0.0, 0.6, 1.5])
def test_a_share_is_at_most_a_half(tmp_path: Path, share: float) -> None:
    with pytest.raises(UsageError, match="not a valid share of test rows"):
        build_search_data(write_task(tmp_path), make_table(60), test_share=share)
