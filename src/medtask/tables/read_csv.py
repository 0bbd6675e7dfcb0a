"""Reading of CSV and TSV files: all rows, or an error that names the line."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from medtask.errors import TableError
from medtask.tables.encoding import MAX_CELL_LENGTH, detect_encoding, read_lines
from medtask.tables.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from medtask.tables.table_part import (
    ReadStats,
    Row,
    TablePart,
    describe_unnamed_columns,
    make_table_error,
    make_unnamed_column_error,
    read_column_names,
)

_DELIMITERS = {",": ",", ";": ";", "\t": "tab", "|": "|"}
# A lone surrogate, which decoded text cannot contain.
_NO_DELIMITER = "\ud800"
_SAMPLE_LINES = 100


def read_csv(path: Path, options: ReadOptions = DEFAULT_READ_OPTIONS) -> TablePart:
    """Open a CSV file; cells stay strings, delimiter and encoding are detected."""
    # A setting of the whole process; its default is 131,072 characters.
    csv.field_size_limit(MAX_CELL_LENGTH)
    encoding = detect_encoding(path, options.encoding)
    start = (options.header_row or 1) - 1
    delimiter = _detect_delimiter(
        itertools.islice(read_lines(path, encoding.name), start, start + _SAMPLE_LINES)
    )

    def records() -> Iterator[tuple[int, list[str]]]:
        return _read_records(path, encoding.name, delimiter, start)

    header_line, header = next(
        ((line, cells) for line, cells in records() if "".join(cells).strip()), (start + 1, [])
    )
    columns = read_column_names(path, header, header_line)

    def rows(stats: ReadStats) -> Iterator[Row]:
        body = itertools.dropwhile(lambda record: record[0] <= header_line, records())
        return _read_rows(path, columns, len(header), body, stats)

    title = _DELIMITERS.get(delimiter)
    delimiter_note = f"delimiter {title}" if title else "one column, no delimiter"
    return TablePart(
        columns,
        (encoding.note, delimiter_note, *describe_unnamed_columns(columns, header)),
        rows,
        guess_note=encoding.note if encoding.is_guess else "",
    )


def _read_rows(
    path: Path,
    columns: tuple[str, ...],
    width: int,
    records: Iterable[tuple[int, list[str]]],
    stats: ReadStats,
) -> Iterator[Row]:
    """Rows of the records; blank lines are counted, or are empty cells if there is one column."""
    nameless = width - len(columns)
    blank_lines = 0
    for line, cells in records:
        if len(cells) == width:
            if width == 1:
                # A blank line between rows is an empty cell; at the end of the file it is not.
                for _ in range(blank_lines):
                    yield {columns[0]: ""}
                blank_lines = 0
            if nameless and any(cells[-nameless:]):
                column = next(
                    number for number, cell in enumerate(cells, 1) if cell and number > len(columns)
                )
                raise make_unnamed_column_error(path, column, line)
            yield dict(zip(columns, cells, strict=False))
        elif not "".join(cells).strip() and len(cells) <= 1:
            blank_lines += 1
        else:
            raise _make_ragged_row_error(path, len(cells), width, line)
    stats.blank_lines += blank_lines


def _read_records(
    path: Path, encoding: str, delimiter: str, start: int
) -> Iterator[tuple[int, list[str]]]:
    """The cells of each record with the line in which it begins; no cells for a blank line.

    The first ``start`` lines are not read.
    """
    lines = itertools.islice(read_lines(path, encoding), start, None)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    first = start + 1
    try:
        for cells in reader:
            yield first, cells
            # line_num counts lines, not records: it is the last line of the record just read.
            first = start + reader.line_num + 1
    except csv.Error as error:
        if "field limit" in str(error):
            problem, fix = (
                f"a cell of more than {MAX_CELL_LENGTH:,} characters",
                "close the quote that starts here, or split the text",
            )
            raise make_table_error(path, problem, fix=fix, line=first) from None
        record = itertools.islice(read_lines(path, encoding), first - 1, start + reader.line_num)
        opened = _find_open_quote(record, first, delimiter)
        problem = (
            "the quoted cell that starts here is not closed properly (detected in line "
            f"{start + reader.line_num:,})"
        )
        fix = 'close the quote; a quote inside a quoted cell is written twice ("")'
        raise make_table_error(path, problem, fix=fix, line=opened) from None


def _find_open_quote(record: Iterable[str], first: int, delimiter: str) -> int:
    """The line in which the last quoted cell of an unfinished record begins."""
    opened, inside = first, False
    for number, line in enumerate(record, first):
        for quotes in re.finditer('"+', line):
            odd = len(quotes[0]) % 2 == 1
            if inside:
                inside = not odd
            elif quotes.start() == 0 or line[quotes.start() - 1] == delimiter:
                opened, inside = number, odd
    return opened


def _detect_delimiter(sample: Iterable[str]) -> str:
    """The delimiter for which most records are as wide as the header; the widest of ties."""
    lines = list(sample)
    best, best_score = _NO_DELIMITER, (0.0, 0)
    for delimiter in _DELIMITERS:
        widths = []
        with suppress(csv.Error):  # faulty cells are reported when the rows are read
            for cells in csv.reader(lines, delimiter=delimiter, strict=True):
                widths += [len(cells)] if cells else []
        width, body = (widths[0], widths[1:]) if widths else (0, [])
        if len(lines) == _SAMPLE_LINES:
            del body[-1:]  # it may continue beyond the sample
        if width > 1:
            score = (1 + body.count(width)) / (1 + len(body)), width
        elif body and body[0] > 1 and len(set(body)) == 1:
            score = 0.0, body[0]  # the header is wrong: reading reports the ragged rows
        else:
            continue
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _make_ragged_row_error(path: Path, cells: int, width: int, line: int) -> TableError:
    found = f"{cells} cell{'s' if cells != 1 else ''}, but the header has {width}"
    if cells > width:
        return make_table_error(
            path, found, fix="put quotes around cells that contain the delimiter", line=line
        )
    return make_table_error(
        path, found, fix="give the row as many cells as the header, including empty ones", line=line
    )
