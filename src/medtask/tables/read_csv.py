"""Reading of CSV and TSV files: all rows, or an error that names the line."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from medtask.errors import TableError
from medtask.tables.encoding import MAX_CELL_LENGTH, detect_encoding, read_lines
from medtask.tables.header import (
    SAMPLE_ROWS,
    Header,
    find_other_headers,
    format_place,
    make_unnamed_column_error,
    read_header,
)
from medtask.tables.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from medtask.tables.table_part import ReadStats, Row, TablePart, make_table_error

_DELIMITERS = {",": ",", ";": ";", "\t": "tab", "|": "|"}
# Of exports of databases. They must fit all records of the sample: texts contain them too.
_RARE_DELIMITERS = {"^": "^", "~": "~", "¬": "¬", "\x01": "U+0001", "\x1f": "U+001F"}
# A lone surrogate, which decoded text cannot contain.
_NO_DELIMITER = "\ud800"
_SAMPLE_LINES = 100
_MAX_TITLES, _GOOD_SHARE = 10, 0.5
# Excel reads its first line as the name of the delimiter.
_DELIMITER_LINE = re.compile(r"[\ufeff\"]*sep=(.)[\"]?\W*", re.IGNORECASE)
# A text that Excel shall not take for a number: ="001".
_TEXT_FORMULA = re.compile(r'="([^"]*)"')
_END_OF_FILE = "\x1a"  # the last character of files of DOS
# How files of other formats begin: no name of a column does.
_WEB_PAGE = re.compile(r"<(!doctype|html|head|body|table|\?xml)\b", re.IGNORECASE)
_JSON = re.compile(r'(\[\s*)?\{\s*"(?:[^"\\]|\\.)*"\s*:')
_RICH_TEXT = "{\\rtf"
_FORMAT_LINES, _FORMAT_CHARACTERS = 5, 10_000


def read_csv(path: Path, options: ReadOptions = DEFAULT_READ_OPTIONS) -> TablePart:
    """Open a CSV file; cells stay strings, delimiter and encoding are detected."""
    # A setting of the whole process; its default is 131,072 characters.
    csv.field_size_limit(MAX_CELL_LENGTH)
    encoding = detect_encoding(path, options.encoding)
    first_line = next(read_lines(path, encoding.name), "").rstrip("\r\n")
    _refuse_other_format(path, itertools.islice(read_lines(path, encoding.name), _FORMAT_LINES))
    named = _DELIMITER_LINE.fullmatch(first_line)
    start = (options.header_row or (2 if named else 1)) - 1
    sample = list(itertools.islice(read_lines(path, encoding.name), start, start + _SAMPLE_LINES))
    delimiter = named[1] if named else _detect_delimiter(sample)
    if delimiter == _NO_DELIMITER:
        _refuse_quoted_lines(path, sample, start + 1)

    def records() -> Iterator[tuple[int, list[str]]]:
        return _read_records(path, encoding.name, delimiter, start)

    top = _read_top(records()) or [(start + 1, [])]
    row, cells = top[0]
    header = read_header(format_place(path, row), row, cells, find_other_headers(top[1:]))
    header.check_width(top[1:])

    def rows(stats: ReadStats) -> Iterator[Row]:
        body = itertools.dropwhile(lambda record: record[0] <= row, records())
        return _read_rows(path, header, body, stats)

    title = (_DELIMITERS | _RARE_DELIMITERS).get(delimiter, delimiter)
    delimiter_note = (
        "one column, no delimiter" if delimiter == _NO_DELIMITER else f"delimiter {title}"
    )
    return TablePart(
        header.columns,
        (encoding.note, delimiter_note, *header.notes),
        rows,
        guess_note=encoding.note if encoding.is_guess else "",
        header=header,
        from_spreadsheet=delimiter == ";" or encoding.name == "utf-8-sig" or encoding.is_guess,
    )


def _refuse_other_format(path: Path, lines: Iterable[str]) -> None:
    """Raise TableError if these first lines are those of a web page, of JSON or of rich text.

    Systems write such files under the name of a table, for example the page of a failed login.
    """
    head = "".join(line[:_FORMAT_CHARACTERS] for line in lines).lstrip("\ufeff \t\r\n")
    if _WEB_PAGE.match(head):
        kind, fix = (
            "a web page (HTML) or XML",
            "open it in Excel or LibreOffice, and save it as CSV",
        )
    elif found := _JSON.match(head):
        is_lines = not found[1] and head.partition("\n")[0].rstrip().endswith("}")
        suffix = ".jsonl" if is_lines else ".json"
        kind, fix = "JSON", f"rename the file so that its name ends in {suffix}"
    elif head.startswith(_RICH_TEXT):
        kind, fix = "a document (RTF)", "open it in a word processor, and save its table as CSV"
    else:
        return
    raise make_table_error(path, f"the file is {kind}, not CSV", fix=fix)


def _read_top(records: Iterable[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """The first records that are not blank. Faults below the first one are left to the reading."""
    top: list[tuple[int, list[str]]] = []
    filled = (record for record in records if "".join(record[1]).strip())
    try:
        for record in itertools.islice(filled, SAMPLE_ROWS):
            top.append(record)  # noqa: PERF402 - keeps the records before a fault
    except TableError:
        if not top:
            raise
    return top


def _read_rows(
    path: Path, header: Header, records: Iterable[tuple[int, list[str]]], stats: ReadStats
) -> Iterator[Row]:
    """Rows of the records; blank lines are counted, or are empty cells if there is one column.

    Empty cells beyond the named columns are left out, and so are rows of empty cells at the end of
    the file: spreadsheets write them.
    """
    columns, named = header.columns, len(header.columns)
    blank_lines, empty = 0, dict.fromkeys(columns, "")
    empty_rows: list[Row] = []  # since the last row that is not empty
    for line, cells in records:
        starts_blank = not cells or not cells[0].strip()  # saves the look at most rows
        if starts_blank and not "".join(cells).strip() and (header.width > 1 or not cells):
            if header.width > 1 and len(cells) <= 1:
                blank_lines += 1
            else:
                blanks = dict(zip(columns, cells, strict=False))
                empty_rows.append({**empty, **blanks} if any(cells) else empty)
            continue
        if len(cells) < named:
            raise _make_ragged_row_error(path, len(cells), header, line)
        if any(cell.strip() for cell in cells[named:]):
            if len(cells) > header.width:
                raise _make_ragged_row_error(path, len(cells), header, line)
            column = max(place for place, cell in enumerate(cells, 1) if cell.strip())
            raise make_unnamed_column_error(header, format_place(path, line), column)
        yield from empty_rows
        empty_rows.clear()
        yield dict(zip(columns, cells, strict=False))
    stats.blank_lines += blank_lines + len(empty_rows)


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
            if cells != [_END_OF_FILE]:
                has_formula = '="' in "".join(cells)
                yield first, [*map(_unwrap_text, cells)] if has_formula else cells
            # line_num counts lines, not records: it is the last line of the record just read.
            first = start + reader.line_num + 1
    except csv.Error as error:
        if "field limit" in str(error):
            problem = f"a cell of more than {MAX_CELL_LENGTH:,} characters"
            fix = "close the quote that starts here, or split the text"
            raise make_table_error(path, problem, fix=fix, line=first) from None
        record = itertools.islice(read_lines(path, encoding), first - 1, start + reader.line_num)
        opened = _find_open_quote(record, first, delimiter)
        problem = (
            "the quoted cell that starts here is not closed properly (detected in line "
            f"{start + reader.line_num:,})"
        )
        fix = 'close the quote; a quote inside a quoted cell is written twice ("")'
        raise make_table_error(path, problem, fix=fix, line=opened) from None


def _unwrap_text(cell: str) -> str:
    found = _TEXT_FORMULA.fullmatch(cell)
    return found[1] if found else cell


def _refuse_quoted_lines(path: Path, lines: Sequence[str], first: int) -> None:
    """Raise TableError if each line is one cell in quotes that holds all cells of a row."""
    texts = [text for line in lines if (text := line.strip())]
    if len(texts) < 2 or not all(len(text) > 2 and text[0] == text[-1] == '"' for text in texts):
        return
    inner = [text[1:-1].replace('""', '"') for text in texts]
    for delimiter in _DELIMITERS:
        records = _split_records(inner, delimiter)
        share, _ = _score_delimiter(records)
        # In prose a blank follows the comma.
        if share == 1 and not any(cell.startswith(" ") for cell in records[0]):
            raise make_table_error(
                path,
                "each line is one cell in quotes, which holds all cells of a row",
                fix="export it again, or remove the quotes around whole lines",
                line=first,
            )


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


def _detect_delimiter(lines: Sequence[str]) -> str:
    """The delimiter for which most records are as wide as the header; the widest of ties.

    If none fits, there may be lines above the header: the delimiter is that of the records below.
    """
    parsed = {delimiter: _split_records(lines, delimiter) for delimiter in _DELIMITERS}
    scores = {delimiter: _score_delimiter(records) for delimiter, records in parsed.items()}
    best = max(scores, key=lambda delimiter: scores[delimiter])
    if scores[best][0] >= _GOOD_SHARE:
        return best
    if rare := _detect_rare_delimiter(lines):
        return rare
    widths = {
        delimiter: max(_measure_below_title(records[top:]) for top in range(1, _MAX_TITLES + 1))
        for delimiter, records in parsed.items()
    }
    widest = max(widths, key=lambda delimiter: widths[delimiter])
    if widths[widest]:
        return widest
    return best if scores[best][1] else _NO_DELIMITER


def _detect_rare_delimiter(lines: Sequence[str]) -> str | None:
    for delimiter in _RARE_DELIMITERS:
        records = _split_records(lines, delimiter)
        if len(records) > 1 and _score_delimiter(records)[0] == 1:
            return delimiter
    return None


def _split_records(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The records that are not blank."""
    records: list[list[str]] = []
    with suppress(csv.Error):  # faulty cells are reported when the rows are read
        records.extend(filter(None, csv.reader(lines, delimiter=delimiter, strict=True)))
    if len(lines) == _SAMPLE_LINES and len(records) > 1:
        del records[-1]  # it may continue beyond the sample
    return records


def _score_delimiter(records: Sequence[Sequence[str]]) -> tuple[float, int]:
    """The share of records that are as wide as the header, and their width; zeros for width 1."""
    width, body = (len(records[0]) if records else 0), records[1:]
    if width > 1:
        fitting = sum(len(cells) >= width and not any(cells[width:]) for cells in body)
        return (1 + fitting) / (1 + len(body)), width
    if body and len(body[0]) > 1 and len({len(cells) for cells in body}) == 1:
        return 0.0, len(body[0])  # the header is wrong: reading reports the ragged rows
    return 0.0, 0


def _measure_below_title(records: Sequence[Sequence[str]]) -> int:
    """The width of records that all fit the first one, if that one looks like column names.

    0 otherwise, and for prose, where a blank follows the comma.
    """
    if len(records) < 2 or not find_other_headers([(1, records[0])]):
        return 0
    width = len(records[0])
    for cells in records:
        if len(cells) < width or any(cell.strip() for cell in cells[width:]):
            return 0
        if any(cell.startswith(" ") for cell in cells):
            return 0
    return width


def _make_ragged_row_error(path: Path, cells: int, header: Header, line: int) -> TableError:
    width = header.width
    found = f"{cells} cell{'s' if cells != 1 else ''}, but the header has {width}"
    fix = (
        "put quotes around cells that contain the delimiter"
        if cells > width
        else "give the row as many cells as the header, including empty ones"
    )
    elsewhere = f"; if line {header.row} is not that of the column names, add --header-row"
    return make_table_error(path, found, fix=fix + elsewhere, line=line)
