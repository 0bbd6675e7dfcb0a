"""JSON Lines, read line by line, and JSON, which has to be loaded whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from medtask.data.decode import detect_encoding, open_bytes, read_lines
from medtask.data.source import Row, Source, Tally, key_columns, table_error

LARGEST_LOADED = 200 * 2**20
"""Bytes, unpacked, of a file that has to be loaded whole."""


class _JsonError(ValueError):
    """Says what is wrong without quoting the text."""


def read_jsonl(path: Path) -> Source:
    """One object a line; the columns are all keys of all lines, which takes one pass when the file
    is opened.
    """
    encoding, note = detect_encoding(path)
    keys: dict[str, None] = {}
    for row in _read_objects(path, encoding, Tally()):
        keys.update(dict.fromkeys(row))
    columns = key_columns(path, keys)

    def rows(tally: Tally) -> Iterator[Row]:
        for row in _read_objects(path, encoding, tally):
            yield {column: row.get(column) for column in columns}

    return Source(columns, (note,), rows)


def _read_objects(path: Path, encoding: str, tally: Tally) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path, encoding), 1):
        if not line.strip():
            tally.blank_lines += 1
            continue
        try:
            value = _parse(line)
        except _JsonError as error:
            raise table_error(
                path,
                f"not valid JSON: {error}",
                fix="write one JSON object on each line",
                line=number,
            ) from None
        if not isinstance(value, dict):
            problem = f"a JSON {_kind_of(value)} where an object belongs"
            raise table_error(path, problem, fix="write one JSON object on each line", line=number)
        yield value


def read_json(path: Path) -> Source:
    """A list of objects, or one object that holds a list for each column."""
    encoding, note = detect_encoding(path)
    with open_bytes(path) as stream:
        data = stream.read(LARGEST_LOADED + 1)
    if len(data) > LARGEST_LOADED:
        problem = (
            f"more than {LARGEST_LOADED >> 20} MB of JSON, which would have to be loaded whole"
        )
        raise table_error(
            path, problem, fix="write it as JSON Lines (.jsonl), one object on each line"
        )
    try:
        table = _rows_of(_parse(data.decode(encoding)))
    except _JsonError as error:
        fix = "correct it; if each line is an object of its own, let the file's name end in .jsonl"
        raise table_error(path, f"not a JSON table: {error}", fix=fix) from None
    columns = key_columns(path, (key for row in table for key in row))

    def rows(tally: Tally) -> Iterator[Row]:
        for row in table:
            yield {column: row.get(column) for column in columns}

    return Source(columns, (note,), rows)


def _rows_of(value: object) -> list[Row]:
    if isinstance(value, list):
        for place, row in enumerate(value, 1):
            if not isinstance(row, dict):
                raise _JsonError(
                    f"item {place} of the list is a JSON {_kind_of(row)}, not an object"
                )
        return value
    if (
        isinstance(value, Mapping)
        and value
        and all(isinstance(cells, list) for cells in value.values())
    ):
        lengths = {len(cells) for cells in value.values()}
        if len(lengths) > 1:
            raise _JsonError(
                f"its columns are of different lengths, {min(lengths):,} to {max(lengths):,}"
            )
        return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    raise _JsonError(
        f"a JSON {_kind_of(value)} where a list of objects, or an object of lists, belongs"
    )


def _parse(text: str) -> object:
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
        raise _JsonError("a number of too many digits") from None


def _object(pairs: list[tuple[str, object]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise _JsonError("an object has the same key twice")
    return row


_CONSTANTS: dict[str, float | None] = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}
# json.loads() with options builds a decoder for every call.
_DECODER = json.JSONDecoder(parse_constant=_CONSTANTS.get, object_pairs_hook=_object)


def _kind_of(value: object) -> str:
    kinds = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")
