"""Detection of a text file's encoding, and its lines."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from medtask.display import format_path
from medtask.errors import EncodingGuessWarning
from medtask.tables.encoding_guess import guess_encodings
from medtask.tables.table_part import make_read_error, make_table_error

# Characters. csv needs 4 bytes for each; a longer cell is probably an unclosed quote.
MAX_CELL_LENGTH = 64 * 2**20

OLE_MAGIC = b"\xd0\xcf\x11\xe0"
"""First bytes of .xls files, and of encrypted workbooks."""

_BINARY_SUFFIXES = {
    b"PAR1": ".parquet",
    b"PK\x03\x04": ".xlsx",
    b"\x1f\x8b": ".gz",
    OLE_MAGIC: ".xls",
}
_ODS_MARK = b"opendocument.spreadsheet"  # in the first entry of the archive
_CHUNK_BYTES = 2**20
_HEAD_BYTES = 2**16
_SAMPLE_BYTES = 2**18
_MAX_CHANCE_SHARE = 0.05
_UTF8_REMEDY = "save the file again as UTF-8 (in Excel: CSV UTF-8)"


def sniff_binary_suffix(head: bytes) -> str | None:
    """The suffix of the binary format of a file by its first bytes; None for text."""
    if head.startswith(b"PK\x03\x04") and _ODS_MARK in head[:200]:
        return ".ods"
    found = (suffix for magic, suffix in _BINARY_SUFFIXES.items() if head.startswith(magic))
    return next(found, None)


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
    except UnicodeDecodeError as error:
        # Not the text of the error, which would contain bytes of a record.
        raise make_table_error(
            path,
            f"the file is no longer valid {error.encoding}: it changed while it was being read",
            fix="run the command again",
        ) from None
    except OSError as error:
        raise make_read_error(path, error) from error


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


@dataclass(frozen=True, slots=True)
class TextEncoding:
    """The encoding of a text file.

    Attributes:
        name: The encoding, as Python names it.
        note: The encoding for users.
        is_guess: Whether it was guessed from the letters.
    """

    name: str
    note: str
    is_guess: bool = False


# The two or three bytes of a letter in UTF-8, as Windows-1252 shows them. Dashes and quotes are
# such bytes, too, but they also follow a capital letter at the end of a quotation.
_CONTINUATION = r"[\x80-\xbf€ƒ†‡ˆ‰Š‹ŒŽ•˜™š›œžŸ]"
_PUNCTUATION = r"[‚„…‘’“”–—]"
_GARBLED = re.compile(
    rf"[\xc3-\xdf]{_CONTINUATION}|[\xc3-\xc5]{_PUNCTUATION}(?=[^\W\d_])"
    rf"|[\xe0-\xef](?:{_CONTINUATION}|{_PUNCTUATION}){{2}}"
)


def detect_encoding(path: Path, named: str | None = None) -> TextEncoding:
    """Detect an encoding in which the whole file can be decoded.

    A byte order mark takes precedence over the encoding that the user ``named``.

    Warns:
        EncodingGuessWarning: The encoding was guessed; shows words to check.

    Raises:
        TableError: The file is empty, or no likely encoding fits its bytes.
    """
    with open_bytes(path) as stream:
        head = stream.read(_HEAD_BYTES)
    if not head:
        raise make_table_error(path, "the file is empty (0 bytes)", fix="export it again")
    if suffix := sniff_binary_suffix(head):
        raise make_table_error(
            path,
            f"not a text file but a {suffix} file",
            fix=f"rename the file so that its name ends in {suffix}",
        )
    found = (
        _find_marked(head)
        or (TextEncoding(named, named) if named else None)
        or _detect_utf16(head)
        or TextEncoding("utf-8", "UTF-8")
    )
    undecodable = _find_undecodable(path, found.name)
    if undecodable is None:
        return found
    if found.name == "utf-8" and named is None and (sample := _collect_legacy_lines(path)):
        for guess in guess_encodings(sample):
            if _find_undecodable(path, guess.name) is None:
                message = f"{format_path(path)}: {guess.describe()}"
                warnings.warn(message, EncodingGuessWarning, stacklevel=2)
                return TextEncoding(guess.name, guess.note, is_guess=True)
    offset, line = undecodable
    fix = f"name its encoding with --encoding, or {_UTF8_REMEDY}"
    raise make_table_error(path, f"byte {offset:,} is not valid {found.note}", fix=fix, line=line)


_MARKED_ENCODINGS = {
    codecs.BOM_UTF8: TextEncoding("utf-8-sig", "UTF-8 with BOM"),
    # The mark of UTF-32 begins with that of UTF-16.
    codecs.BOM_UTF32_LE: TextEncoding("utf-32", "UTF-32"),
    codecs.BOM_UTF32_BE: TextEncoding("utf-32", "UTF-32"),
    codecs.BOM_UTF16_LE: TextEncoding("utf-16", "UTF-16"),
    codecs.BOM_UTF16_BE: TextEncoding("utf-16", "UTF-16"),
}


def _find_marked(head: bytes) -> TextEncoding | None:
    """The encoding of a byte order mark."""
    found = (encoding for mark, encoding in _MARKED_ENCODINGS.items() if head.startswith(mark))
    return next(found, None)


def decode_head(head: bytes) -> str:
    """The first bytes of a file as text, to look at its format; invalid bytes are U+FFFD."""
    found = _find_marked(head) or _detect_utf16(head)
    return head.decode(found.name if found else "utf-8", "replace")


def _detect_utf16(head: bytes) -> TextEncoding | None:
    """UTF-16 without a byte order mark: a delimiter or line end has a zero byte at one side."""
    zeros = head[0::2].count(0), head[1::2].count(0)
    if max(zeros) <= 10 * min(zeros) or max(zeros) < len(head) / 100:
        return None
    name = "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    text = head[: len(head) // 2 * 2].decode(name, "replace")
    if "\0" in text or "\ufffd" in text[:-1] or not any(mark in text for mark in ",;\t|\r\n"):
        return None
    return TextEncoding(name, "UTF-16 without BOM")


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


def _collect_legacy_lines(path: Path) -> bytes | None:
    """The lines that are not ASCII, as a sample; None if the file is damaged UTF-8.

    A line of another encoding is rarely valid UTF-8, and then by chance.
    """
    sample = bytearray()
    valid = invalid = 0
    with open_bytes(path) as stream:
        for line in _iter_byte_lines(stream):
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
                valid += 1
            except UnicodeDecodeError:
                invalid += 1
            if len(sample) < _SAMPLE_BYTES:
                sample += line[:_SAMPLE_BYTES] + b"\n"
    return None if valid > _MAX_CHANCE_SHARE * (valid + invalid) else bytes(sample)


def _iter_byte_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines, also of files with old Mac line ends; a very long one in pieces."""
    while line := stream.readline(_CHUNK_BYTES):
        yield from line.splitlines()


def find_garbled_letter(text: str) -> tuple[str, str] | None:
    """A letter that was read in a wrong encoding before the text was saved: ("Ã¸", "ø")."""
    for found in _GARBLED.finditer(text):
        try:
            letter = "".join(map(_to_cp1252_byte, found[0])).encode("latin-1").decode("utf-8")
        except (UnicodeError, ValueError):
            continue
        return found[0], letter
    return None


def _to_cp1252_byte(character: str) -> str:
    """The character with the number of its byte in Windows-1252."""
    # Five bytes have no character there, and are read as control characters.
    return character if ord(character) < 0xA0 else chr(character.encode("cp1252")[0])
