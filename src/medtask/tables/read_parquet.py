"""Reading of Parquet files, one slice at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medtask.display import quote
from medtask.os_errors import require_utf8
from medtask.tables.binary_files import inspect_file, make_damaged_error, was_inspected
from medtask.tables.cell_values import restore_whole_number, to_cell_value
from medtask.tables.encoding import MAX_CELL_LENGTH
from medtask.tables.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from medtask.tables.table_part import (
    Row,
    TablePart,
    collect_columns,
    make_read_error,
    make_table_error,
    refuse_header_row,
)

if TYPE_CHECKING:
    import polars as pl

PARQUET = "a Parquet file"
_SLICE_ROWS = 20_000
_BUFFER_ROWS = 512
_BUFFER_BYTES = 2**26


def read_parquet(path: Path, options: ReadOptions = DEFAULT_READ_OPTIONS) -> TablePart:
    """Open a Parquet file; dates become ISO strings, decimals int or str."""
    require_utf8(path)
    import polars as pl

    refuse_header_row(path, options)
    _inspect(path)
    frame, height = _scan(path)
    schema = frame.collect_schema()
    columns = collect_columns(path, schema)
    short_floats = [name for name, dtype in schema.items() if dtype == pl.Float32]
    converted = _list_converted(schema)

    def rows_after(skipped: int) -> Iterator[Row]:
        _inspect(path)  # again if the file has changed
        for part, buffer_rows in _iter_slices(path, frame, height, skipped):
            exact = part.with_columns(pl.col(short_floats).cast(pl.String))
            for row in exact.iter_rows(named=True, buffer_size=buffer_rows):
                for name in short_floats:  # 0.1, not 0.10000000149011612
                    row[name] = None if row[name] is None else float(row[name])
                for name in converted:
                    row[name] = _convert_cell(path, name, row[name])
                yield row

    return TablePart(
        columns, ("Parquet",), lambda stats: rows_after(0), height=height, rows_after=rows_after
    )


def _list_converted(schema: pl.Schema) -> list[str]:
    """Names of the columns whose values are not those of a cell."""
    import polars as pl

    return [
        name
        for name, dtype in schema.items()
        if not (dtype.is_integer() or dtype in (pl.String, pl.Boolean))
    ]


def inspect_parquet(path: str) -> int:
    """Read all slices of a file, as `read_parquet` does, and return the number of rows."""
    import polars as pl

    frame, height = _scan(Path(path))
    others = _list_converted(frame.collect_schema())
    for part, buffer_rows in _iter_slices(Path(path), frame, height):
        for name in others:
            _convert_column(Path(path), part.select(pl.col(name)), buffer_rows)
    return height


def _convert_column(path: Path, column: pl.DataFrame, buffer_rows: int) -> None:
    """Convert the values of a column to Python's, which can fail, and can need far more memory.

    Raises:
        TableError: A value cannot be converted.
    """
    try:
        for _ in column.iter_rows(buffer_size=buffer_rows):
            pass
    except MemoryError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not _is_panic(error):
            raise
        raise make_table_error(
            path,
            f"column {quote(column.columns[0])} contains a value that cannot be read, such as a "
            "date outside the years 1 to 9999",
            fix="write the column as text",
        ) from error


def _inspect(path: Path) -> None:
    if not was_inspected(path):
        inspect_file(path, PARQUET, f"{__name__}:inspect_parquet")


def _scan(path: Path) -> tuple[pl.LazyFrame, int]:
    """The frame of a file, not yet read, and its number of rows."""
    import polars as pl

    with _translate_errors(path):
        # Without these options polars interprets patterns and hive folders in the path.
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        return frame, int(frame.select(pl.len()).collect().item())


def _iter_slices(
    path: Path, frame: pl.LazyFrame, height: int, skipped: int = 0
) -> Iterator[tuple[pl.DataFrame, int]]:
    """Frames of at most _SLICE_ROWS rows, and how many rows Python may convert at a time."""
    for start in range(skipped, height, _SLICE_ROWS):
        with _translate_errors(path):
            # collect_batches() reads ahead and needs three times the memory.
            part = frame.slice(start, _SLICE_ROWS).collect()
        if part.height != min(_SLICE_ROWS, height - start):
            raise make_damaged_error(path, PARQUET)
        yield part, _choose_buffer_rows(path, part)


def _choose_buffer_rows(path: Path, part: pl.DataFrame) -> int:
    """Fewer rows if texts are long: a file stores equal texts once, Python each of them.

    Raises:
        TableError: A text is too long.
    """
    import polars as pl

    longest = 1
    for name, dtype in part.schema.items():
        if dtype == pl.String or dtype == pl.Binary:
            column = part[name]
            sizes = column.str.len_bytes() if dtype == pl.String else column.bin.size()
            size = int(sizes.cast(pl.Int64).max() or 0)  # type: ignore[arg-type]
            if size > MAX_CELL_LENGTH:
                raise make_table_error(
                    path,
                    f"column {quote(name)} has a cell of more than {MAX_CELL_LENGTH:,} bytes",
                    fix="split the text into several rows",
                )
            longest += size
    return max(1, min(_BUFFER_ROWS, _BUFFER_BYTES // longest))


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
    from polars.exceptions import DuplicateError, PolarsError

    try:
        yield
    except PermissionError as error:
        raise make_read_error(path, error) from error
    except DuplicateError as error:
        raise make_table_error(
            path, "two columns have the same name", fix="give every column its own name"
        ) from error
    except (PolarsError, OSError) as error:
        raise make_damaged_error(path, PARQUET) from error
    except BaseException as error:
        if not _is_panic(error):
            raise
        raise make_damaged_error(path, PARQUET) from error


def _is_panic(error: BaseException) -> bool:
    """Whether polars has panicked: not an Exception, and its class cannot be imported."""
    return type(error).__name__ == "PanicException"
