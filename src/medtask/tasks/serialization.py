"""Serialization of a task's question as JSON, for reading answers and gold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from medtask.tasks.kinds import TASK_KINDS
from medtask.tasks.task import Label, Task


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
    }
    if task.keywords:
        content["keywords"] = {name: list(words) for name, words in task.keywords.items()}
    return dict(json.loads(json.dumps(content)))


def task_from_dict(name: str, content: Mapping[str, Any], *, fingerprint: str = "") -> Task:
    """The task from `task_to_dict`. Raises LookupError, TypeError or ValueError if not valid."""
    columns, abstain = content["columns"], content["abstain"]
    return Task(
        name=name,
        instruction=content["instruction"],
        input=content["input"],
        answer_spec=TASK_KINDS[content["kind"]].spec_from_dict(content["form"]),
        labels=tuple(map(_label_from_dict, content["labels"])),
        abstain=_label_from_dict(abstain) if abstain else None,
        phi=content["phi"] or None,  # false can mean that the task file did not state it
        id_column=columns["id"],
        gold_column=columns["gold"],
        group_column=columns["group"],
        keywords={name: tuple(words) for name, words in content.get("keywords", {}).items()},
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


def _label_from_dict(content: Mapping[str, str]) -> Label:
    return Label(content["name"], content["definition"], content["say"])
