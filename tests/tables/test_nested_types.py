from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from medtask.tables.nested_types import cast_to_schema, schema_to_dtype
from medtask.tables.table import Column
from medtask.tables.write import write_answers

SCHEMA = {
    "type": "object",
    "properties": {
        "side": {"enum": ["left", "right", None]},
        "size": {"type": ["number", "null"]},
        "nodes": {"type": "integer"},
        "seen": {"type": "boolean"},
        "notes": {"type": "array", "items": {"type": "string"}},
        "margin": {
            "type": "object",
            "properties": {"value": {"type": "number"}, "unit": {"enum": ["mm", "cm"]}},
        },
        "mixed": {"enum": ["none", 1, True]},
        "free": {"type": "array"},
    },
}
VALUE = {
    "side": None,
    "size": 3,
    "nodes": 12,
    "seen": False,
    "notes": ["a", "b"],
    "margin": {"value": 2, "unit": "mm"},
    "mixed": 1,
    "free": [1, "x"],
}


def test_a_schema_is_a_struct() -> None:
    assert schema_to_dtype(SCHEMA) == pl.Struct(
        {
            "side": pl.String,
            "size": pl.Float64,
            "nodes": pl.Int64,
            "seen": pl.Boolean,
            "notes": pl.List(pl.String),
            "margin": pl.Struct({"value": pl.Float64, "unit": pl.String}),
            "mixed": pl.String,
            "free": pl.String,
        }
    )


def test_lists_and_structs_come_back_from_parquet(tmp_path: Path) -> None:
    columns = [Column("answer", "nested", schema=SCHEMA), Column("labels", "texts")]
    write_answers(
        tmp_path / "answers.parquet",
        columns,
        [(VALUE, ("b", "a")), (None, None), ({"size": 2.5}, ())],
    )
    first, second, third = pl.read_parquet(tmp_path / "answers.parquet").rows()
    assert first == (
        VALUE
        | {"size": 3.0, "margin": {"value": 2.0, "unit": "mm"}, "mixed": "1", "free": '[1, "x"]'},
        ["b", "a"],
    )
    assert second == (None, None)
    assert third[0]["size"] == 2.5
    assert third[0]["side"] is third[0]["margin"] is None
    assert third[1] == []


@pytest.mark.parametrize(("value", "kept"), [(2**70, None), (-3, -3)])
def test_a_number_that_is_too_large_for_a_column_is_missing(value: int, kept: int | None) -> None:
    assert cast_to_schema(value, {"type": "integer"}) == kept
