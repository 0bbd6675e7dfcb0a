"""Reading of tables in memory, recognised by their methods without importing libraries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from medtask.display import quote, quote_names
from medtask.errors import TableError
from medtask.tables.cell_values import is_blank, restore_whole_number, to_cell_value
from medtask.tables.table_part import ReadStats, Row, TablePart
from medtask.unicode_text import remove_noise

_BATCH_ROWS = 10_000

_RowIterable = Callable[[], Iterable[Mapping[Any, object]]]


def read_objects(table: Any) -> tuple[str, TablePart]:
    """A title for the object, and its rows with values converted by `to_cell_value`."""
    title = f"a {type(table).__module__.partition('.')[0]} {type(table).__name__}".replace(
        "builtins ", ""
    )
    if hasattr(table, "lazy") and hasattr(table, "collect"):  # a polars LazyFrame
        table = table.collect()
    if isinstance(table, Iterator):
        table = list(table)
    if hasattr(table, "reset_index"):
        table = _add_index(table)
    iter_rows = _find_row_iterator(table, title)
    # In rows that are mappings, a float is one that the user has written.
    is_typed = any(hasattr(table, name) for name in ("iter_rows", "iloc", "column_names"))
    keys = _find_keys(table, iter_rows)
    columns = tuple(map(str, keys))
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise TableError(
            f"{title} has more than one column {quote_names(twice)}",
            fix="give every column its own name",
        )
    if not columns:
        raise TableError(
            f"{title} has no columns", fix="pass rows that map each column to its value"
        )
    if any(is_blank(key) or not remove_noise(str(key)).strip() for key in keys):
        raise TableError(f"{title} has a column without a name", fix="give every column a name")

    def rows(stats: ReadStats) -> Iterator[Row]:
        for row in iter_rows():
            yield {
                column: _convert_cell(row.get(key), title, column, is_typed)
                for key, column in zip(keys, columns, strict=True)
            }

    return title, TablePart(columns, (), rows)


def _add_index(frame: Any) -> Any:
    """The data frame of pandas with its index as columns, if that has names, such as "id"."""
    names = set(frame.index.names)
    is_named = None not in names and names.isdisjoint(getattr(frame, "columns", names))
    return frame.reset_index() if is_named else frame


def _find_row_iterator(table: Any, title: str) -> _RowIterable:
    """A function that iterates over the object's rows, each a mapping."""
    if hasattr(table, "iter_rows"):  # polars
        return lambda: table.iter_rows(named=True)
    if hasattr(table, "iloc") and hasattr(table, "columns"):  # pandas
        return lambda: (
            row
            for part in _iter_slices(table, table.iloc.__getitem__)
            for row in part.to_dict(orient="records")
        )
    if hasattr(table, "to_pylist"):  # pyarrow
        return lambda: (
            row
            for part in _iter_slices(table, lambda rows: table.slice(rows.start, _BATCH_ROWS))
            for row in part.to_pylist()
        )
    if isinstance(table, Iterable) and not isinstance(table, Mapping | str | bytes):
        return lambda: _check_mappings(table, title)
    fix = (
        "pass a path, a data frame, one split of a dataset, or a list of mappings from column "
        "to value"
    )
    raise TableError(f"{title} is not a table", fix=fix)


def _iter_slices(table: Any, take_slice: Callable[[slice], Any]) -> Iterator[Any]:
    return (
        take_slice(slice(start, start + _BATCH_ROWS)) for start in range(0, len(table), _BATCH_ROWS)
    )


def _find_keys(table: Any, iter_rows: _RowIterable) -> list[object]:
    named = getattr(table, "column_names", None)
    if named is None:
        named = getattr(table, "columns", None)
    return list(
        dict.fromkeys(key for row in iter_rows() for key in row) if named is None else named
    )


def _check_mappings(rows: Iterable[object], title: str) -> Iterator[Mapping[Any, object]]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise TableError(
                f"{title}: row {number} is a {type(row).__name__}",
                fix="pass rows that map each column to its value",
            )
        yield row


def _convert_cell(value: object, title: str, column: str, is_typed: bool) -> object:
    try:
        cell = to_cell_value(value)
        return restore_whole_number(cell) if is_typed else cell
    except TypeError as error:
        raise TableError(
            f"{title}: column {quote(column)} contains {error}",
            fix="remove that column, or convert it to text",
        ) from None
