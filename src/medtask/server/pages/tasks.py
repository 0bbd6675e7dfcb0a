"""Pages of tasks: the list, and the editor with live checks and a preview of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from medtask.display import format_count
from medtask.errors import MedtaskError, TaskFaults
from medtask.server.access.requests import Viewer
from medtask.server.api.calls import TrainerReads, ViewerReads
from medtask.server.api.resources import ResourceId, get_files, parse_id
from medtask.server.api.tasks import open_table, parse_draft, preview_row
from medtask.server.pages.lookups import BASES, list_datasets
from medtask.server.problems import describe_problem
from medtask.server.rendering import render_page
from medtask.server.storage.datasets import open_dataset
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredDataset, StoredModel, StoredRun, StoredTask
from medtask.tasks.rows import check_columns
from medtask.tasks.task import Task
from medtask.tasks.task_draft import draft_task_file

router = APIRouter(include_in_schema=False)

_STARTERS_FOLDER = Path(__file__).parent / "starters"  # one task per kind of question
_SAMPLE_ROWS = 100


@router.get("/tasks")
def show_tasks(call: ViewerReads) -> Response:
    """The list of tasks."""
    session = call.session
    values: dict[str, Any] = {
        "tasks": list(session.scalars(select(StoredTask).order_by(StoredTask.name))),
        "models": _count_by_task(session, StoredModel),
        "runs": _count_by_task(session, StoredRun),
    }
    return call.render("tasks.html", values)


@router.get("/tasks/new")
def show_new_task(call: TrainerReads, template: str = "") -> Response:
    """The editor with a starter, or with a draft from a data set."""
    starters, datasets = _read_starters(), list_datasets(call.session)
    titles = [(name, title) for name, (title, _) in starters.items()]
    titles += [(f"dataset-{one.id}", f"The columns of {one.name}") for one in datasets]
    chosen, dataset_id = template, parse_id(template.removeprefix("dataset-"))
    if dataset_id is not None:
        text = _draft_from_dataset(call.files, call.get(StoredDataset, dataset_id))
    else:
        chosen = template if template in starters else next(iter(starters))
        text = starters[chosen][1]
    values = {
        "task": None,
        "text": text,
        "templates": titles,
        "template": chosen,
        "datasets": datasets,
        "dataset_id": dataset_id,
    }
    return call.render("task.html", values)


@router.get("/tasks/{task_id}")
def show_task(call: ViewerReads, task_id: ResourceId) -> Response:
    """The editor of a task."""
    task, file = call.get(StoredTask, task_id), call.files.get_task_file(task_id)
    datasets = list_datasets(call.session)
    values = {
        "task": task,
        "text": file.read_text("utf-8", "replace") if file.exists() else "",
        "datasets": datasets,
        "dataset_id": _find_fitting_dataset(call.files, task, datasets),
        "bases": BASES,
    }
    return call.render("task.html", values)


class TaskDraft(BaseModel):
    """The editor's fields: the text, the task that it replaces, and the row of a data set."""

    text: str = ""
    task_id: str = ""
    dataset_id: str = ""
    row: str = "1"


@router.post("/tasks/check")
def check_draft(request: Request, user: Viewer, draft: Annotated[TaskDraft, Form()]) -> Response:
    """The faults of a draft, or a summary and the prompt of one row. Nothing is saved."""
    number = parse_id(draft.row) or 1
    values: dict[str, Any] = {"faults": [], "row": number, "problem": None, "preview": None}
    try:
        task = parse_draft(get_files(request), draft.text, parse_id(draft.task_id))
        values |= {"summary": _summarize(task), "warnings": task.warnings}
        if dataset_id := parse_id(draft.dataset_id):
            try:
                values["preview"] = preview_row(task, open_table(request, dataset_id), number)
            except MedtaskError as error:
                values["problem"] = describe_problem(error)
    except TaskFaults as error:
        values["faults"] = error.faults
    return render_page(request, "task_checks.html", values)


def _count_by_task(session: Session, table: type[StoredModel | StoredRun]) -> dict[int, int]:
    rows = session.execute(select(table.task_id, func.count()).group_by(table.task_id))
    return dict(rows.all())


def _summarize(task: Task) -> str:
    labels = f" with {format_count(len(task.labels), 'label')}" if task.labels else ""
    passes = f", {format_count(len(task.passes), 'further pass', 'further passes')}"
    return f"Kind {task.kind}{labels}{passes if task.passes else ''}"


def _find_fitting_dataset(
    files: DataFolder, task: StoredTask, datasets: Sequence[StoredDataset]
) -> int | None:
    """The newest data set that has the columns of a task."""
    try:
        loaded = files.load_task(task.id)
    except MedtaskError:
        return None
    return next((one.id for one in datasets if not check_columns(loaded, one.columns)), None)


@cache
def _read_starters() -> dict[str, tuple[str, str]]:
    """The title and the text of each starter by its name. A file's first line is its title."""
    starters = {}
    for file in sorted(_STARTERS_FOLDER.glob("*.yaml")):
        title, _, text = file.read_text("utf-8").partition("\n")
        starters[file.stem.partition("-")[2]] = (title.removeprefix("#").strip(), text)
    return starters


def _draft_from_dataset(files: DataFolder, dataset: StoredDataset) -> str:
    """A task whose input and id are columns of a data set; its labels are placeholders.

    Raises:
        InputError: The file of the data set is not readable.
    """
    table = open_dataset(files, dataset)
    return draft_task_file(dataset.name, table.columns, list(islice(table, _SAMPLE_ROWS)))
