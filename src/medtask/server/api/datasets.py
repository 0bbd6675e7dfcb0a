"""Routes of data sets: upload, list, preview, statistics, download, delete."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from medtask.errors import TableError
from medtask.server.access.audit_log import record_action
from medtask.server.access.requests import Trainer, Viewer
from medtask.server.api.calls import TrainerWrites, ViewerReads
from medtask.server.api.resources import (
    GivenId,
    PrintableText,
    ResourceId,
    find_row,
    get_files,
)
from medtask.server.database.connect import get_database
from medtask.server.problems import NotValid
from medtask.server.storage.datasets import (
    MAX_PREVIEW_ROWS,
    NewDataset,
    add_dataset,
    open_dataset,
    read_rows,
)
from medtask.server.storage.tables import StoredDataset, StoredTask
from medtask.server.storage.uploads import FileWriter, FormWriter, ReceivedFile
from medtask.tables.column_statistics import collect_column_statistics
from medtask.tables.read_options import ReadOptions
from medtask.tasks.table_check import check_table

router = APIRouter(prefix="/api/datasets", tags=["datasets"])

_FORM_TYPE = "multipart/form-data"
_Cell = str | int | float | bool | None


class DatasetView(BaseModel):
    """A data set. ``notes`` say how its file was read."""

    id: int
    name: str
    file_name: str
    bytes: int
    sha256: str
    rows: int
    columns: list[str]
    notes: list[str]
    created_by: str
    created_at: datetime


class AddedDataset(DatasetView):
    """A data set that was added. ``warnings`` say what was guessed, and what to look at."""

    warnings: list[str]


class NewRows(BaseModel):
    """Rows of a data set, each with all columns."""

    name: PrintableText
    rows: list[dict[str, _Cell]] = Field(min_length=1)


class DatasetRows(BaseModel):
    """Rows of a data set from ``offset`` on; texts of more than 2,000 characters are cut."""

    columns: list[str]
    rows: list[dict[str, Any]]
    offset: int
    total: int


class FrequentValue(BaseModel):
    """A value of a column, and the number of its rows."""

    value: str
    rows: int


class ColumnView(BaseModel):
    """A column. ``frequent_values`` is empty for texts and ids."""

    name: str
    missing: int
    distinct: int | None
    mean_length: float
    max_length: int
    frequent_values: list[FrequentValue]


class DatasetStatisticsView(BaseModel):
    """Statistics of a data set; ``task`` has those of the prompts of a task."""

    rows: int
    columns: list[ColumnView]
    task: dict[str, Any] | None = None


_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            _FORM_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {"type": "string"},
                        "encoding": {"type": "string"},
                        "sheet": {"type": "string"},
                        "header_row": {"type": "string"},
                    },
                }
            },
            "text/csv": {"schema": {"type": "string"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post("", status_code=201, openapi_extra=_UPLOAD_BODY)
async def upload_dataset(
    request: Request,
    user: Trainer,
    file_name: Annotated[str, Query(max_length=255)] = "",
    name: Annotated[str, Query(max_length=200)] = "",
) -> AddedDataset:
    """Upload a table: as the field `file` of a form, or as the body, with ``file_name``.

    CSV, TSV, JSON, JSON Lines (each also as .gz), Parquet, XLSX, ODS and XLS are read. The body is
    written to the disk while it arrives.
    """
    received = await _receive(request, file_name)
    fields = {"name": name, **received.fields}
    return await run_in_threadpool(_add, request, received, fields, user.name)


async def _receive(request: Request, file_name: str) -> ReceivedFile:
    folder = get_files(request).create_upload_folder()
    content_type = request.headers.get("content-type", "")
    is_form = content_type.lower().startswith(_FORM_TYPE)
    if not is_form and not file_name:
        raise NotValid(
            "the table has no name, and its format is known by the name",
            fix="add ?file_name=notes.csv, or send a form: curl -F file=@notes.csv",
        )
    writer = FormWriter(folder, content_type) if is_form else FileWriter(folder, file_name)
    try:
        async for chunk in request.stream():
            writer.write(chunk)
        return writer.finish()
    except BaseException:  # also a client that went away
        writer.abandon()
        raise


def _add(
    request: Request, received: ReceivedFile, fields: dict[str, str], created_by: str
) -> AddedDataset:
    try:
        options = _read_options(fields)
        name = " ".join(fields.get("name", "").split()) or received.name or "unnamed"
        shown = "".join(letter for letter in name if letter.isprintable())[:200]
        new = NewDataset(shown or "unnamed", options, created_by)
    except BaseException:
        received.delete()
        raise
    database = get_database(request)
    dataset, warnings = add_dataset(database, get_files(request), received, new)
    with database.write() as session:
        record_action(request, session, "dataset.create", str(dataset.id))
    return AddedDataset(**_describe(dataset).model_dump(), warnings=warnings)


def _read_options(fields: dict[str, str]) -> ReadOptions:
    header_row = fields.get("header_row", "").strip()
    if header_row and not (header_row.isdecimal() and len(header_row) < 7):
        raise NotValid("header_row is not a number", fix="count the rows from 1")
    return ReadOptions(
        encoding=fields.get("encoding") or None,
        sheet=fields.get("sheet") or None,
        header_row=int(header_row) if header_row else None,
    )


@router.post("/rows", status_code=201)
def add_rows(request: Request, user: Trainer, new: NewRows) -> AddedDataset:
    """Create a data set from rows in the request."""
    columns = dict.fromkeys(column for row in new.rows for column in row)
    if not columns:
        raise TableError("the rows have no columns", fix="give each row at least one column")
    writer = FileWriter(get_files(request).create_upload_folder(), "rows.jsonl")
    for row in new.rows:
        line = json.dumps({column: row.get(column) for column in columns})
        writer.write(line.encode() + b"\n")
    return _add(request, writer.finish(), {"name": new.name}, user.name)


@router.get("")
def list_datasets(call: ViewerReads) -> list[DatasetView]:
    """All data sets, the newest first."""
    found = call.session.scalars(select(StoredDataset).order_by(StoredDataset.id.desc()))
    return [_describe(dataset) for dataset in found]


@router.get("/{dataset_id}")
def read_dataset(call: ViewerReads, dataset_id: ResourceId) -> DatasetView:
    """A data set."""
    return _describe(call.get(StoredDataset, dataset_id))


@router.get("/{dataset_id}/rows")
def preview_dataset(
    request: Request,
    user: Viewer,
    dataset_id: ResourceId,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PREVIEW_ROWS)] = 20,
) -> DatasetRows:
    """Rows of a data set."""
    dataset = find_row(request, StoredDataset, dataset_id)
    return DatasetRows(
        columns=dataset.columns,
        rows=read_rows(get_files(request), dataset, offset, limit),
        offset=offset,
        total=dataset.rows,
    )


@router.get("/{dataset_id}/statistics")
def read_statistics(
    request: Request, user: Viewer, dataset_id: ResourceId, task_id: GivenId | None = None
) -> DatasetStatisticsView:
    """Statistics of the columns, and with a task of its prompts and gold."""
    files = get_files(request)
    dataset = find_row(request, StoredDataset, dataset_id)
    table = open_dataset(files, dataset)
    columns = [
        ColumnView.model_validate(one.to_json())
        for one in collect_column_statistics(table.columns, table)
    ]
    statistics = DatasetStatisticsView(rows=dataset.rows, columns=columns)
    if task_id is not None:
        find_row(request, StoredTask, task_id)
        statistics.task = check_table(files.load_task(task_id), table).to_json()
    return statistics


@router.get("/{dataset_id}/file", response_class=FileResponse)
def download_dataset(request: Request, user: Trainer, dataset_id: ResourceId) -> FileResponse:
    """The file as it was uploaded."""
    dataset = find_row(request, StoredDataset, dataset_id)
    open_dataset(get_files(request), dataset)  # a missing file is a problem, not a bug
    path = get_files(request).get_folder("datasets", dataset_id) / dataset.file_name
    return FileResponse(path, media_type="application/octet-stream", filename=dataset.file_name)


@router.delete("/{dataset_id}", status_code=204)
def remove_dataset(call: TrainerWrites, dataset_id: ResourceId) -> None:
    """Delete a data set. Runs and models that used it are kept."""
    call.delete(call.get(StoredDataset, dataset_id))


def _describe(dataset: StoredDataset) -> DatasetView:
    return DatasetView.model_validate(dataset, from_attributes=True)
