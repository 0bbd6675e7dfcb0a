"""Standard input stored as a file, because a table is read more than once."""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from pathlib import Path

from medtask.atomic_files import replace_file
from medtask.errors import TableError
from medtask.tables.encoding import decode_head, sniff_binary_suffix

_HEAD_BYTES = 2**16
_GZIP_BITS = 31  # of zlib: the largest window, and a header of gzip


def spool_stdin(folder: Path) -> Path:
    """Write standard input to a file in ``folder``, with a suffix detected from its first bytes.

    Returns:
        The path of the file: stdin.csv, .jsonl, .json, .parquet, .xlsx, .ods or
        .xls, mode 0600.

    Raises:
        TableError: Standard input is empty.
        StorageError: The file cannot be written.
    """
    stream = sys.stdin.buffer
    head = stream.read(_HEAD_BYTES)
    if not head:
        raise TableError(
            "standard input is empty", fix="pipe a table into the command, or name a file"
        )
    path = folder / f"stdin{_sniff_suffix(head)}"
    with replace_file(path) as draft, draft.open("wb") as spool:
        spool.write(head)
        shutil.copyfileobj(stream, spool)
    return path


def _sniff_suffix(head: bytes) -> str:
    suffix = _sniff_format(head)
    return _sniff_format(_unpack_head(head)) + ".gz" if suffix == ".gz" else suffix


def _sniff_format(head: bytes) -> str:
    return sniff_binary_suffix(head) or _sniff_text(head)


def _unpack_head(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(_GZIP_BITS).decompress(head, _HEAD_BYTES)
    except zlib.error:
        return b""


def _sniff_text(head: bytes) -> str:
    text = decode_head(head).lstrip()
    if text.startswith("["):
        return ".json"
    if not text.startswith("{"):
        return ".csv"
    first_line, newline, further = text.partition("\n")
    try:
        row = json.loads(first_line)
    except (ValueError, RecursionError):
        # No line end in the first bytes: probably one long object per line.
        return ".json" if newline else ".jsonl"
    # A single object of lists is a table: {"data": [...]}.
    is_table = row and not further.strip() and all(isinstance(cell, list) for cell in row.values())
    return ".json" if is_table else ".jsonl"
