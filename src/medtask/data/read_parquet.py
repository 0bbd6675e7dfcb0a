"""Parquet: the types stay what they are, and only a slice of the file is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medtask.data.source import Row, Source, Tally, key_columns, list_names, table_error
from medtask.data.values import plain

_SLICE_ROWS = 20_000


def read_parquet(path: Path) -> Source:
    """Dates become ISO strings, decimals int or str; whole numbers stay whole at any size."""
    import polars as pl

    with _told(path):
        # A glob or a hive folder is a pattern in the name to polars; here a name is a name.
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        schema = frame.collect_schema()
        height = int(frame.select(pl.len()).collect().item())
    columns = key_columns(path, schema)
    converted = [
        name
        for name, dtype in schema.items()
        if not (dtype.is_integer() or dtype in (pl.String, pl.Boolean))
    ]

    def rows(tally: Tally) -> Iterator[Row]:
        for start in range(0, height, _SLICE_ROWS):
            with _told(path):
                # collect_batches() reads so far ahead that it needs three times the memory.
                part = frame.slice(start, _SLICE_ROWS).collect()
            for row in part.iter_rows(named=True):
                for name in converted:
                    row[name] = _plain_cell(path, name, row[name])
                yield row

    return Source(columns, ("Parquet",), rows)


def _plain_cell(path: Path, column: str, value: object) -> object:
    try:
        return plain(value)
    except TypeError as error:
        raise table_error(
            path,
            f"column {list_names([column])} holds {error}",
            fix="leave that column out, or write it as text",
        ) from None


@contextmanager
def _told(path: Path) -> Iterator[None]:
    from polars.exceptions import PolarsError

    try:
        yield
    except PermissionError as error:
        raise table_error(
            path, "you may not read this file", fix="ask its owner for read access"
        ) from error
    except (PolarsError, OSError) as error:
        raise table_error(
            path, "the file is cut off, damaged, or no Parquet file", fix="copy or export it again"
        ) from error
