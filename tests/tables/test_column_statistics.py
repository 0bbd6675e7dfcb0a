"""Statistics of columns: missing cells, different values, lengths, frequent values."""

from __future__ import annotations

from medtask.tables.column_statistics import collect_column_statistics
from medtask.tables.read import read_table


def test_cells_are_counted_by_column() -> None:
    rows = [{"id": number, "sex": "f" if number % 3 else "NA"} for number in range(9)]
    table = read_table(rows)

    ids, sex = collect_column_statistics(table.columns, table)

    assert (ids.rows, ids.missing, ids.distinct, ids.frequent_values) == (9, 0, 9, [])
    assert (sex.missing, sex.distinct, sex.frequent_values) == (3, 1, [("f", 6)])
    assert sex.to_json()["mean_length"] == 1.0


def test_texts_have_lengths_and_no_frequent_values() -> None:
    rows = [{"text": "x" * length} for length in range(1, 101)]

    (text,) = collect_column_statistics(["text"], rows)

    assert (text.max_length, text.mean_length, text.distinct) == (100, 50.5, 100)
    assert text.frequent_values == []
