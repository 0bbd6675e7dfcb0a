"""Rows that repeat an id are left out, or get ids that no other row has."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medtask.errors import TableError, UsageError
from medtask.tables.cell_values import read_key
from medtask.tables.read import read_table, validate_table
from medtask.tables.read_options import DuplicateRule
from medtask.tables.repeated_ids import resolve_repeated_ids
from medtask.tables.table import Table

IDS = ["A", "B", "A", " A ", "A-2", "A-2", "", "a", "007", "7"]


def resolve(ids: list[object], rule: DuplicateRule | None) -> Table:
    rows = [{"id": name, "row": row} for row, name in enumerate(ids)]
    return resolve_repeated_ids(read_table(rows, on_duplicate=rule), "id")


def list_ids(table: Table) -> list[tuple[object, object]]:
    return [(row["id"], row["row"]) for row in table]


def test_a_number_that_no_row_has_is_added_to_repeated_ids() -> None:
    table = resolve(IDS, "suffix")
    names = ["A", "B", "A-3", "A-4", "A-2", "A-2-2", "", "a", "007", "7"]
    assert list_ids(table) == [(name, row) for row, name in enumerate(names)]
    assert "3 rows" in table.id_note and '"A-2" for "A"' in table.id_note


def test_the_first_row_with_an_id_is_kept() -> None:
    table = resolve(IDS, "first")
    assert [row["row"] for row in table] == [0, 1, 4, 6, 7, 8, 9]
    assert "3 rows left out" in table.id_note


def test_rows_from_a_place_are_those_of_the_changed_table() -> None:
    for rule in ("suffix", "first"):
        table = resolve(IDS, rule)  # type: ignore[arg-type]
        assert list(table.rows_from(3)) == list(table)[2:]


def test_numbers_beyond_the_precision_of_floats_are_different_ids(tmp_path: Path) -> None:
    rows = "".join(f'{{"id": {2**53 + more}}}\n' for more in (0, 1, 1))
    (tmp_path / "ids.jsonl").write_text(rows)
    table = resolve_repeated_ids(read_table(tmp_path / "ids.jsonl", on_duplicate="suffix"), "id")
    assert [str(row["id"]) for row in table] == [
        "9007199254740992",
        "9007199254740993",
        "9007199254740993-2",
    ]


def test_without_the_option_nothing_is_changed_and_repeated_ids_are_refused() -> None:
    table = resolve(IDS, None)
    assert len(list(table)) == len(IDS)
    with pytest.raises(TableError, match="repeat the id") as caught:
        validate_table(table, "id", can_resolve=True)
    assert "--on-duplicate" in caught.value.fix


def test_a_resolved_table_is_not_changed_again_and_has_its_own_digest(tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("id,text\n1,a\n1,b\n")
    tables = [
        resolve_repeated_ids(read_table(tmp_path / "ids.csv", on_duplicate=rule), "id")
        for rule in (None, "suffix", "first")
    ]
    assert len({table.digest() for table in tables}) == 3
    assert resolve_repeated_ids(tables[1], "id") is tables[1]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="not a rule"):
        resolve(["A"], "last")  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(["A", "A-2", "A-2-2", "A-3", "7", "7-2", 7, 7.0]), min_size=1))
def test_ids_are_unique_and_depend_on_the_rows_alone(ids: list[object]) -> None:
    table = resolve(ids, "suffix")
    keys = [read_key(row["id"]) for row in table]
    present = [key for key in keys if key]
    assert len(set(present)) == len(present)
    assert [row["row"] for row in table] == list(range(len(ids)))
    assert list(table) == list(resolve(ids, "suffix"))
    first = [row["id"] for row in resolve(ids, "first")]
    assert {read_key(one) for one in first} == {read_key(one) for one in ids}
