"""Answers of a finished run, read in parts from its Parquet file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ANSWERS_FILE = "answers.parquet"


def read_answers(folder: Path, offset: int, limit: int, status: str | None) -> dict[str, Any]:
    """Some rows of the answers, and how many there are.

    Args:
        folder: The run folder.
        offset: The first row, from 0, among those with the status.
        limit: The number of rows.
        status: Only rows with this status; None for all.
    """
    import polars as pl

    frame = pl.scan_parquet(folder / ANSWERS_FILE)
    columns = frame.collect_schema().names()
    # A column of the table may have the same name: that of the answer is the last one.
    column = next((name for name in reversed(columns) if name.startswith("status")), None)
    if status is not None and column is not None:
        frame = frame.filter(pl.col(column) == status)
    total = frame.select(pl.len()).collect().item()
    rows = frame.slice(offset, limit).collect().to_dicts()
    return {
        "columns": columns,
        "rows": [{name: _to_json(value) for name, value in row.items()} for row in rows],
        "offset": offset,
        "total": total,
    }


def _to_json(value: object) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _to_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_to_json(one) for one in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)
