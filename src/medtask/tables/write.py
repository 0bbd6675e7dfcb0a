"""Writing of answer tables: atomic, row by row, and safe to open in a spreadsheet."""

from __future__ import annotations

import codecs
import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from medtask.atomic_files import replace_file
from medtask.display import format_path
from medtask.errors import UsageError
from medtask.tables.binary_files import accept_inspected, get_file_state
from medtask.tables.cell_values import format_cell, format_json_cell, replace_surrogates
from medtask.tables.formula_escapes import escape_formula, mark_escaped_rows
from medtask.tables.stored_rows import store_rows
from medtask.tables.table import Column
from medtask.tables.write_excel import write_excel
from medtask.tables.write_parquet import write_parquet

__all__ = ["FORMATS", "Column", "write_answers"]

Rows = Iterable[Sequence[object]]
FormatWriter = Callable[[Path, Sequence[Column], Rows], tuple[str, ...] | None]
"""Writes a file, and returns notes about texts that it cannot hold in full."""


def write_answers(
    path: Path, columns: Sequence[Column], rows: Rows, *, byte_order_mark: bool = False
) -> tuple[str, ...]:
    """Write rows to a file (mode 0600) that replaces an existing one only when it is complete.

    In CSV and XLSX, text that a spreadsheet could run as a formula is escaped by an apostrophe.
    Such a file has one more column, by which `read_table` undoes it (see `formula_escapes`).

    Args:
        path: File; its suffix selects the format.
        columns: Columns of the table.
        rows: Rows with one value per column. An iterator is stored in a temporary file in the
            same folder if the format needs the rows twice.
        byte_order_mark: Begin a CSV file that has letters beyond ASCII with a byte order mark:
            without it, Excel reads them in a code page of Windows.

    Returns:
        Notes about texts that the format cannot hold in full.

    Raises:
        StorageError: The file cannot be written.
        UsageError: The format is unknown, or XLSX cannot hold the rows.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(
            f"{format_path(path)}: not a supported format for answers",
            fix=f"choose one of {', '.join(FORMATS)}",
        )
    with replace_file(path) as draft:
        if suffix in _ESCAPED_FORMATS:
            has_mark = byte_order_mark and suffix == ".csv"
            notes = _write_escaped(FORMATS[suffix], draft, columns, rows, has_mark)
        else:
            notes = FORMATS[suffix](draft, columns, rows)
    if suffix == ".parquet":  # reading it back needs no child process
        accept_inspected([get_file_state(path)])
    return tuple(f"{format_path(path.name)}: {note}" for note in notes or ())


def _write_escaped(
    write: FormatWriter, draft: Path, columns: Sequence[Column], rows: Rows, has_mark: bool
) -> tuple[str, ...] | None:
    names = [column.name for column in columns]
    is_consumed = isinstance(rows, Iterator)
    with store_rows(draft.parent, rows) if is_consumed else nullcontext(rows) as repeatable:
        marked_names, marked_rows = mark_escaped_rows(names, repeatable)
        marker = [Column(name, "text") for name in marked_names[len(columns) :]]
        if has_mark and not _is_ascii(names, repeatable):
            draft.write_bytes(codecs.BOM_UTF8)
        return write(draft, [*columns, *marker], marked_rows)


def check_formats(names: Iterable[str]) -> None:
    """Raise UsageError if one of the names, such as "csv", is not a format of `write_answers`."""
    if unknown := [name for name in names if f".{name}" not in FORMATS]:
        known = ", ".join(suffix.removeprefix(".") for suffix in FORMATS)
        raise UsageError(f"{unknown[0]!r} is not a format for answers", fix=f"choose from {known}")


def _is_ascii(names: Sequence[str], rows: Rows) -> bool:
    return all(
        cell.isascii() if isinstance(cell, str) else cell is None or format_cell(cell).isascii()
        for row in itertools.chain([names], rows)
        for cell in row
    )


def _write_csv(path: Path, columns: Sequence[Column], rows: Rows) -> None:
    with path.open("a", encoding="utf-8", newline="") as stream:  # after a byte order mark
        # csv quotes \r and \n in cells only if the line end contains them: \r\n (RFC 4180) does.
        writer = csv.writer(stream, lineterminator="\r\n")
        for row in itertools.chain([[column.name for column in columns]], rows):
            writer.writerow([_format_csv_cell(value) for value in row])


def _format_csv_cell(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value if value == value else None  # NaN counts as missing
    # NUL would make the file unreadable.
    return escape_formula(replace_surrogates(format_cell(value)).replace("\0", "\ufffd"))


def _write_jsonl(path: Path, columns: Sequence[Column], rows: Rows) -> None:
    names = [column.name for column in columns]
    # A lone surrogate cannot be encoded; its backslash escape is valid JSON.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
        for row in rows:
            stream.write(format_json_cell(dict(zip(names, row, strict=True))) + "\n")


_ESCAPED_FORMATS = (".csv", ".xlsx")
FORMATS: dict[str, FormatWriter] = {
    ".csv": _write_csv,
    ".parquet": write_parquet,
    ".xlsx": write_excel,
    ".jsonl": _write_jsonl,
}
