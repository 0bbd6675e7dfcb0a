"""What is asked, as plain facts that a file can keep, and a task again from them: enough to read
answers and gold, not to ask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from medtask.tasks.task import (
    AnswerSpec,
    Fields,
    FreeText,
    Label,
    MultiLabel,
    MultipleChoice,
    ScoredField,
    SingleLabel,
    Task,
)

_ANSWER_SPECS: Mapping[str, type[AnswerSpec]] = {
    "label": SingleLabel,
    "labels": MultiLabel,
    "choice": MultipleChoice,
    "answer": FreeText,
    "fields": Fields,
}


def task_to_dict(task: Task) -> dict[str, Any]:
    """A task's question as JSON takes it: kind, form, labels, columns. Its examples and further
    passes are not kept.
    """
    content = {
        "kind": task.kind,
        "instruction": task.instruction,
        "input": task.input,
        "form": asdict(task.answer_spec),
        "labels": [_label_to_dict(label) for label in task.labels],
        "abstain": _label_to_dict(task.abstain) if task.abstain else None,
        "columns": {"id": task.id_column, "gold": task.gold_column, "group": task.group_column},
        "phi": task.phi,
    }
    return dict(json.loads(json.dumps(content)))


def task_from_dict(name: str, content: Mapping[str, Any], *, fingerprint: str = "") -> Task:
    """The task that such facts are of; LookupError, TypeError or ValueError where they are none."""
    columns, abstain = content["columns"], content["abstain"]
    return Task(
        name=name,
        instruction=content["instruction"],
        input=content["input"],
        answer_spec=_answer_spec_from_dict(content["kind"], content["form"]),
        labels=tuple(map(_label_from_dict, content["labels"])),
        abstain=_label_from_dict(abstain) if abstain else None,
        phi=content["phi"],
        id_column=columns["id"],
        gold_column=columns["gold"],
        group_column=columns["group"],
        fingerprint=fingerprint,
    )


def make_minimal_task(name: str, kind: str, labels: tuple[str, ...] = ()) -> Task:
    """The question that answers of which nothing else is known are taken for."""
    answer_specs: dict[str, AnswerSpec] = {
        "label": SingleLabel(),
        "labels": MultiLabel(),
        "answer": FreeText(),
        "fields": Fields({}),
    }
    return Task(
        name=name,
        instruction="",
        input="",
        answer_spec=answer_specs[kind],
        labels=tuple(Label(name, "", name) for name in labels),
    )


def _label_to_dict(label: Label) -> dict[str, str]:
    # Manifests and trained folders have the verbalizer under the key "say".
    return {"name": label.name, "definition": label.definition, "say": label.verbalizer}


def _label_from_dict(content: Mapping[str, str]) -> Label:
    return Label(content["name"], content["definition"], content["say"])


def _answer_spec_from_dict(kind: str, content: Mapping[str, Any]) -> AnswerSpec:
    """JSON knows no tuples: what was one is one again."""
    plain: dict[str, Any] = {
        name: tuple(fact) if isinstance(fact, list) else fact for name, fact in content.items()
    }
    if kind == "fields":
        plain["scored"] = tuple(
            ScoredField(tuple(one["path"]), tuple(one["values"])) for one in content["scored"]
        )
        plain["quoted"] = tuple(map(tuple, content["quoted"]))
    return _ANSWER_SPECS[kind](**plain)
