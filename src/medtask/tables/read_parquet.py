"""Reading of Parquet files, one slice at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medtask.display import quote
from medtask.tables.cell_values import restore_whole_number, to_cell_value
from medtask.tables.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from medtask.tables.table_part import (
    ReadStats,
    Row,
    TablePart,
    collect_columns,
    make_table_error,
    refuse_header_row,
)

_SLICE_ROWS = 20_000


def read_parquet(path: Path, options: ReadOptions = DEFAULT_READ_OPTIONS) -> TablePart:
    """Open a Parquet file; dates become ISO strings, decimals int or str."""
    import polars as pl

    refuse_header_row(path, options)
    with _translate_errors(path):
        # Without these options polars interprets patterns and hive folders in the path.
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        schema = frame.collect_schema()
        height = int(frame.select(pl.len()).collect().item())
    columns = collect_columns(path, schema)
    short_floats = [name for name, dtype in schema.items() if dtype == pl.Float32]
    converted = [
        name
        for name, dtype in schema.items()
        if not (dtype.is_integer() or dtype in (pl.String, pl.Boolean))
    ]

    def rows(stats: ReadStats) -> Iterator[Row]:
        for start in range(0, height, _SLICE_ROWS):
            with _translate_errors(path):
                # collect_batches() reads ahead and needs three times the memory.
                part = frame.slice(start, _SLICE_ROWS).collect()
            for row in part.with_columns(pl.col(short_floats).cast(pl.String)).iter_rows(
                named=True
            ):
                for name in short_floats:  # 0.1, not 0.10000000149011612
                    row[name] = None if row[name] is None else float(row[name])
                for name in converted:
                    row[name] = _convert_cell(path, name, row[name])
                yield row

    return TablePart(columns, ("Parquet",), rows)


def _convert_cell(path: Path, column: str, value: object) -> object:
    try:
        return restore_whole_number(to_cell_value(value))
    except TypeError as error:
        raise make_table_error(
            path,
            f"column {quote(column)} contains {error}",
            fix="remove that column, or write it as text",
        ) from None


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    from polars.exceptions import PolarsError

    try:
        yield
    except PermissionError as error:
        raise make_table_error(
            path, "no permission to read this file", fix="ask its owner for read access"
        ) from error
    except (PolarsError, OSError) as error:
        raise make_table_error(
            path,
            "the file is truncated, damaged, or not a Parquet file",
            fix="copy or export it again",
        ) from error
