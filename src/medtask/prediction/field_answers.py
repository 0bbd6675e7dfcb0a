"""JSON objects written by a model: parsing, and branches for their enums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medtask.records import Branch
from medtask.tasks.field_values import format_json
from medtask.tasks.task import Fields, ScoredField


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object in ``text``; None if it is not one."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def build_field_branches(
    spec: Fields, value: Mapping[str, Any]
) -> list[tuple[ScoredField, Branch]]:
    """The enum and boolean fields of a written object, each with a branch over its values.

    The prefix of a branch is everything written before the value. Fields in a null object are
    omitted.
    """
    found = []
    for field in spec.scored:
        prefix = _write_prefix(value, field.path)
        if prefix is not None:
            found.append(
                (field, Branch(prefix, tuple(format_json(outcome) for outcome in field.values)))
            )
    return found


def find_outcome(field: ScoredField, value: Mapping[str, Any]) -> str:
    """The outcome (see `ScoredField.outcomes`) of a written field value."""
    inner: Any = value
    for key in field.path:
        inner = inner[key]
    # True == 1 in Python, but not in JSON.
    return next(
        name
        for name, outcome in zip(field.outcomes, field.values, strict=True)
        if format_json(outcome) == format_json(inner)
    )


def _write_prefix(value: Mapping[str, Any], path: tuple[str, ...]) -> str | None:
    """The JSON text of ``value`` up to the value at ``path``; None if there is no such value."""
    written = "{"
    for key, inner in value.items():
        if key != path[0]:
            written += f"{format_json(key)}:{format_json(inner)},"
            continue
        written += f"{format_json(key)}:"
        if len(path) == 1:
            return written
        rest = _write_prefix(inner, path[1:]) if isinstance(inner, dict) else None
        return None if rest is None else written + rest
    return None
