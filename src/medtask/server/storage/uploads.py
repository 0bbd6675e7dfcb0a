"""Receiving an uploaded table: parsed while it arrives, and written to a private file at once."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from medtask.atomic_files import make_storage_error
from medtask.server.problems import NotValid

FILE_FIELD = "file"
_MAX_FIELD_BYTES = 4096
_MAX_PARTS = 16
_FORM_FIX = "send the table as the field `file` of a form: curl -F file=@notes.csv"


@dataclass(slots=True)
class ReceivedFile:
    """A file that was received, and the other fields of its form.

    Attributes:
        path: Where it is, until it is moved or deleted.
        name: The name that the client gave it.
        bytes: Its size.
    """

    path: Path
    name: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    bytes: int = 0

    def delete(self) -> None:
        """Delete the file, if it was not moved."""
        self.path.unlink(missing_ok=True)


class FileWriter:
    """Writes a request's body to a file, as it is."""

    def __init__(self, folder: Path, name: str) -> None:
        self.received = ReceivedFile(folder / secrets.token_hex(16), name)
        self._file = self._open()

    def _open(self) -> IO[bytes]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            return os.fdopen(os.open(self.received.path, flags, 0o600), "wb")
        except OSError as error:
            raise make_storage_error(self.received.path, error) from error

    def write(self, data: bytes) -> None:
        """Write a part of the body. Raises StorageError if the disk is full."""
        try:
            self._file.write(data)
        except OSError as error:
            raise make_storage_error(self.received.path, error) from error
        self.received.bytes += len(data)

    def finish(self) -> ReceivedFile:
        """Close the file. Raises StorageError if the disk is full."""
        try:
            self._file.close()
        except OSError as error:
            raise make_storage_error(self.received.path, error) from error
        return self.received

    def abandon(self) -> None:
        """Close and delete the file of an upload that is not complete."""
        with suppress(OSError):
            self._file.close()
        self.received.delete()


class FormWriter:
    """Parses the body of a form while it arrives; its file is written to the disk at once."""

    def __init__(self, folder: Path, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise NotValid("the form has no boundary", fix=_FORM_FIX)
        self._writer = FileWriter(folder, "")
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end_form,
            },
        )
        self._headers: dict[str, bytes] = {}
        self._header_name, self._header_value = b"", b""
        self._field: str | None = None
        self._value = b""
        self._parts = 0
        self._has_file = self._is_file = self._is_complete = False

    def write(self, data: bytes) -> None:
        """Parse a part of the body. Raises NotValid for anything that is not such a form."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise NotValid("the body is not a valid form", fix=_FORM_FIX) from error

    def finish(self) -> ReceivedFile:
        """Check that the form was complete, and close the file."""
        received = self._writer.finish()
        if not self._is_complete:
            raise NotValid("the form ends before its last boundary", fix="send the file again")
        if not self._has_file:
            raise NotValid("the form has no field `file`", fix=_FORM_FIX)
        return received

    def abandon(self) -> None:
        """Delete the file of an upload that is not complete."""
        self._writer.abandon()

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise NotValid(f"the form has more than {_MAX_PARTS} fields", fix=_FORM_FIX)
        self._headers = {}
        self._header_name, self._header_value, self._value = b"", b"", b""

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.decode("latin-1").lower()] = self._header_value
        self._header_name, self._header_value = b"", b""

    def _end_headers(self) -> None:
        options = _parse_disposition(self._headers)
        self._field = options.get("name", "")
        self._is_file = self._field == FILE_FIELD
        if self._is_file:
            if self._has_file:
                raise NotValid("the form has more than one file", fix="send one file at a time")
            self._has_file = True
            self._writer.received.name = options.get("filename", "")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._writer.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            raise NotValid(
                f"a field of the form is longer than {_MAX_FIELD_BYTES:,} bytes", fix=_FORM_FIX
            )

    def _end_part(self) -> None:
        if not self._is_file and self._field:
            self._writer.received.fields[self._field] = self._value.decode("utf-8", "replace")

    def _end_form(self) -> None:
        self._is_complete = True


def _parse_disposition(headers: Mapping[str, bytes]) -> dict[str, str]:
    # As bytes: the parser can encode text as Latin-1 only.
    _, options = parse_options_header(headers.get("content-disposition", b""))
    return {
        name.decode("latin-1"): value.decode("utf-8", "replace") for name, value in options.items()
    }
