"""Options of reading a table: encoding, sheet, header row, words for missing values."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, TypedDict, cast, get_args

from medtask.display import quote
from medtask.errors import UsageError
from medtask.tables.missing import MISSING_WORDS

DuplicateRule = Literal["suffix", "first"]
"""Which row, or which id, is kept of rows with the same id."""

_ENCODING_EXAMPLES = "utf-8, cp1252, cp1250, iso8859-2, cp850, utf-16"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How a table is read. None: detected from the file.

    Attributes:
        encoding: Encoding of a text file, a name that Python knows, such as "cp1250". A byte order
            mark in the file takes precedence.
        sheet: Name of the sheet of a workbook; default: the first visible one with content.
        header_row: Line (in a workbook: row) of the column names, from 1; what is above it is not
            read.
        missing: Words that stand for a missing value, in place of `MISSING_WORDS`. Cells without a
            visible character are always missing.
        on_duplicate: What becomes of rows that repeat the id of an earlier row: "suffix" adds a
            number to their ids, "first" leaves them out. By default such tables are refused.

    Raises:
        UsageError: The encoding or the rule for ids is not known, or the header row is not
            positive.
    """

    encoding: str | None = None
    sheet: str | None = None
    header_row: int | None = None
    missing: Sequence[str] | None = None
    on_duplicate: DuplicateRule | None = None

    def __post_init__(self) -> None:
        if self.missing is not None:
            # One word is not a sequence of letters.
            words = (self.missing,) if isinstance(self.missing, str) else tuple(self.missing)
            object.__setattr__(self, "missing", words)
        if self.encoding is not None:
            _check_encoding(self.encoding)
        if self.on_duplicate not in (None, *get_args(DuplicateRule)):
            raise UsageError(
                f"{quote(self.on_duplicate)} is not a rule for repeated ids",
                fix=f"use {' or '.join(get_args(DuplicateRule))}",
            )
        if self.header_row is not None and self.header_row < 1:
            raise UsageError(
                f"header row {self.header_row} does not exist",
                fix="count the rows from 1, as a spreadsheet does",
            )

    @property
    def missing_words(self) -> frozenset[str]:
        """The words that stand for a missing value."""
        if self.missing is None:
            return MISSING_WORDS
        return frozenset(word.strip() for word in self.missing) - {""}  # blank cells are no words

    def to_values(self) -> ReadOptionValues:
        """The options that differ from their default, by name."""
        values = {
            option.name: getattr(self, option.name)
            for option in fields(self)
            if getattr(self, option.name) != option.default
        }
        return cast(ReadOptionValues, values)

    def for_digest(self) -> dict[str, object]:
        """The given options that change what is read; the sheet is a part of the table itself."""
        return {name: value for name, value in self.to_values().items() if name != "sheet"}

    def for_further_tables(self) -> ReadOptions:
        """These options for a second table of the same command, which has rows of its own."""
        return replace(self, sheet=None, header_row=None, on_duplicate=None)


class ReadOptionValues(TypedDict, total=False):
    """The fields of `ReadOptions` as keyword arguments of public functions."""

    encoding: str | None
    sheet: str | None
    header_row: int | None
    missing: Sequence[str] | None
    on_duplicate: DuplicateRule | None


DEFAULT_READ_OPTIONS = ReadOptions()


def _check_encoding(name: str) -> None:
    try:
        # Codecs from bytes to bytes, and of domain names, are not encodings of a file.
        "".encode(name)
        known = codecs.lookup(name).name not in ("idna", "punycode", "undefined")
    except (LookupError, ValueError):
        known = False
    if not known:
        raise UsageError(
            f"{quote(name)} is not a known encoding", fix=f"use a name such as {_ENCODING_EXAMPLES}"
        )
