"""Kinds of questions in task files and prompts, with one module for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medtask.tasks.kinds.answer import AnswerKind
from medtask.tasks.kinds.base import TaskKind
from medtask.tasks.kinds.choice import ChoiceKind
from medtask.tasks.kinds.fields import FieldsKind
from medtask.tasks.kinds.label import LabelKind
from medtask.tasks.kinds.labels import LabelsKind
from medtask.tasks.task import Task

TASK_KINDS: Mapping[str, type[TaskKind[Any]]] = {
    "label": LabelKind,
    "labels": LabelsKind,
    "choice": ChoiceKind,
    "answer": AnswerKind,
    "fields": FieldsKind,
}


def get_task_kind(task: Task) -> TaskKind[Any]:
    """The `TaskKind` of a task."""
    return TASK_KINDS[task.kind](task)
