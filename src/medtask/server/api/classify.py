"""Classification of texts while the client waits."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from medtask.display import format_list
from medtask.server.access.requests import Labeller
from medtask.server.api.answers import AnswerView, describe_answer
from medtask.server.api.model_questions import (
    QuestionSource,
    answer_rows_of_request,
    find_question,
    find_text_column,
)
from medtask.server.api.resources import IdField
from medtask.server.inference.execution import MAX_TIMEOUT_S, get_inference
from medtask.server.inference.requests import ModelRequest
from medtask.server.problems import NotValid
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.task import Task

router = APIRouter(tags=["answers"])

Timeout = Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, description="Seconds to wait.")]
Reference = Annotated[str, Field(min_length=1, max_length=500)]


class ClassificationRequest(BaseModel):
    """One text, many texts, or rows with the columns of the task.

    Any other field is a column of one row: ``{"title": ..., "abstract": ..., "model_id": 3}``.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"title": "Statins and stroke", "abstract": "We ...", "model_id": 1}]
        },
    )

    model_id: IdField | None = Field(None, description="A model of this server, with its task.")
    task_id: IdField | None = Field(None, description="A task of this server.")
    model: Reference | None = Field(None, description="A model for task_id; default: its own.")
    text: str | None = None
    texts: list[str] | None = Field(None, min_length=1)
    rows: list[dict[str, Any]] | None = Field(None, min_length=1)
    timeout_s: Timeout | None = None


class Classification(AnswerView):
    """The answer for one text."""

    model: str
    task: str
    predicted_domains: list[str] = Field(description="The labels of the answer.")


class Classifications(BaseModel):
    """The answers for several texts, in their order."""

    answers: list[AnswerView]
    model: str
    task: str


@router.post("/classify", response_model=Classification | Classifications)
@router.post(
    "/api/classify", response_model=Classification | Classifications, include_in_schema=False
)
async def classify(request: Request, body: ClassificationRequest, user: Labeller) -> dict[str, Any]:
    """Classify texts. Texts of many clients are read together; answers are those of a run."""

    def work(model_request: ModelRequest) -> dict[str, Any]:
        source = QuestionSource(body.model_id, body.task_id, body.model)
        question = find_question(request, user, source)
        is_single, rows = _list_rows(question.task, body)
        answers = answer_rows_of_request(request, question, rows, model_request)
        views = [describe_answer(question.task, answer) for answer in answers]
        names = {"model": question.name, "task": question.task.name}
        if not is_single:
            return {"answers": views, **names}
        return {**views[0], **names, "predicted_domains": _list_labels(views[0]["answer"])}

    return await get_inference(request).run(request, work, body.timeout_s)


def _list_rows(task: Task, body: ClassificationRequest) -> tuple[bool, list[dict[str, Any]]]:
    """Whether the request has a single text, and its rows."""
    columns = body.model_extra or {}
    given = [name for name in ("text", "texts", "rows") if getattr(body, name) is not None]
    # A column of the task may have the name of a field.
    if body.text is not None and columns and "text" in find_prompt_columns(task):
        given, columns = [], {**columns, "text": body.text}
    if len(given) + bool(columns) != 1:
        what = [*given, *sorted(columns)]
        raise NotValid(
            f"the request gives {format_list(what)}" if what else "the request has no text",
            fix='give one of "text", "texts" and "rows", or the columns of the task',
        )
    if body.rows is not None:
        return False, body.rows
    if body.texts is not None:
        column = find_text_column(task)
        return False, [{column: text} for text in body.texts]
    row = columns or {find_text_column(task): body.text}
    if not any(str(cell).strip() for cell in row.values() if cell is not None):
        raise NotValid("the text is empty", fix="send a text with at least one word")
    return True, [row]


def _list_labels(value: object) -> list[str]:
    if value is None:
        return []
    return [str(name) for name in value] if isinstance(value, list | tuple) else [str(value)]
