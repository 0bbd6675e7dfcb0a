"""Reading of JSON Lines, line by line, and of JSON, which is loaded as a whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from medtask.tables.encoding import TextEncoding, detect_encoding, open_bytes, read_lines
from medtask.tables.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from medtask.tables.table_part import (
    ReadStats,
    Row,
    TablePart,
    collect_columns,
    make_table_error,
    refuse_header_row,
)

MAX_JSON_BYTES = 200 * 2**20
"""Maximum size of a JSON file, uncompressed."""


class _JsonError(ValueError):
    """A JSON error with a message that does not quote the text."""


def read_jsonl(path: Path, options: ReadOptions = DEFAULT_READ_OPTIONS) -> TablePart:
    """Open a JSON Lines file; the columns are the keys of all lines, read in a first pass."""
    refuse_header_row(path, options)
    encoding = detect_encoding(path, options.encoding)
    return _build_part(path, encoding, lambda stats: _read_json_lines(path, encoding.name, stats))


def _read_json_lines(path: Path, encoding: str, stats: ReadStats) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path, encoding), 1):
        if not line.strip():
            stats.blank_lines += 1
            continue
        try:
            value = _parse_json(line)
        except _JsonError as error:
            raise make_table_error(
                path,
                f"not valid JSON: {error}",
                fix="write one JSON object on each line",
                line=number,
            ) from None
        if not isinstance(value, dict):
            problem = f"a JSON {_find_json_type(value)} instead of an object"
            raise make_table_error(
                path, problem, fix="write one JSON object on each line", line=number
            )
        yield value


def read_json(path: Path, options: ReadOptions = DEFAULT_READ_OPTIONS) -> TablePart:
    """Open a JSON file: a list of objects, or an object with that list or one per column."""
    refuse_header_row(path, options)
    encoding = detect_encoding(path, options.encoding)
    with open_bytes(path) as stream:
        data = stream.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        problem = f"more than {MAX_JSON_BYTES >> 20} MB of JSON, which cannot be read in parts"
        raise make_table_error(
            path, problem, fix="write it as JSON Lines (.jsonl), one object on each line"
        )
    try:
        table = _to_rows(_parse_json(data.decode(encoding.name)))
    except _JsonError as error:
        fix = (
            'write a list of objects (pandas: orient="records"); if each line is a JSON object, '
            "use a file name that ends in .jsonl"
        )
        raise make_table_error(path, f"not a JSON table: {error}", fix=fix) from None
    return _build_part(path, encoding, lambda stats: iter(table))


def _build_part(
    path: Path, encoding: TextEncoding, read_objects: Callable[[ReadStats], Iterator[Row]]
) -> TablePart:
    keys: dict[str, None] = {}
    for row in read_objects(ReadStats()):
        keys.update(dict.fromkeys(row))
    columns = collect_columns(path, keys)

    def rows(stats: ReadStats) -> Iterator[Row]:
        for row in read_objects(stats):
            yield {column: row.get(column) for column in columns}

    return TablePart(
        columns, (encoding.note,), rows, guess_note=encoding.note if encoding.is_guess else ""
    )


def _to_rows(value: object) -> list[Row]:
    if isinstance(value, list):
        for place, row in enumerate(value, 1):
            if not isinstance(row, dict):
                raise _JsonError(
                    f"item {place} of the list is a JSON {_find_json_type(row)}, not an object"
                )
        return value
    cells_by_name: Mapping[str, object] = value if isinstance(value, Mapping) else {}
    lists = [cells for cells in cells_by_name.values() if isinstance(cells, list)]
    if len(lists) == 1 and lists[0] and all(isinstance(row, dict) for row in lists[0]):
        return lists[0]  # {"data": [...]}, perhaps with facts about the data
    if lists and len(lists) == len(cells_by_name):
        lengths = {len(cells) for cells in lists}
        if len(lengths) > 1:
            raise _JsonError(
                f"its columns are of different lengths, {min(lengths):,} to {max(lengths):,}"
            )
        return [dict(zip(cells_by_name, cells, strict=True)) for cells in zip(*lists, strict=True)]
    raise _JsonError(
        f"a JSON {_find_json_type(value)} instead of a list of objects or an object of lists"
    )


def _parse_json(text: str) -> object:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _JsonError(
            f"{error.msg} (line {error.lineno}, column {error.colno})"
            if error.lineno > 1
            else error.msg
        ) from None
    except RecursionError:
        raise _JsonError("nested too deeply") from None
    except _JsonError:
        raise
    except ValueError:
        raise _JsonError("a number with too many digits") from None


def _build_object(pairs: list[tuple[str, object]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise _JsonError("an object has the same key twice")
    return row


_CONSTANTS: dict[str, float | None] = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}
# json.loads() with options builds a decoder for every call.
_DECODER = json.JSONDecoder(parse_constant=_CONSTANTS.get, object_pairs_hook=_build_object)


def _find_json_type(value: object) -> str:
    kinds = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")
