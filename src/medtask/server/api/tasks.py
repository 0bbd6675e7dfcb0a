"""Routes of tasks: create, change, check with all faults and lines, preview of a prompt."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from sqlalchemy import select

from medtask.atomic_files import replace_text
from medtask.errors import TaskFaults, UsageError
from medtask.records import Fault
from medtask.server.access.requests import Trainer, Viewer
from medtask.server.api.calls import TrainerWrites, ViewerReads
from medtask.server.api.resources import (
    IdField,
    PrintableText,
    ResourceId,
    find_row,
    get_files,
)
from medtask.server.database.base import get_utc_now
from medtask.server.problems import Conflict, NotValid
from medtask.server.storage.datasets import open_dataset
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredDataset, StoredModel, StoredRun, StoredTask
from medtask.server.storage.task_files import add_task, choose_task_name, parse_task
from medtask.tables.read import Table, read_table
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import read_records, require_columns
from medtask.tasks.table_check import check_table
from medtask.tasks.task import Task
from medtask.tasks.task_draft import draft_task_file

router = APIRouter(prefix="/api/tasks", tags=["tasks"])

MAX_TASK_CHARACTERS = 1_000_000
_DRAFT_SAMPLE_ROWS = 200
TaskText = Annotated[str, Field(min_length=1, max_length=MAX_TASK_CHARACTERS)]


class TaskView(BaseModel):
    """A task. ``columns`` are those that its input uses; ``labels`` are in the file's order."""

    id: int
    name: str
    kind: str
    fingerprint: str
    created_by: str
    created_at: datetime
    changed_at: datetime


class TaskDetails(TaskView):
    """A task with its file."""

    text: str
    instruction: str
    labels: list[dict[str, str]]
    gold_column: str | None
    id_column: str | None
    model: str | None
    warnings: list[str]


class TaskContent(BaseModel):
    """The content of a task file, in YAML or JSON."""

    text: TaskText
    name: PrintableText | None = None


class TaskToCheck(BaseModel):
    """A task file to check, a data set to check it with, and the task that it replaces."""

    text: TaskText
    task_id: IdField | None = None
    dataset_id: IdField | None = None


class TaskCheckView(BaseModel):
    """Whether a task is valid, and every fault with its line. ``table`` has counts of the rows."""

    valid: bool
    faults: list[dict[str, Any]]
    warnings: list[str]
    kind: str | None = None
    labels: list[str] = []
    table: dict[str, Any] | None = None


class PromptToPreview(BaseModel):
    """A task, as its text or by its id, and a row: of a data set, or as its fields."""

    text: TaskText | None = None
    task_id: IdField | None = None
    dataset_id: IdField | None = None
    row: int = Field(default=1, ge=1, le=10**9)
    fields: dict[str, str | int | float | bool | None] | None = None


class PromptView(BaseModel):
    """The prompt of a row, as chat turns. ``fault`` says why a row cannot be asked."""

    record_id: str
    messages: list[dict[str, str]]
    branches: list[dict[str, Any]]
    text: str
    fault: dict[str, str] | None = None


class DraftRequest(BaseModel):
    """The data set for which a task is drafted."""

    dataset_id: IdField
    name: str = Field(default="new-task", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$")


@router.post("", status_code=201)
def create_task(call: TrainerWrites, new: TaskContent) -> TaskDetails:
    """Create a task. A file with faults is refused, with all faults and their lines."""
    stored, task = add_task(
        call.session, call.files, new.text, name=new.name, created_by=call.user.name
    )
    call.record("task.create", stored.id)
    return _describe_details(stored, task, new.text)


@router.get("")
def list_tasks(call: ViewerReads) -> list[TaskView]:
    """All tasks, the newest first."""
    found = call.session.scalars(select(StoredTask).order_by(StoredTask.id.desc()))
    return [TaskView.model_validate(task, from_attributes=True) for task in found]


@router.post("/check")
def check_task(request: Request, user: Viewer, new: TaskToCheck) -> TaskCheckView:
    """Check a task file: its faults, and with a data set its columns, rows and gold."""
    table = None
    if new.dataset_id is not None:
        table = open_table(request, new.dataset_id)
    try:
        task = parse_draft(get_files(request), new.text, new.task_id)
        checked = None if table is None else check_table(task, table)
    except TaskFaults as error:
        faults = [{"line": fault.line, "message": fault.message} for fault in error.faults]
        return TaskCheckView(valid=False, faults=faults, warnings=[])
    return TaskCheckView(
        valid=True,
        faults=[],
        warnings=list(task.warnings),
        kind=task.kind,
        labels=[label.name for label in task.labels],
        table=None if checked is None else checked.to_json(),
    )


@router.post("/preview")
def preview_prompt(request: Request, user: Viewer, wanted: PromptToPreview) -> PromptView:
    """The prompt of one row, as every chat model receives it before its own template."""
    if (wanted.text is None) == (wanted.task_id is None):
        raise NotValid("name one task", fix="give either text or task_id")
    if (wanted.fields is None) == (wanted.dataset_id is None):
        raise NotValid("name one row", fix="give either fields, or dataset_id and row")
    if wanted.text is not None:
        task = parse_draft(get_files(request), wanted.text)
    else:
        task = _load(request, wanted.task_id or 0)[1]
    if wanted.fields is not None:
        table = read_table([wanted.fields])
    else:
        table = open_table(request, wanted.dataset_id or 0)
    return preview_row(task, table, wanted.row)


def preview_row(task: Task, table: Table, row: int) -> PromptView:
    """The prompt of a row of a table, counted from 1.

    Raises:
        TaskFaults: The table does not have the columns of the task.
        UsageError: The table has no such row.
    """
    require_columns(task, table)
    record = next(islice(read_records(task, table), row - 1, None), None)
    if record is None:
        raise UsageError(f"the data set has no row {row}", fix="rows are counted from 1")
    prompt = build_prompt(task, record)
    if isinstance(prompt, Fault):
        fault = {"status": prompt.status.value, "reason": prompt.reason}
        return PromptView(record_id=record.id, messages=[], branches=[], text="", fault=fault)
    return PromptView(
        record_id=record.id,
        messages=[{"role": one.role, "content": one.content} for one in prompt.messages],
        branches=[
            {"ask": one.ask, "prefix": one.prefix, "candidates": list(one.candidates)}
            for one in prompt.branches
        ],
        text=prompt.text,
    )


@router.post("/draft")
def draft_task(request: Request, user: Trainer, wanted: DraftRequest) -> TaskContent:
    """Draft a task file from the columns of a data set, as `medtask init` does."""
    table = open_table(request, wanted.dataset_id)
    sample = list(islice(table, _DRAFT_SAMPLE_ROWS))
    return TaskContent(text=draft_task_file(wanted.name, table.columns, sample))


@router.get("/{task_id}")
def read_task(request: Request, user: Viewer, task_id: ResourceId) -> TaskDetails:
    """A task with its file."""
    stored, task = _load(request, task_id)
    text = get_files(request).get_task_file(task_id).read_text("utf-8", "replace")
    return _describe_details(stored, task, text)


@router.put("/{task_id}")
def change_task(call: TrainerWrites, task_id: ResourceId, new: TaskContent) -> TaskDetails:
    """Replace the file of a task. Runs that were started with the old file keep their answers."""
    task = parse_draft(call.files, new.text, task_id)  # before the transaction locks the database
    stored = call.get(StoredTask, task_id)
    call.refuse_working_job(stored)
    stored.name, stored.kind = new.name or choose_task_name(task), task.kind
    stored.fingerprint, stored.changed_at = task.fingerprint, get_utc_now()
    call.session.flush()
    call.files.create_folder("tasks", task_id)
    replace_text(call.files.get_task_file(task_id), new.text)
    call.record("task.change", task_id)
    return _describe_details(stored, task, new.text)


@router.delete("/{task_id}", status_code=204)
def delete_task(call: TrainerWrites, task_id: ResourceId) -> None:
    """Delete a task that no model and no run uses."""
    stored = call.get(StoredTask, task_id)
    for table, name in ((StoredModel, "model"), (StoredRun, "run")):
        found = call.session.scalar(select(table.id).where(table.task_id == task_id).limit(1))
        if found is not None:
            raise Conflict(
                f"{name} {found} uses this task",
                fix=f"delete it first: DELETE /api/{name}s/{found}",
            )
    call.delete(stored)


def parse_draft(files: DataFolder, text: str, task_id: int | None = None) -> Task:
    """Parse a task file that replaces a stored task, or none. Raises TaskFaults."""
    own_folder = None if task_id is None else files.get_folder("tasks", task_id)
    return parse_task(text, files.create_upload_folder(), own_folder)


def _load(request: Request, task_id: int) -> tuple[StoredTask, Task]:
    stored = find_row(request, StoredTask, task_id)
    return stored, get_files(request).load_task(task_id)


def open_table(request: Request, dataset_id: int) -> Table:
    """Open a data set, in a transaction that ends before its file is read."""
    return open_dataset(get_files(request), find_row(request, StoredDataset, dataset_id))


def _describe_details(stored: StoredTask, task: Task, text: str) -> TaskDetails:
    return TaskDetails(
        **TaskView.model_validate(stored, from_attributes=True).model_dump(),
        text=text,
        instruction=task.instruction,
        labels=[{"name": one.name, "definition": one.definition} for one in task.labels],
        gold_column=task.gold_column,
        id_column=task.id_column,
        model=task.model,
        warnings=list(task.warnings),
    )
