"""Which task and which model a request is about."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request
from sqlalchemy.orm import Session

from medtask.display import format_columns, quote
from medtask.engines.files.model_files import BUILT_IN_MODEL, MINILM
from medtask.engines.load_options import LoadOptions
from medtask.engines.registry import choose_engine
from medtask.records import Answer
from medtask.server.access.roles import Role, User
from medtask.server.api.resources import get_files, get_row
from medtask.server.database.connect import get_database
from medtask.server.inference.execution import get_inference
from medtask.server.inference.requests import ModelRequest
from medtask.server.inference.shared_prediction import predict_shared
from medtask.server.jobs.kind import find_model_reference
from medtask.server.problems import BodyTooLarge, NotPermitted, NotValid
from medtask.server.settings import RequestLimits
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredModel, StoredTask
from medtask.server.storage.task_files import check_model_reference
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.task import Task

_CACHED_TASKS = 64


@dataclass(frozen=True, slots=True)
class ModelQuestion:
    """A task, the reference of the model that is asked it, and the model's name for the client."""

    task: Task
    model: str
    name: str


@dataclass(frozen=True, slots=True)
class QuestionSource:
    """What a request says about its task and model.

    Attributes:
        model_id: A model of this server, which has its task.
        task_id: A task of this server.
        model: The reference of a model; by default that of the task.
        default_task: The task if no id is given; None if one is needed.
    """

    model_id: int | None = None
    task_id: int | None = None
    model: str | None = None
    default_task: Task | None = None


def find_question(request: Request, user: User, source: QuestionSource) -> ModelQuestion:
    """The task and the model of a request.

    Raises:
        NotFound: There is no such task or model.
        NotValid: Neither a task nor a model of this server is named.
        NotPermitted: The user may not choose this model.
        MedtaskError: The task or the model cannot be used.
    """
    files = get_files(request)
    with get_database(request).read() as session:
        if source.model_id is not None:
            if source.model is not None:
                raise NotValid("model_id and model name two models", fix="leave out one of the two")
            return _find_stored_model(session, files, source)
        if source.task_id is None and source.default_task is None:
            raise NotValid(
                "the request names no task",
                fix="give model_id, a model of /api/models, or task_id, a task of /api/tasks",
            )
        if source.model is not None:
            _check_reference(source.model, user)
        if source.task_id is None:
            assert source.default_task
            model = source.model or BUILT_IN_MODEL
            return ModelQuestion(source.default_task, model, model)
        get_row(session, StoredTask, source.task_id)
    task = load_stored_task(files, source.task_id)
    model = source.model or task.model or BUILT_IN_MODEL
    return ModelQuestion(task, model, model)


def _find_stored_model(
    session: Session, files: DataFolder, source: QuestionSource
) -> ModelQuestion:
    assert source.model_id is not None
    stored = get_row(session, StoredModel, source.model_id)
    if source.task_id not in (None, stored.task_id):
        raise NotValid(
            f"model {stored.id} belongs to task {stored.task_id}", fix="leave out task_id"
        )
    # The reference of a trained model is its folder, which is not for clients.
    return ModelQuestion(
        load_stored_task(files, stored.task_id),
        find_model_reference(session, files, stored.id),
        f"model {stored.id}",
    )


def _check_reference(reference: str, user: User) -> None:
    """Refuse paths to everybody, and other models than the built-in ones to most users.

    A model that is named for the first time is downloaded, and takes memory from others.
    """
    check_model_reference(reference)
    if user.role < Role.TRAINER and reference not in (BUILT_IN_MODEL, MINILM):
        raise NotPermitted(
            "only trainers may name a model that the server has not stored",
            fix=f"name {BUILT_IN_MODEL} or {MINILM}, or give model_id, a model of /api/models",
        )


_task_cache: OrderedDict[tuple[str, int, int], Task] = OrderedDict()
_task_cache_lock = threading.Lock()


def load_stored_task(files: DataFolder, task_id: int) -> Task:
    """A stored task; its file is read again only if it has changed."""
    file = files.get_task_file(task_id)
    if not file.exists():
        return files.load_task(task_id)  # raises the error of a missing file
    stat = file.stat()
    key = (str(file), stat.st_mtime_ns, stat.st_size)
    with _task_cache_lock:
        if key in _task_cache:
            _task_cache.move_to_end(key)
            return _task_cache[key]
    task = files.load_task(task_id)
    with _task_cache_lock:
        _task_cache[key] = task
        while len(_task_cache) > _CACHED_TASKS:
            _task_cache.popitem(last=False)
    return task


def find_text_column(task: Task) -> str:
    """The column that a bare text belongs to.

    Raises:
        NotValid: The input of the task has several columns.
    """
    options = set(get_task_kind(task).columns)
    columns = sorted(set(find_prompt_columns(task)) - options)
    if len(columns) == 1:
        return columns[0]
    if "text" in columns:
        return "text"
    raise NotValid(
        f"the input of the task uses {format_columns(columns)}",
        fix="send these as fields of the request, or of each object in rows",
    )


def answer_rows_of_request(
    request: Request,
    question: ModelQuestion,
    rows: Sequence[Mapping[str, Any]],
    model_request: ModelRequest,
) -> list[Answer]:
    """Answer the rows of a request, with the permissions and limits of the server.

    Raises:
        BodyTooLarge: A row is too long.
        NotValid: There are too many rows, or they lack a column.
        MedtaskError: The model cannot answer.
    """
    settings = request.app.state.settings
    task = question.task
    _check_rows(task, rows, settings.limits)
    # An id serves to find a row again; answers of a request are in the order of its rows.
    task = replace(task, id_column=None)
    server = choose_engine(question.model).spec.traits.server
    options = LoadOptions(allow_remote=settings.allow_remote and server)
    pool = get_inference(request).pool
    return list(predict_shared(pool, task, question.model, rows, model_request, options))


def _check_rows(task: Task, rows: Sequence[Mapping[str, Any]], limits: RequestLimits) -> None:
    if len(rows) > limits.rows_per_request:
        raise NotValid(
            f"a request has at most {limits.rows_per_request:,} texts",
            fix="send fewer at a time, or upload them as a data set and start a run",
        )
    columns = find_prompt_columns(task)
    for number, row in enumerate(rows, 1):
        missing = sorted(columns - row.keys())
        if missing and len(missing) == len(columns):
            raise NotValid(
                f"text {number} lacks {quote(missing[0])}, which the input of the task uses",
                fix=f"send {format_columns(sorted(columns))}",
            )
        length = sum(len(cell) for cell in row.values() if isinstance(cell, str))
        if length > limits.characters_per_text:
            raise BodyTooLarge(
                f"text {number} has {length:,} characters; at most "
                f"{limits.characters_per_text:,} are read",
                fix="shorten it, or send its parts one at a time",
            )
