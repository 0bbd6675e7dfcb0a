"""Reading of tables from files, folders and objects in memory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from medtask.display import format_list, format_name, format_path, quote, quote_names, suggest
from medtask.errors import TableError
from medtask.os_errors import convert_os_error
from medtask.tables.formula_escapes import undo_escapes
from medtask.tables.read_csv import read_csv
from medtask.tables.read_json import read_json, read_jsonl
from medtask.tables.read_objects import read_objects
from medtask.tables.read_options import DEFAULT_READ_OPTIONS, ReadOptions, ReadOptionValues
from medtask.tables.read_parquet import read_parquet
from medtask.tables.read_workbook import read_workbook
from medtask.tables.stdin import spool_stdin
from medtask.tables.table import WORKBOOK_SUFFIXES, Table
from medtask.tables.table_part import TablePart, convert_rows, make_table_error
from medtask.tables.validation import TableCounts, validate_table
from medtask.unicode_text import remove_noise

__all__ = ["Table", "TableCounts", "read_table", "spool_stdin", "validate_table"]

_TEXT_READERS: dict[str, Callable[[Path, ReadOptions], TablePart]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
}
_READERS = {
    **_TEXT_READERS,
    **{f"{suffix}.gz": reader for suffix, reader in _TEXT_READERS.items()},
    ".parquet": read_parquet,
}
FILE_SUFFIXES = (*_TEXT_READERS, ".gz", ".parquet", *WORKBOOK_SUFFIXES)
"""The last suffixes of files that can be read."""

_MAX_LISTED = 5
_READABLE_FORMATS = "CSV, TSV, JSONL, JSON (these also as .gz), Parquet, XLSX, ODS or XLS"


def read_table(
    source: object, options: ReadOptions = DEFAULT_READ_OPTIONS, **changes: Unpack[ReadOptionValues]
) -> Table:
    """Open a table from a file, a folder, a list of files, or an object in memory.

    Args:
        source: A path or a list of paths (CSV, TSV, JSONL, JSON, each also as .gz, Parquet, XLSX,
            ODS, XLS), a folder whose tables are read in the order of their names, a pandas frame
            (a named index becomes columns), a polars frame, a pyarrow table, a Hugging Face
            dataset, or mappings from column to value. Several files need the same columns.
        options: How files are read: their encoding, sheet and header row. For objects in memory
            only ``on_duplicate`` is used.
        changes: Fields of `ReadOptions` by name, which replace those of ``options``.

    Returns:
        The table; its rows are read when they are iterated.

    Raises:
        UsageError: An option is not valid.
        TableError: The table cannot be read. Iteration over the rows can raise it too.
    """
    if isinstance(source, Table):
        return source
    options = replace(options, **changes)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not stat.S_ISDIR(_get_file_mode(path)):
            return _read_files(format_path(path), [path], options)
        tables, others = _list_folder(path)
        table = _read_files(format_path(path), tables, options)
        notes = [f"not read: {format_list(others, _MAX_LISTED)}"] if others else []
        return replace(table, notes=(*table.notes, *notes))
    if (
        isinstance(source, Sequence)
        and source
        and all(isinstance(item, str | os.PathLike) for item in source)
    ):
        return _read_files(f"{len(source)} files", [Path(item) for item in source], options)
    title, part = read_objects(source)
    part = _clean_columns(title, part)
    kept = ReadOptions(on_duplicate=options.on_duplicate)
    return Table(title, (), part.columns, part.notes, (part,), kept)


def _read_files(title: str, paths: Sequence[Path], options: ReadOptions) -> Table:
    parts = [_read_file(path, options) for path in paths]
    columns = parts[0].columns
    for path, part in zip(paths[1:], parts[1:], strict=True):
        if different := set(columns) ^ set(part.columns):
            problem = (
                f"its columns differ from those of {format_path(paths[0])}: "
                f"{quote_names(sorted(different))} in one of the files only"
            )
            raise make_table_error(
                path, problem, fix="give all files the same columns, or read them separately"
            )
    notes = parts[0].notes
    if any(part.notes != notes for part in parts):
        notes = tuple(
            f"{format_path(path)}: {', '.join(part.notes)}"
            for path, part in zip(paths, parts, strict=True)
        )
    return Table(title, tuple(paths), columns, notes, tuple(parts), options)


def _read_file(path: Path, options: ReadOptions) -> TablePart:
    mode = _get_file_mode(path)
    if not mode:
        raise _make_not_found_error(path)
    if not stat.S_ISREG(mode):
        raise make_table_error(
            path, "not a regular file", fix="name a file; use - for standard input"
        )
    kind = _read_suffix(path)
    if kind in WORKBOOK_SUFFIXES:
        return _clean_columns(path, undo_escapes(read_workbook(path, options)))
    if options.sheet is not None:
        raise make_table_error(
            path,
            f"only workbooks have sheets, such as {quote(options.sheet)}",
            fix="remove the sheet option",
        )
    if kind in _READERS:
        return _clean_columns(path, undo_escapes(_READERS[kind](path, options)))
    raise make_table_error(
        path,
        f"not a known table format ({kind or 'the name has no suffix'})",
        fix=f"save it as {_READABLE_FORMATS}, or rename a text file with delimiters to .csv",
    )


def _get_file_mode(path: Path) -> int:
    """The type and the permissions of a file; 0 if there is none.

    Raises:
        MedtaskError: The name is too long, or a folder above the file may not be searched.
    """
    try:
        return path.stat().st_mode
    except ValueError:  # a null character
        return 0
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return 0
        raise convert_os_error(error) or error from None


def _clean_columns(source: str | Path, part: TablePart) -> TablePart:
    """The file with column names without invisible characters, such as a byte order mark."""
    names = [remove_noise(column) for column in part.columns]
    if tuple(names) == part.columns:
        return part
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TableError(
            f"{format_path(source)}: columns {quote_names(twice)} differ in invisible characters "
            "only",
            fix="rename one of them",
        )

    return convert_rows(part, names, lambda row: dict(zip(names, row.values(), strict=True)))


def _read_suffix(path: Path) -> str:
    """The suffix of the format: ".csv", ".csv.gz"; "" if there is none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def _list_folder(folder: Path) -> tuple[list[Path], list[str]]:
    """The tables of a folder, and the names of what else is in it."""
    # "~$name.xlsx" is Excel's lock file of an open name.xlsx.
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "~$")))
    except PermissionError as error:
        raise make_table_error(
            folder, "no permission to list this folder", fix="ask its owner for read access"
        ) from error
    if tables := [path for path in entries if _is_table(path)]:
        return tables, [format_name(path.name) for path in sorted({*entries} - {*tables})]
    raise make_table_error(
        folder, "no tables in this folder", fix=f"add tables as {_READABLE_FORMATS}"
    )


def _is_table(path: Path) -> bool:
    suffix = _read_suffix(path)
    return (suffix in _READERS or suffix in WORKBOOK_SUFFIXES) and path.is_file()


def _make_not_found_error(path: Path) -> TableError:
    folder = path.parent
    if not folder.is_dir():
        return make_table_error(
            path, f"folder {format_path(folder)} not found", fix="check the path"
        )
    if path.is_symlink():
        return make_table_error(
            path, "the link leads to no file", fix="make the link again, or name the file itself"
        )
    try:
        names = [entry.name for entry in folder.iterdir()]
    except PermissionError:
        names = []
    return make_table_error(
        path, "file not found", fix=suggest(path.name, names) or "check the path"
    )
