"""The keys of a task file and the types of their values; what labels and examples hold is checked beside this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from medtask.errors import TaskFault
from medtask.tasks.hints import closest, did_you_mean, quote
from medtask.tasks.source import Document, KeyPath, NullWord

LISTED_FAULTS = 50
OTHER_KINDS = ("labels", "choice", "answer", "fields")

_Given = BeforeValidator(lambda value: None if isinstance(value, NullWord) else value)
_Text = Annotated[str, Field(min_length=1), _Given]
_OptionalText = Annotated[Annotated[str, Field(min_length=1)] | None, _Given]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class ReviewPart(_Part):
    confidence_below: _Share = 0.5
    off_set_above: _Share = 0.9


class AnswerPart(_Part):
    kind: Literal["label"]
    labels: Any
    abstain: Any = None
    readout: Literal["name", "code"] = "name"


class TaskPart(_Part):
    name: _OptionalText = None
    instruction: _Text
    input: _Text
    id: _OptionalText = None
    gold: _OptionalText = None
    data: _OptionalText = None
    model: _OptionalText = None
    answer: AnswerPart
    examples: Any = None
    review: Annotated[ReviewPart | None, _Given] = None


_PARTS: Mapping[KeyPath, type[_Part]] = {(): TaskPart, ("answer",): AnswerPart, ("review",): ReviewPart}
_HOMES: Mapping[str, KeyPath] = {key: path for path, part in _PARTS.items() for key in part.model_fields}


def settle_keys(document: Document) -> tuple[Document, list[TaskFault]]:
    """The document with known keys only, and a fault for every other key.

    A key that is nearly right is read as the one that was meant, so that the faults behind it are found as well.
    """
    faults: list[TaskFault] = []
    for path in _PARTS:
        document, found = _settle_part(document, path)
        faults += found
    return document, faults


def _settle_part(document: Document, path: KeyPath) -> tuple[Document, list[TaskFault]]:
    home = str(path[0]) if path else None
    part = document.data.get(home) if home else document.data
    if not isinstance(part, dict):
        return document, []
    known = _PARTS[path].model_fields
    settled = {key: value for key, value in part.items() if key in known}
    faults = []
    lines, blocks = document.lines, document.blocks
    unknown = [key for key in part if key not in known]
    for key in unknown[:LISTED_FAULTS]:
        faults.append(document.fault(f"unknown key {quote(key)}{_hint_key(key, path)}", *path, key))
        meant = closest(key, known)
        if meant and meant not in settled and key not in _HOMES:
            settled[meant] = part[key]
            lines, blocks = (_move(places, (*path, key), (*path, meant)) for places in (lines, blocks))
    if len(unknown) > LISTED_FAULTS:
        faults.append(document.fault(f"and {len(unknown) - LISTED_FAULTS:,} more unknown keys", *path))
    data = {**document.data, home: settled} if home else settled
    return replace(document, data=data, lines=lines, blocks=blocks), faults


def _hint_key(key: str, path: KeyPath) -> str:
    if near := did_you_mean(key, () if key in _HOMES else _PARTS[path].model_fields):
        return near
    if meant := closest(key, _HOMES):
        home = f"under {quote(_HOMES[meant][0])}" if _HOMES[meant] else "beside instruction, at the left"
        return f" - {quote(meant)} belongs {home}"
    return f" - there are {', '.join(_PARTS[path].model_fields)}"


def _move(places: Mapping[KeyPath, int], old: KeyPath, new: KeyPath) -> dict[KeyPath, int]:
    return {(*new, *path[len(old) :]) if path[: len(old)] == old else path: line for path, line in places.items()}


def validate_values(document: Document) -> tuple[TaskPart | None, list[TaskFault]]:
    """The task's plain values, or every fault in them."""
    try:
        return TaskPart.model_validate(document.data), []
    except ValidationError as error:
        return None, [document.fault(_explain(fault["type"], fault["loc"], fault["input"]), *fault["loc"]) for fault in error.errors()]


def _explain(kind: str, path: KeyPath, value: object) -> str:
    key = quote(path[-1])
    match kind:
        case "missing":
            return f"{key} is missing" if len(path) == 1 else f"{quote(path[0])} has no {key}"
        case "literal_error" if path[-1] == "kind":
            return _explain_kind(value)
        case "literal_error":
            return f"{key} is {quote(value)} - it can be name or code"
        case "model_type":
            keys = ", ".join(_PARTS[path].model_fields)
            return f"{key} holds keys of its own: {keys}"
        case "string_type" if isinstance(value, dict | list):
            return f"{key} must be a text - put \" around it"
        case "string_type" | "string_too_short":
            return f"{key} is blank"
        case _:
            return f"{key} must be a number from 0 to 1"


def _explain_kind(value: object) -> str:
    if value in OTHER_KINDS:
        return f"the kind {quote(value)} does not exist in this version - it knows label"
    return f"unknown kind {quote(value)} - this version knows label"
