"""The pages on which one text or question is answered, and the steps to the first labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from medtask.engines.files.model_files import BUILT_IN_MODEL
from medtask.errors import MedtaskError
from medtask.server.access.requests import Labeller
from medtask.server.access.roles import Role
from medtask.server.api.calls import UserCall, ViewerReads
from medtask.server.api.run_views import describe_run
from medtask.server.database.base import Base
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


# The steps of a newcomer: what each makes, where, its title and its text.
_STEPS: Sequence[tuple[type[Base], str, str, str]] = (
    (
        StoredTask,
        "/tasks",
        "Write a task",
        "The question, and the answers that are allowed. The editor checks it while you type.",
    ),
    (
        StoredDataset,
        "/datasets",
        "Upload a data set",
        "A table with one text per row; a column with the right answers if you have one.",
    ),
    (
        StoredRun,
        "/runs",
        "Start a run",
        "Every row gets an answer with its probability, a table and a report.",
    ),
    (
        StoredModel,
        "/models",
        "Train a model",
        "From rows with right answers: TF-IDF in seconds, then larger models.",
    ),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a newcomer; it is done if there is at least one object."""

    title: str
    text: str
    address: str
    count: int
    may: bool


@router.get("/")
def show_start(call: ViewerReads, choice: str = "") -> Response:
    """The start page."""
    choices = _list_choices(call.session)
    chosen = choice if choice in choices else next(iter(choices), "")
    steps = _list_steps(call)
    newest = call.session.scalars(select(StoredRun).order_by(StoredRun.id.desc()).limit(MAX_RUNS))
    values: dict[str, Any] = {
        "choices": [(key, one.title) for key, one in choices.items()],
        "choice": chosen,
        "steps": steps,
        "runs": [describe_run(call.session, run) for run in newest],
    }
    if chosen:
        values |= _describe_question(call, choices[chosen])
    return call.render("start.html", values)


@router.get("/ask")
def show_ask(request: Request, user: Labeller) -> Response:
    """The form of a question. Its answer is that of POST /ask, word by word."""
    return render_page(request, "ask.html", {"default_model": BUILT_IN_MODEL})


def _list_choices(session: Session) -> dict[str, Choice]:
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


def _describe_question(call: UserCall, choice: Choice) -> dict[str, Any]:
    """The form of a task: one text for each column of its input."""
    columns: Sequence[str] = ()
    problem = None
    try:
        task = call.files.load_task(choice.task_id)
        columns = sorted(find_prompt_columns(task), key=task.input.find)
    except MedtaskError as error:
        problem = describe_problem(error)
    return {
        "task": call.get(StoredTask, choice.task_id),
        "target": list(choice.target.items()),
        "columns": columns,
        "problem": problem,
    }


def _list_steps(call: UserCall) -> list[Step]:
    steps = []
    for table, address, title, text in _STEPS:
        count = call.session.scalar(select(func.count()).select_from(table)) or 0
        has_form = not count and table is not StoredDataset  # tables are uploaded beside the list
        may = bool(count) or call.user.role >= Role.TRAINER
        steps.append(Step(title, text, f"{address}/new" if has_form else address, count, may))
    return steps
