"""Standard input stored as a file, because a table is read more than once."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import sys
import zlib
from pathlib import Path

from medtask.atomic_files import replace_file
from medtask.errors import TableError
from medtask.tables.encoding import sniff_binary_suffix

_HEAD_BYTES = 2**16


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
    suffix = sniff_binary_suffix(head)
    if suffix == ".gz":
        return _sniff_suffix(_unpack_head(head)) + ".gz"
    return suffix or _sniff_text(head)


def _unpack_head(head: bytes) -> bytes:
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(head)).read(1)
    except (EOFError, OSError, zlib.error):
        return b""


def _sniff_text(head: bytes) -> str:
    text = head.decode("utf-8-sig", "replace").lstrip()
    if text.startswith("["):
        return ".json"
    if not text.startswith("{"):
        return ".csv"
    first_line, newline, _ = text.partition("\n")
    try:
        json.loads(first_line)
    except ValueError:
        # No line end in the first bytes: probably one long object per line.
        return ".json" if newline else ".jsonl"
    return ".jsonl"
