"""The start page: a text is classified, and the steps to the first labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import func, select

from medtask.errors import MedtaskError
from medtask.server.access.requests import Viewer
from medtask.server.access.roles import Role, User
from medtask.server.api.resources import get_files, get_row
from medtask.server.api.run_views import describe_run
from medtask.server.database.connect import ReadSession
from medtask.server.pages.lookups import BASES, list_tasks, list_usable_models
from medtask.server.problems import describe_problem
from medtask.server.rendering import render_page
from medtask.server.storage.tables import StoredDataset, StoredModel, StoredRun, StoredTask
from medtask.tasks.prompt import find_prompt_columns

router = APIRouter(include_in_schema=False)

MAX_RUNS = 5


@dataclass(frozen=True, slots=True)
class Choice:
    """A task with a model that answers it.

    Attributes:
        target: The fields of a request to /classify that name them.
    """

    title: str
    task_id: int
    target: Mapping[str, int | str]


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a newcomer; it is done if there is at least one object."""

    title: str
    text: str
    address: str
    count: int
    may: bool


@router.get("/")
def show_start(request: Request, session: ReadSession, user: Viewer, choice: str = "") -> Response:
    """The start page."""
    choices = _list_choices(session)
    chosen = choice if choice in choices else next(iter(choices), "")
    steps = _list_steps(session, user)
    newest = session.scalars(select(StoredRun).order_by(StoredRun.id.desc()).limit(MAX_RUNS))
    values: dict[str, Any] = {
        "choices": [(key, one.title) for key, one in choices.items()],
        "choice": chosen,
        "steps": steps,
        "all_done": all(step.count for step in steps),
        "runs": [describe_run(session, run) for run in newest],
    }
    if chosen:
        values |= _describe_question(request, session, choices[chosen])
    return render_page(request, "start.html", values)


def _list_choices(session: ReadSession) -> dict[str, Choice]:
    """Trained models first, then every task with the built-in models."""
    choices = {
        f"model-{model.id}": Choice(f"{task}: {model.name}", model.task_id, {"model_id": model.id})
        for model, task in list_usable_models(session)
    }
    for task in list_tasks(session):
        for base in BASES:
            target: dict[str, int | str] = {"task_id": task.id, "model": base}
            key = f"task-{task.id}-{base}"
            choices[key] = Choice(f"{task.name}: {base} (built in)", task.id, target)
    return choices


def _describe_question(request: Request, session: ReadSession, choice: Choice) -> dict[str, Any]:
    """The form of a task: one text for each column of its input."""
    columns: Sequence[str] = ()
    problem = None
    try:
        task = get_files(request).load_task(choice.task_id)
        columns = sorted(find_prompt_columns(task), key=task.input.find)
    except MedtaskError as error:
        problem = describe_problem(error)
    return {
        "task": get_row(session, StoredTask, choice.task_id, "task"),
        "target": list(choice.target.items()),
        "columns": columns,
        "problem": problem,
    }


def _list_steps(session: ReadSession, user: User) -> list[Step]:
    may_train = user.role >= Role.TRAINER
    counts = {
        table: session.scalar(select(func.count()).select_from(table)) or 0
        for table in (StoredTask, StoredDataset, StoredRun, StoredModel)
    }
    return [
        Step(
            "Write a task",
            "The question, and the answers that are allowed. The editor checks it while you type.",
            "/tasks" if counts[StoredTask] else "/tasks/new",
            counts[StoredTask],
            may_train or bool(counts[StoredTask]),
        ),
        Step(
            "Upload a data set",
            "A table with one text per row; a column with the right answers if you have one.",
            "/datasets",
            counts[StoredDataset],
            may_train or bool(counts[StoredDataset]),
        ),
        Step(
            "Start a run",
            "Every row gets an answer with its probability, a table and a report.",
            "/runs" if counts[StoredRun] else "/runs/new",
            counts[StoredRun],
            may_train or bool(counts[StoredRun]),
        ),
        Step(
            "Train a model",
            "From rows with right answers: TF-IDF in seconds, then larger models.",
            "/models" if counts[StoredModel] else "/models/new",
            counts[StoredModel],
            may_train or bool(counts[StoredModel]),
        ),
    ]
