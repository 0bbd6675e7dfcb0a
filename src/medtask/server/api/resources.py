"""Types of values in requests, and looking up the objects that a request names."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from fastapi import Path, Query, Request
from pydantic import AfterValidator, Field, StringConstraints
from sqlalchemy.orm import Session

from medtask.server.database.base import Base
from medtask.server.database.connect import get_database
from medtask.server.objects import OBJECT_KINDS
from medtask.server.problems import NotFound
from medtask.server.storage.files import DataFolder

MAX_ID = 2**31 - 1
ResourceId = Annotated[int, Path(ge=1, le=MAX_ID)]
GivenId = Annotated[int, Query(ge=1, le=MAX_ID)]
IdField = Annotated[int, Field(ge=1, le=MAX_ID)]
TableFormat = Literal["csv", "parquet", "xlsx", "jsonl"]
MEDIA_TYPES: dict[TableFormat, str] = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "jsonl": "application/jsonl",
}
Row = TypeVar("Row", bound=Base)


def _refuse_control_characters(text: str) -> str:
    # PostgreSQL cannot store NUL, and names are shown in one line.
    if not text.isprintable():
        raise ValueError("contains characters that cannot be printed")
    return text


PrintableText = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_refuse_control_characters),
]
ModelName = IdField | PrintableText  # the id of a model of this server, or a reference


def parse_id(text: str) -> int | None:
    """The id in a field of a form; None if it is not one that an object can have."""
    number = int(text) if text.isdecimal() and len(text) < 11 else 0
    return number if 1 <= number <= MAX_ID else None


def get_files(request: Request) -> DataFolder:
    """The data folder of the server."""
    return DataFolder(request.app.state.settings.data_folder)


def get_row(session: Session, table: type[Row], number: int) -> Row:
    """The object with an id.

    Raises:
        NotFound: There is none.
    """
    row = session.get(table, number)
    if row is None:
        kind = OBJECT_KINDS[table]
        raise NotFound(
            f"there is no {kind.noun} {number}", fix=f"list what there is: GET {kind.path}"
        )
    return row


def find_row(request: Request, table: type[Row], number: int) -> Row:
    """The object with an id, in a transaction that ends before its files are read.

    Raises:
        NotFound: There is none.
    """
    with get_database(request).read() as session:
        return get_row(session, table, number)
