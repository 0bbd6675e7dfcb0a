"""Writing of Parquet files in constant memory.

Rows are written to small files first, which are merged when the type of every column is known.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from medtask.os_errors import require_utf8
from medtask.tables.cell_values import format_cell, replace_surrogates
from medtask.tables.nested_types import cast_to_schema, schema_to_dtype
from medtask.tables.table import Column

if TYPE_CHECKING:
    import polars as pl

_PART_ROWS = 20_000
_TYPE_NAMES = {bool: "bool", int: "int", float: "float", str: "text"}


def write_parquet(path: Path, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Write rows to ``path``; columns of type "any" get a primitive type if all values fit one."""
    require_utf8(path)
    import polars as pl

    with _unwrap_os_error(), _scratch_folder(path) as folder:
        parts: list[Path] = []
        part_types: list[list[frozenset[str]]] = []  # type of each column in each part
        for cells in _iter_parts(rows):
            parts.append(folder / f"{len(parts):06}.parquet")
            part_types.append(
                [
                    _find_value_types(column, values)
                    for column, values in zip(columns, cells, strict=True)
                ]
            )
            series = [
                _to_part_series(column, values, seen)
                for column, values, seen in zip(columns, cells, part_types[-1], strict=True)
            ]
            pl.DataFrame(series).write_parquet(parts[-1], compression="lz4")
        if not parts:
            pl.DataFrame(
                schema={column.name: choose_dtype(column, frozenset()) for column in columns}
            ).write_parquet(path)
            return
        final = [
            choose_dtype(column, frozenset().union(*seen))
            for column, seen in zip(columns, zip(*part_types, strict=True), strict=True)
        ]
        for part, seen in zip(parts, part_types, strict=True):
            _rewrite_part(part, columns, seen, final)
        pl.scan_parquet(parts, glob=False).sink_parquet(path, row_group_size=50_000)


@contextmanager
def _unwrap_os_error() -> Iterator[None]:
    """Raise OSError for the computation errors that polars raises when the disk is full."""
    from polars.exceptions import PolarsError

    try:
        yield
    except PolarsError as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
        raise


@contextmanager
def _scratch_folder(path: Path) -> Iterator[Path]:
    folder = path.with_name(f"{path.name}.parts")
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _iter_parts(rows: Iterable[Sequence[object]]) -> Iterator[list[tuple[object, ...]]]:
    """The values of each column, for a limited number of rows at a time."""
    remaining = iter(rows)
    while part := list(islice(remaining, _PART_ROWS)):
        yield list(zip(*part, strict=True))


def _find_value_types(column: Column, values: Sequence[object]) -> frozenset[str]:
    if column.type != "any":
        return frozenset()
    types = {
        _TYPE_NAMES.get(kind, "other") for kind in set(map(type, values)) if kind is not type(None)
    }
    if "int" in types:
        largest = max(abs(value) for value in values if type(value) is int)
        if largest >= 2**53:
            types.add("wide")  # not exact as a float
        if largest >= 2**63:
            types.add("other")
    return frozenset(types)


def choose_dtype(column: Column, types: frozenset[str] = frozenset()) -> pl.DataType:
    """The type of a column; ``types`` are those of the values in a column of type "any"."""
    import polars as pl

    if column.type == "probabilities":
        return pl.Struct(dict.fromkeys(column.labels, pl.Float64))
    if column.type == "texts":
        return pl.List(pl.String)
    if column.type == "nested":
        return schema_to_dtype(column.schema or {})
    if column.type == "float":
        return pl.Float64()
    if column.type == "int" or (types and types <= {"int", "wide"}):
        return pl.Int64()
    if types == {"bool"}:
        return pl.Boolean()
    if types and types <= {"int", "float"}:
        return pl.Float64()
    return pl.String()


def _is_lossless(types: frozenset[str]) -> bool:
    """Whether a part can store values in their type until the type of the column is known."""
    return "other" not in types and len(types - {"wide"}) <= 1


def _to_part_series(column: Column, values: Sequence[object], types: frozenset[str]) -> pl.Series:
    import polars as pl

    if column.type == "any" and not _is_lossless(types):
        return pl.Series(
            column.name,
            [None if value is None else json.dumps(value) for value in values],
            dtype=pl.String(),
        )
    return to_series(column, values, choose_dtype(column, types))


def to_series(column: Column, values: Sequence[object], dtype: pl.DataType) -> pl.Series:
    """The values of a column, converted to its type."""
    import polars as pl

    if column.type == "nested":
        values = [cast_to_schema(value, column.schema or {}) for value in values]
    elif dtype == pl.String:
        values = [
            None if value is None else replace_surrogates(format_cell(value)) for value in values
        ]
    return pl.Series(column.name, values, dtype=dtype)


def _rewrite_part(
    part: Path,
    columns: Sequence[Column],
    part_types: Sequence[frozenset[str]],
    final_dtypes: Sequence[pl.DataType],
) -> None:
    """Rewrite a part with column types that differ from the final ones."""
    import polars as pl

    todo = [
        (column, seen, dtype)
        for column, seen, dtype in zip(columns, part_types, final_dtypes, strict=True)
        if column.type == "any" and not (_is_lossless(seen) and choose_dtype(column, seen) == dtype)
    ]
    if not todo:
        return
    frame = pl.read_parquet(part)
    for column, seen, dtype in todo:
        values = frame[column.name].to_list()
        if not _is_lossless(seen):
            values = [None if value is None else json.loads(value) for value in values]
        frame = frame.with_columns(to_series(column, values, dtype))
    frame.write_parquet(part, compression="lz4")
