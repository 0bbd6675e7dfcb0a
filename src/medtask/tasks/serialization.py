"""Serialization of a task's question as JSON, for reading answers and gold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import Field

from medtask.json_content import JsonContent
from medtask.kinds import KindName
from medtask.tasks.kinds import TASK_KINDS
from medtask.tasks.task import Label, Task


class _StoredLabel(JsonContent):
    name: str
    definition: str
    say: str


class _StoredColumns(JsonContent):
    id: str | None
    gold: str | None
    group: str | None


class _StoredQuestion(JsonContent):
    kind: KindName
    instruction: str
    input: str
    form: dict[str, Any]
    labels: list[_StoredLabel]
    abstain: _StoredLabel | None
    columns: _StoredColumns
    phi: bool
    keywords: dict[str, list[str]] = Field(default_factory=dict)
    prompt_version: int = Field(1, ge=1)


def task_to_dict(task: Task) -> dict[str, Any]:
    """A task's question as a JSON object, without its examples and further passes."""
    content: dict[str, Any] = {
        "kind": task.kind,
        "instruction": task.instruction,
        "input": task.input,
        "form": asdict(task.answer_spec),
        "labels": [_label_to_dict(label) for label in task.labels],
        "abstain": _label_to_dict(task.abstain) if task.abstain else None,
        "columns": {"id": task.id_column, "gold": task.gold_column, "group": task.group_column},
        "phi": bool(task.phi),
        "prompt_version": task.prompt_version,
    }
    if task.keywords:
        content["keywords"] = {name: list(words) for name, words in task.keywords.items()}
    return dict(json.loads(json.dumps(content)))


def task_from_dict(name: str, content: Mapping[str, Any], *, fingerprint: str = "") -> Task:
    """The task from `task_to_dict`. Raises ValueError if not valid."""
    question = _StoredQuestion.model_validate(content)
    return Task(
        name=name,
        instruction=question.instruction,
        input=question.input,
        answer_spec=TASK_KINDS[question.kind].spec_from_dict(question.form),
        labels=tuple(map(_parse_label, question.labels)),
        abstain=_parse_label(question.abstain) if question.abstain else None,
        phi=question.phi or None,  # false can mean that the task file did not state it
        id_column=question.columns.id,
        gold_column=question.columns.gold,
        group_column=question.columns.group,
        keywords={name: tuple(words) for name, words in question.keywords.items()},
        prompt_version=question.prompt_version,
        fingerprint=fingerprint,
    )


def make_minimal_task(name: str, kind: str, labels: tuple[str, ...] = ()) -> Task:
    """A task for answers of which only the kind, and possibly the labels, are known."""
    return Task(
        name=name,
        instruction="",
        input="",
        answer_spec=TASK_KINDS[kind].make_minimal_spec(),
        labels=tuple(Label(name, "", name) for name in labels),
    )


def _label_to_dict(label: Label) -> dict[str, str]:
    # Manifests and model folders store the verbalizer under the key "say".
    return {"name": label.name, "definition": label.definition, "say": label.verbalizer}


def _parse_label(label: _StoredLabel) -> Label:
    return Label(label.name, label.definition, label.say)
