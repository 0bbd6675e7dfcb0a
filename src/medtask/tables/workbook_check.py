"""Inspection of a workbook, in a child process: damage, size, and facts about its sheets."""

from __future__ import annotations

import codecs
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medtask.display import quote
from medtask.errors import TableError
from medtask.tables.binary_files import make_damaged_error
from medtask.tables.encoding import OLE_MAGIC
from medtask.tables.ods_sheets import read_ods_sheets
from medtask.tables.table_part import make_read_error, make_table_error
from medtask.tables.workbook_xml import (
    SheetFacts,
    list_sheet_parts,
    read_zero_formats,
    scan_sheet,
)

if TYPE_CHECKING:
    from python_calamine import CalamineWorkbook

MAX_UNPACKED_BYTES = 200 * 2**20
"""Maximum size of an unpacked workbook."""

MAX_AREA = 50_000_000
"""Maximum number of cells between the first and the last cell of a sheet, also without values."""

WORKBOOK = "a workbook (XLSX, ODS or XLS)"

_HEAD_BYTES = 512
_Format = Literal["xlsx", "ods", "xls"]

_ENCRYPTED_STREAM = "EncryptedPackage".encode("utf-16-le")
_NO_FORMATS = "number formats of .xls files are not read: an id shown as 000123 is 123"


def inspect_workbook(path: str, named_sheet: str | None) -> dict[str, object]:
    """Read the visible sheets, and the named one, as the readers do.

    Returns:
        The fields of `SheetFacts`, by the name of the sheet.

    Raises:
        TableError: The file is damaged, not a workbook, or too large.
    """
    file = Path(path)
    kind = _check_file(file)
    # Before the library expands repeated cells.
    ods_sheets = read_ods_sheets(file) if kind == "ods" else []
    with open_workbook(file) as workbook:
        chosen = set(list_visible_sheets(workbook))
        if named_sheet is not None and named_sheet in workbook.sheet_names:
            chosen.add(named_sheet)
        match kind:
            case "xlsx":
                facts = _scan_sheets(file, workbook.sheet_names, chosen)
            case "ods":
                sheets = zip(workbook.sheet_names, ods_sheets, strict=True)
                facts = {name: found for name, found in sheets if name in chosen}
            case "xls":
                facts = {name: SheetFacts(note=_NO_FORMATS) for name in chosen}
        for name in chosen:
            sheet = workbook.get_sheet_by_name(name)
            _ = sheet.merged_cell_ranges
            for _ in sheet.iter_rows():
                pass
    return {name: asdict(found) for name, found in facts.items()}


def _scan_sheets(path: Path, names: Sequence[str], chosen: set[str]) -> dict[str, SheetFacts]:
    facts = {}
    try:
        with zipfile.ZipFile(path) as archive:
            formats = read_zero_formats(archive)
            # Not by the names in the file, which the library may decode in another way.
            for name, part in zip(names, list_sheet_parts(archive), strict=True):
                if name in chosen:
                    facts[name] = scan_sheet(archive, part, formats)
                    _check_area(path, name, facts[name])
    except ValueError:
        raise make_damaged_error(path, WORKBOOK) from None
    return facts


def _check_area(path: Path, sheet: str, facts: SheetFacts) -> None:
    if facts.last_row * (facts.last_column + 1) > MAX_AREA:
        raise make_table_error(
            path,
            f"sheet {quote(sheet)}: cell {facts.last_cell} is so far from the others that the "
            f"sheet has {facts.last_row:,} rows of {facts.last_column + 1:,} columns",
            fix="delete the cells far from the table, or save the table as CSV",
        )


def _check_file(path: Path) -> _Format:
    """The format of a workbook, by its content.

    Raises TableError for files that are not workbooks, encrypted, damaged, or too large when
    unpacked.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
        if head.startswith(OLE_MAGIC):
            _check_xls(path)
            return "xls"
        _refuse_text(path, head)
        return _check_archive(path)
    except PermissionError as error:
        raise make_read_error(path, error) from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise make_damaged_error(path, WORKBOOK) from error


def _refuse_text(path: Path, head: bytes) -> None:
    """Raise TableError for a text file, such as a web page that a system exports as .xls."""
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not is_utf16 and (not head or min(head) < ord("\t")):
        return
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
        raise make_table_error(
            path,
            f"the file is a web page (HTML) or XML, not {WORKBOOK}",
            fix="open it in Excel or LibreOffice, and save it as XLSX",
        )
    raise make_table_error(
        path,
        f"the file is text, not {WORKBOOK}",
        fix="rename the file so that its name ends in .csv",
    )


def _check_archive(path: Path) -> _Format:
    with zipfile.ZipFile(path) as archive:
        _check_size(path, sum(part.file_size for part in archive.infolist()), "unpacked it")
        # The directory may state wrong sizes: the checksums detect that.
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(damaged)
        names = archive.namelist()
        if "content.xml" not in names:
            return "xlsx"
        manifest = "META-INF/manifest.xml"
        if manifest in names and b"encryption-data" in archive.read(manifest):
            raise _make_password_error(path)
        return "ods"


def _check_xls(path: Path) -> None:
    _check_size(path, path.stat().st_size, "it")
    if _ENCRYPTED_STREAM in path.read_bytes():
        raise _make_password_error(path)


def _check_size(path: Path, size: int, what: str) -> None:
    if size > MAX_UNPACKED_BYTES:
        problem = f"{what} has {size >> 20:,} MB; the limit is {MAX_UNPACKED_BYTES >> 20} MB"
        raise make_table_error(path, problem, fix="save the sheet as CSV")


def _make_password_error(path: Path) -> TableError:
    return make_table_error(
        path, "the workbook is protected by a password", fix="save it without a password"
    )


@contextmanager
def open_workbook(path: Path) -> Iterator[CalamineWorkbook]:
    """Open a workbook until the block ends.

    Raises:
        TableError: It is damaged, or cannot be read.
    """
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    try:
        # Not by its path, whose suffix would decide the format.
        with path.open("rb") as stream, CalamineWorkbook.from_filelike(stream) as workbook:
            yield workbook
    except PasswordError as error:
        raise _make_password_error(path) from error
    except (CalamineError, OSError) as error:
        raise make_damaged_error(path, WORKBOOK) from error


def list_visible_sheets(workbook: CalamineWorkbook) -> list[str]:
    """The names of the worksheets that are not hidden."""
    from python_calamine import SheetTypeEnum, SheetVisibleEnum

    shown = (SheetTypeEnum.WorkSheet, SheetVisibleEnum.Visible)
    return [sheet.name for sheet in workbook.sheets_metadata if (sheet.typ, sheet.visible) == shown]
