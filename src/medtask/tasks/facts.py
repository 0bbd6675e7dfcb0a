"""What is asked, as plain facts that a file can keep, and a task again from them: enough to read
answers and gold, not to ask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from medtask.tasks.task import (
    AnyLabels,
    Choice,
    Fields,
    Form,
    FreeText,
    Label,
    OneLabel,
    ScoredField,
    Task,
)

_FORMS: Mapping[str, type[Form]] = {
    "label": OneLabel,
    "labels": AnyLabels,
    "choice": Choice,
    "answer": FreeText,
    "fields": Fields,
}


def write_facts(task: Task) -> dict[str, Any]:
    """A task's question as JSON takes it: kind, form, labels, columns. Its examples and further
    passes are not kept.
    """
    facts = {
        "kind": task.kind,
        "instruction": task.instruction,
        "input": task.input,
        "form": asdict(task.form),
        "labels": [asdict(label) for label in task.labels],
        "abstain": asdict(task.abstain) if task.abstain else None,
        "columns": {"id": task.id_column, "gold": task.gold_column, "group": task.group_column},
        "phi": task.phi,
    }
    return dict(json.loads(json.dumps(facts)))


def read_facts(name: str, facts: Mapping[str, Any], *, fingerprint: str = "") -> Task:
    """The task that such facts are of; LookupError, TypeError or ValueError where they are none."""
    columns, abstain = facts["columns"], facts["abstain"]
    return Task(
        name=name,
        instruction=facts["instruction"],
        input=facts["input"],
        form=_read_form(facts["kind"], facts["form"]),
        labels=tuple(Label(**label) for label in facts["labels"]),
        abstain=Label(**abstain) if abstain else None,
        phi=facts["phi"],
        id_column=columns["id"],
        gold_column=columns["gold"],
        group_column=columns["group"],
        fingerprint=fingerprint,
    )


def bare_task(name: str, kind: str, labels: tuple[str, ...] = ()) -> Task:
    """The question that answers of which nothing else is known are taken for."""
    forms: dict[str, Form] = {
        "label": OneLabel(),
        "labels": AnyLabels(),
        "answer": FreeText(),
        "fields": Fields({}),
    }
    return Task(
        name=name,
        instruction="",
        input="",
        form=forms[kind],
        labels=tuple(Label(name, "", name) for name in labels),
    )


def _read_form(kind: str, facts: Mapping[str, Any]) -> Form:
    """JSON knows no tuples: what was one is one again."""
    plain: dict[str, Any] = {
        name: tuple(fact) if isinstance(fact, list) else fact for name, fact in facts.items()
    }
    if kind == "fields":
        plain["scored"] = tuple(
            ScoredField(tuple(one["path"]), tuple(one["values"])) for one in facts["scored"]
        )
        plain["quoted"] = tuple(map(tuple, facts["quoted"]))
    return _FORMS[kind](**plain)
