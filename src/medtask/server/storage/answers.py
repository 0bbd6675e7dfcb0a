"""Answers of a finished run, read in parts from its Parquet file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from polars import LazyFrame

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
    if status is not None:
        frame = frame.filter(pl.col(_find_column(frame, "status")) == status)
    total = frame.select(pl.len()).collect().item()
    rows = frame.slice(offset, limit).collect().to_dicts()
    return {
        "columns": columns,
        "rows": [{name: _to_json(value) for name, value in row.items()} for row in rows],
        "offset": offset,
        "total": total,
    }


class OutcomeCounts(NamedTuple):
    """The numbers of rows of a run: of all, by status, and by answer."""

    rows: int
    statuses: dict[str, int]
    answers: dict[str, int]


def count_outcomes(folder: Path, answers: Sequence[str] = ()) -> OutcomeCounts:
    """Count the rows of a run by status, and those that have one of these answers."""
    import polars as pl

    frame = pl.scan_parquet(folder / ANSWERS_FILE)
    status, answer = (_find_column(frame, name) for name in ("status", "answer"))
    by_status = frame.group_by(pl.col(status).alias("name")).len().collect().rows()
    by_answer: list[tuple[str, int]] = []
    if answers:
        given = frame.select(pl.col(answer).alias("name"))
        if isinstance(given.collect_schema()["name"], pl.List):
            given = given.explode("name")
        by_answer = given.group_by("name").len().collect().rows()
    counted = dict(by_answer)
    return OutcomeCounts(
        sum(count for _, count in by_status),
        {str(name): count for name, count in sorted(by_status, key=lambda one: -one[1])},
        {name: counted.get(name, 0) for name in answers},
    )


def _find_column(frame: LazyFrame, name: str) -> str:
    """A column of the answer; one of the table can have the same name, and comes before it."""
    columns = reversed(frame.collect_schema().names())
    return next((column for column in columns if column.startswith(name)), name)


def _to_json(value: object) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _to_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_to_json(one) for one in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)
