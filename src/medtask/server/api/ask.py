"""A question or a case, answered with an analysis while the client waits."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from medtask.display import format_list
from medtask.server.access.requests import Labeller
from medtask.server.access.roles import User
from medtask.server.api.answers import AnswerView, describe_answer
from medtask.server.api.classify import Reference, Timeout
from medtask.server.api.model_questions import (
    QuestionSource,
    answer_rows_of_request,
    find_question,
    find_text_column,
)
from medtask.server.api.resources import IdField
from medtask.server.inference.execution import get_inference
from medtask.server.inference.requests import ModelRequest
from medtask.server.problems import NotValid
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.single_question import (
    CONTEXT_COLUMN,
    OPTIONS_COLUMN,
    QUESTION_COLUMN,
    make_question_task,
)
from medtask.tasks.task import FreeText, MultipleChoice, Reasoning, Task

router = APIRouter(tags=["answers"])

MAX_ANSWER_TOKENS = 4096
ANALYSIS_TOKENS = 256
_CHOICE = MultipleChoice(columns=(OPTIONS_COLUMN,))
# Parts of a request that only a question without a task of the server can set.
_SETTINGS = frozenset({"analysis_tokens", "max_tokens", "temperature", "seed"})


class AskRequest(BaseModel):
    """A question, a case, or a case with a question about it; with options, one is chosen."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "case": "A 60-year-old man has crushing chest pain for an hour.",
                    "question": "What is the next step?",
                    "options": {"A": "ECG", "B": "Chest X-ray"},
                }
            ]
        },
    )

    question: str | None = None
    case: str | None = None
    options: dict[str, str] | list[str] | str | None = Field(
        None, description="Options by letter, in order, or as lines of a text."
    )
    context: str | None = Field(None, description="A text that is shown before the question.")
    model: Reference | None = Field(None, description="Default: smollm2-135m.")
    model_id: IdField | None = Field(None, description="A model of this server, with its task.")
    task_id: IdField | None = Field(None, description="A task of this server.")
    analysis_tokens: int = Field(
        ANALYSIS_TOKENS, ge=0, le=MAX_ANSWER_TOKENS, description="0 for no analysis."
    )
    max_tokens: int = Field(256, ge=1, le=MAX_ANSWER_TOKENS)
    temperature: float = Field(0.0, ge=0, le=10)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    stream: bool = Field(False, description="Send server-sent events while the text is written.")
    timeout_s: Timeout | None = None


class AskAnswer(AnswerView):
    """The analysis, and the answer: a letter with options, otherwise a text."""

    option: str | None = Field(None, description="The text of the chosen option.")
    truncated: bool = Field(description="Whether the text was cut after its last sentence.")
    model: str


_STREAM_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "description": "The answer; with `stream` the events `thought`, `text`, `answer`.",
    }
}


@router.post("/ask", response_model=AskAnswer, responses=_STREAM_RESPONSE)
@router.post("/api/ask", response_model=AskAnswer, include_in_schema=False)
async def ask(request: Request, body: AskRequest, user: Labeller) -> Any:
    """Answer one question. With options the answer is one of them, with all probabilities."""

    def work(model_request: ModelRequest) -> dict[str, Any]:
        return _answer(request, user, body, model_request)

    service = get_inference(request)
    if body.stream or "text/event-stream" in request.headers.get("accept", ""):
        response: Response = await service.stream(request, work, body.timeout_s)
        return response
    return await service.run(request, work, body.timeout_s)


def _answer(
    request: Request, user: User, body: AskRequest, model_request: ModelRequest
) -> dict[str, Any]:
    text = "\n\n".join(part.strip() for part in (body.case, body.question) if part)
    if not text:
        raise NotValid("there is no question", fix='give "question", "case", or both')
    source = QuestionSource(body.model_id, body.task_id, body.model, _make_task(body))
    question = find_question(request, user, source)
    row = _make_row(question.task, body, text)
    options = _read_option_texts(question.task, row)
    (answer,) = answer_rows_of_request(request, question, [row], model_request)
    view = describe_answer(question.task, answer)
    view["option"] = options.get(answer.value) if isinstance(answer.value, str) else None
    view["truncated"] = answer.status == "truncated"
    view["model"] = question.name
    return AskAnswer(**view).model_dump(mode="json", by_alias=True)


def _make_task(body: AskRequest) -> Task:
    """The task of a question without a task of the server."""
    reasoning = Reasoning(body.analysis_tokens) if body.analysis_tokens else None
    if body.options is not None:
        return make_question_task(_CHOICE, reasoning)
    spec = FreeText(
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        seed=body.seed,
        context=CONTEXT_COLUMN if body.context else None,
    )
    return make_question_task(spec, reasoning)


def _make_row(task: Task, body: AskRequest, text: str) -> dict[str, Any]:
    """The columns of a task from the parts of a question."""
    if body.task_id is None and body.model_id is None:
        if body.options is not None and body.context:
            text = f"{body.context}\n\n{text}"
        row: dict[str, Any] = {QUESTION_COLUMN: text, CONTEXT_COLUMN: body.context or ""}
    else:
        row = _make_row_of_stored_task(task, body, text)
    if body.options is not None:
        columns = get_task_kind(task).columns
        if not task.kind_spec.has_options or len(columns) != 1:
            raise NotValid(
                "the task does not read options from one column", fix="leave out the options"
            )
        row[columns[0]] = body.options
    return row


def _make_row_of_stored_task(task: Task, body: AskRequest, text: str) -> dict[str, Any]:
    if given := sorted(_SETTINGS & body.model_fields_set):
        raise NotValid(
            f"the task determines {format_list(given)}",
            fix="leave it out, or ask without task_id and model_id",
        )
    row: dict[str, Any] = {find_text_column(task): text}
    contexts = () if task.kind_spec.has_options else get_task_kind(task).columns
    if contexts:
        row[contexts[0]] = body.context or ""
    elif body.context:
        raise NotValid(
            "the task has no context before its question", fix="write it into the question"
        )
    return row


def _read_option_texts(task: Task, row: dict[str, Any]) -> dict[str, str]:
    """The options of a row by letter; raises NotValid if they cannot be read."""
    extras = get_task_kind(task).read_extras(row)
    if isinstance(extras, str):
        raise NotValid(extras, fix='give "options" as {"A": "...", "B": "..."} with two or more')
    return {option.letter: option.text for option in extras.options}
