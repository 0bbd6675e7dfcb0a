"""The words of a prompt, kind by kind: what stands before the row's text, around it, and what a
model would answer.

Everything that is the same for all rows stands first (the head), what the row brings last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medtask.records import Option, Value
from medtask.tasks.field_values import format_json
from medtask.tasks.task import (
    Fields,
    FreeText,
    Label,
    MultiLabel,
    MultipleChoice,
    SingleLabel,
    Task,
)

ABSTAIN_DEFINITION = "if the text does not say enough to decide"
YES_NO = ("yes", "no")
_INDENT = "  "


def format_open_tag(section: str) -> str:
    return f"<{section}>"


def format_close_tag(section: str) -> str:
    return f"</{section}>"


def write_instructions(task: Task) -> str:
    """The instruction, what there is to choose from, and how to answer."""
    match task.answer_spec:
        case SingleLabel(readout=readout):
            way = f"Answer with the {'code' if readout == 'code' else 'label'} alone."
            body = ["Choose exactly one of these labels:", *_list_labels(task, readout), "", way]
        case MultiLabel():
            way = _ask_for_each("label", "its name")
            body = [
                "Decide for each of these labels whether it applies:",
                *_list_labels(task, "name"),
                "",
                way,
            ]
        case MultipleChoice(several=True):
            body = [
                "Any number of the options can be right.",
                _ask_for_each("option", "its letter"),
            ]
        case MultipleChoice(readout="text"):
            body = ["Exactly one of the options is right. Answer with that option alone."]
        case MultipleChoice():
            body = ["Exactly one of the options is right. Answer with its letter alone."]
        case FreeText(sections=sections):
            body = [_ask_for_sections(sections)] if sections else []
        case Fields(schema=schema):
            null = (
                " Write null for what the text does not say."
                if "null" in json.dumps(schema)
                else ""
            )
            way = (
                f"Answer with one JSON object on one line that has all fields, in this order.{null}"
            )
            body = ["Fill in these fields from the text:", *_list_fields(schema, ""), "", way]
    return "\n".join([task.instruction.strip(), "", *body]).rstrip()


def _ask_for_each(what: str, name: str) -> str:
    return f"For each {what} write {name}, a colon, and {' or '.join(YES_NO)}."


def _list_labels(task: Task, readout: str) -> list[str]:
    lines = [_write_label(label, label.definition, readout) for label in task.labels]
    if task.abstain:
        lines.append(
            _write_label(task.abstain, task.abstain.definition or ABSTAIN_DEFINITION, readout)
        )
    return lines


def _write_label(label: Label, definition: str, readout: str) -> str:
    bullet = f"{label.verbalizer} = {label.name}" if readout == "code" else f"- {label.name}"
    return f"{bullet}: {definition}" if definition else bullet


def _ask_for_sections(sections: Sequence[str]) -> str:
    first, *others = [
        f"your {section} between {format_open_tag(section)} and {format_close_tag(section)}"
        for section in sections
    ]
    return f"Write {', then '.join([first, *others])}."


def write_question(task: Task, text: str, context: str = "") -> str:
    """The row's part of the user's turn, without its options."""
    match task.answer_spec:
        case FreeText():
            return f"Context: {context}\n\nQuestion: {text}" if context else text
        case MultipleChoice():
            return f"Question: {text}"
    return f"Text: {text}"


def write_options(answer_spec: MultipleChoice, options: Sequence[Option]) -> str:
    """The block that lists a row's options, as it follows the question."""
    bare = answer_spec.readout == "text"
    return "\n".join(
        [
            "\n\nOptions:",
            *(
                f"- {option.text}" if bare else f"{option.letter}. {option.text}"
                for option in options
            ),
        ]
    )


def write_answer(task: Task, answer: Value, options: Sequence[Option] = ()) -> str:
    """What the model's turn of a worked example says. KeyError or ValueError where the task has no
    such answer.
    """
    match task.answer_spec:
        case SingleLabel():
            return {label.name: label.verbalizer for label in task.candidates}[str(answer)]
        case MultiLabel():
            names = [label.name for label in task.labels]
            return _write_yes_no_lines(names, names, answer)
        case MultipleChoice(several=True):
            letters = [option.letter for option in options]
            return _write_yes_no_lines(letters, letters, answer)
        case MultipleChoice(readout="text"):
            return {option.letter: option.text for option in options}[str(answer)]
        case MultipleChoice():
            return {option.letter: option.letter for option in options}[str(answer)]
        case FreeText(sections=sections) if sections and format_open_tag(sections[-1]) not in str(
            answer
        ):
            return f"{format_open_tag(sections[-1])}{answer}{format_close_tag(sections[-1])}"
        case Fields():
            return format_json(answer)
    return str(answer)


def _write_yes_no_lines(names: Sequence[str], allowed: Sequence[str], answer: Value) -> str:
    if unknown := set(answer) - set(allowed):
        raise KeyError(*unknown)
    return "\n".join(f"{name}: {YES_NO[0] if name in answer else YES_NO[1]}" for name in names)


def _list_fields(schema: Mapping[str, Any], indent: str) -> Iterator[str]:
    """``- size: number from 0 to 300, or null; in mm`` for every field, nested ones below
    theirs.
    """
    for name, part in schema["properties"].items():
        note = part.get("description", "")
        yield f"{indent}- {name}: {_describe_type(part)}{f'; {note}' if note else ''}"
        inner = part.get("items", part)
        while "items" in inner:
            inner = inner["items"]
        if "properties" in inner:
            yield from _list_fields(inner, indent + _INDENT)


def _describe_type(part: Mapping[str, Any]) -> str:
    kinds = part.get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    may_be_null = "null" in kinds or None in part.get("enum", ())
    return _describe_value(part, next((kind for kind in kinds if kind != "null"), "")) + (
        ", or null" if may_be_null else ""
    )


def _describe_value(part: Mapping[str, Any], kind: str) -> str:
    if "enum" in part:
        values = [
            json.dumps(value, ensure_ascii=False) for value in part["enum"] if value is not None
        ]
        return f"one of {', '.join(values)}" if len(values) > 1 else values[0]
    if part.get("quote"):
        return "the words of the text that say so, copied letter by letter"
    match kind:
        case "boolean":
            return "true or false"
        case "array":
            return f"list of {_count_items(part)}{_describe_type(part['items'])}"
        case "object":
            return "object with these fields"
        case "string":
            shape = {"date": "date as YYYY-MM-DD", "time": "time as HH:MM:SS"}.get(
                part.get("format", ""), part.get("format", "text")
            )
            return (
                f"{shape} of at most {part['maxLength']} characters"
                if "maxLength" in part
                else shape
            )
    noun = "whole number" if kind == "integer" else "number"
    return f"{noun}{_format_bounds(part.get('minimum'), part.get('maximum'))}"


def _count_items(part: Mapping[str, Any]) -> str:
    bounds = _format_bounds(part.get("minItems"), part.get("maxItems"))
    return f"{bounds.strip()}: " if bounds else ""


def _format_bounds(minimum: object, maximum: object) -> str:
    if minimum is None:
        return "" if maximum is None else f" up to {maximum}"
    return f" from {minimum} on" if maximum is None else f" from {minimum} to {maximum}"
