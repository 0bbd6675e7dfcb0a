"""Detection of a text file's encoding, and its lines."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from medtask.tables.table_part import make_table_error

# Characters. csv needs 4 bytes for each; a longer cell is probably an unclosed quote.
MAX_CELL_LENGTH = 64 * 2**20

BINARY_SUFFIXES = {b"PAR1": ".parquet", b"PK\x03\x04": ".xlsx", b"\x1f\x8b": ".gz"}
"""First bytes of the binary formats."""

_CHUNK_BYTES = 2**20
_UTF8_REMEDY = "save the file again as UTF-8 (in Excel: CSV UTF-8)"
_INVALID_BYTE = re.compile("[\udc80-\udcff]")
_CP1252_BYTES = bytes(set(range(256)) - {0x81, 0x8D, 0x8F, 0x90, 0x9D})


@contextmanager
def open_bytes(path: Path, *, decompress: bool = True) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, decompressed if its name ends in .gz.

    Raises:
        TableError: The file cannot be read, also later while it is being read.
    """
    try:
        compressed = decompress and path.suffix.lower() == ".gz"
        with cast(IO[bytes], gzip.open(path) if compressed else path.open("rb")) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise make_table_error(
            path, "the gzip file is cut off or damaged", fix="copy or export it again"
        ) from error
    except PermissionError as error:
        raise make_table_error(
            path, "no permission to read this file", fix="ask its owner for read access"
        ) from error
    except UnicodeDecodeError as error:
        # Not the text of the error, which would contain bytes of a record.
        raise make_table_error(
            path,
            f"the file is no longer valid {error.encoding}: it changed while it was being read",
            fix="run the command again",
        ) from None
    except OSError as error:
        raise make_table_error(
            path,
            f"cannot be read: {error.strerror or error}",
            fix="check that the file still exists",
        ) from error


def read_lines(path: Path, encoding: str) -> Iterator[str]:
    r"""The file's lines with their line ends (\n, \r\n or \r, also mixed).

    Raises:
        TableError: A line contains a NUL character or is too long.
    """
    with open_bytes(path) as stream:
        text = io.TextIOWrapper(stream, encoding, newline="")
        number = 0
        while line := text.readline(MAX_CELL_LENGTH):
            number += 1
            if "\0" in line:
                raise make_table_error(
                    path,
                    "NUL character: the file is damaged, or UTF-16 without a byte order mark",
                    fix=_UTF8_REMEDY,
                    line=number,
                )
            if len(line) == MAX_CELL_LENGTH:
                raise make_table_error(
                    path,
                    f"longer than {MAX_CELL_LENGTH:,} characters",
                    fix="split the text into several rows",
                    line=number,
                )
            yield line


def detect_encoding(path: Path, named: str | None = None) -> tuple[str, str]:
    """Detect an encoding in which the whole file can be decoded.

    A byte order mark takes precedence over the encoding that the user ``named``.

    Returns:
        The name of the encoding, and a note about it for users.

    Raises:
        TableError: The file is empty, or no likely encoding fits its bytes.
    """
    with open_bytes(path) as stream:
        head = stream.read(4)
    if not head:
        raise make_table_error(path, "the file is empty (0 bytes)", fix="export it again")
    for magic, suffix in BINARY_SUFFIXES.items():
        if head.startswith(magic):
            raise make_table_error(
                path,
                f"not a text file but a {suffix} file",
                fix=f"rename the file so that its name ends in {suffix}",
            )
    if head.startswith(codecs.BOM_UTF8):
        encoding, note = "utf-8-sig", "UTF-8 with BOM"
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding, note = "utf-16", "UTF-16"
    else:
        encoding, note = named or "utf-8", named or "UTF-8"
    undecodable = _find_undecodable(path, encoding)
    if undecodable is None:
        return encoding, note
    offset, line = undecodable
    if (
        named is None
        and encoding == "utf-8"
        and (guess := _guess_legacy_encoding(path)) is not None
        and _find_undecodable(path, guess) is None
    ):
        title = "Windows-1252" if guess == "cp1252" else guess
        return (
            guess,
            (
                f"not UTF-8: read as {title} (guessed) - check the accented letters (first one in "
                f"line {line})"
            ),
        )
    fix = f"name its encoding with --encoding, or {_UTF8_REMEDY}"
    raise make_table_error(path, f"byte {offset:,} is not valid {note}", fix=fix, line=line)


def _find_undecodable(path: Path, encoding: str) -> tuple[int, int] | None:
    """Offset (0-based) and line (1-based) of the first invalid byte; None if there is none."""
    decoder = codecs.getincrementaldecoder(encoding)()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset, line = 0, 1
    with open_bytes(path) as stream:
        while True:
            chunk = stream.read(_CHUNK_BYTES)
            try:
                line += newlines.decode(
                    decoder.decode(chunk, final=not chunk), final=not chunk
                ).count("\n")
            except UnicodeDecodeError as error:
                # A decoder prepends the unfinished character of the last chunk to this one.
                start = offset - (len(error.object) - len(chunk))
                good = error.object[: error.start].decode(error.encoding, "ignore")
                return start + error.start, line + newlines.decode(good, final=True).count("\n")
            if not chunk:
                return None
            offset += len(chunk)


def _guess_legacy_encoding(path: Path) -> str | None:
    """A one-byte encoding for a file that is not UTF-8; None if it is damaged UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    sample = bytearray()
    whole = broken = 0
    with open_bytes(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            text = decoder.decode(chunk)
            if text.isascii():
                continue
            bad = len(_INVALID_BYTE.findall(text))
            broken += bad
            whole += len(text) - len(text.encode("ascii", "ignore")) - bad
            sample += chunk[: _CHUNK_BYTES - len(sample)]
    if whole > broken / 100:
        return None
    # Nearly every byte is valid in Windows-1252, but only Western text, mostly ASCII, is plausible.
    letters = sample.translate(
        None, bytes(set(range(128)) - set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    )
    if sum(letter > 127 for letter in letters) < len(letters) / 2 and not sample.translate(
        None, _CP1252_BYTES
    ):
        return "cp1252"
    from charset_normalizer import from_bytes

    best = from_bytes(bytes(sample)).best()
    return best.encoding if best is not None else None
