"""Tasks that consist of one question which a user asks, without a task file."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from medtask.tasks.fingerprint import fingerprint_task
from medtask.tasks.task import AnswerSpec, Reasoning, Task

QUESTION_COLUMN = "question"
CONTEXT_COLUMN = "context"
OPTIONS_COLUMN = "options"


@lru_cache(maxsize=64)
def make_question_task(answer_spec: AnswerSpec, reasoning: Reasoning | None = None) -> Task:
    """The task of a question in the column ``question``, with its options or context beside it."""
    task = Task(
        name="ask",
        instruction="Answer the question.",
        input="{{ " + QUESTION_COLUMN + " }}",
        answer_spec=answer_spec,
        reasoning=reasoning,
    )
    return replace(task, fingerprint=fingerprint_task(task))
