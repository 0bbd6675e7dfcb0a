"""Kind ``fields``: an object that satisfies a JSON schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from medtask.display import format_count, quote
from medtask.records import Option, Value
from medtask.tables.cell_values import read_cell
from medtask.tasks.answer_form import AnswerForm
from medtask.tasks.config import COUNT, ConfigModel
from medtask.tasks.containers import parse_container
from medtask.tasks.field_schema import read_fields
from medtask.tasks.field_values import QUOTE_SUFFIX, coerce_value, find_value, format_json
from medtask.tasks.key_reference import KeyDescription
from medtask.tasks.kinds.base import MAX_GOLD_CHARACTERS, TaskKind
from medtask.tasks.reader import TaskReader
from medtask.tasks.schema_keywords import DATE_BOUNDS
from medtask.tasks.task import Fields
from medtask.tasks.text_cleaning import clean_text

_INDENT = "  "


class FieldsConfig(ConfigModel):
    kind: Any
    json_schema: Annotated[Any, Field(alias="schema")]  # "schema" is a method of pydantic models
    max_tokens: Annotated[int, COUNT] = 512


_KEYS: Mapping[str, KeyDescription] = {
    "schema": KeyDescription(
        "A JSON schema, or the path of one. Further keywords: `unit`, `nullable`, `quote`.",
        "schema: {type: object, properties: {stage: {enum: [I, II, III]}}}",
        {"type": ["object", "string"]},
    ),
    "max_tokens": KeyDescription("The maximum number of tokens.", "max_tokens: 512"),
}


class FieldsKind(TaskKind[Fields]):
    """No initial branches: they depend on the generated object."""

    config_type = FieldsConfig
    spec_type = Fields
    key_descriptions = _KEYS

    @classmethod
    def read_spec(
        cls, reader: TaskReader, config: FieldsConfig, label_names: Sequence[str]
    ) -> Fields:
        return read_fields(reader, config.json_schema, config.max_tokens)

    @classmethod
    def make_minimal_spec(cls) -> Fields:
        return Fields({})

    def parse_gold(self, row: Mapping[str, object], cell: object, text: str) -> Value:
        """A mapping, or a mapping as text, with values typed by the schema."""
        parsed = parse_container(cell)
        coerced = coerce_value(self.spec.schema, parsed, {}) if isinstance(parsed, dict) else None
        return coerced if isinstance(coerced, dict) else text

    def list_reading_columns(self, *, wide: bool) -> tuple[str, ...]:
        names = _list_leaves(self.spec.schema) if wide else []
        return tuple(f"answer.{name}" for name in names)

    def read_reading_cells(
        self, row: Mapping[str, object], value: object, quotes: Mapping[str, str]
    ) -> dict[str, object]:
        cells: dict[str, object] = {}
        for name in _list_leaves(self.spec.schema):
            inner = find_value(value, name.split("."))
            if isinstance(inner, float) and inner.is_integer():
                inner = int(inner)  # as in the object: Parquet has 18 as 18.0
            is_nested = isinstance(inner, list | Mapping)
            cells[f"answer.{name}"] = format_json(inner) if is_nested else inner
        return cells | {f"answer.{name}{QUOTE_SUFFIX}": text for name, text in quotes.items()}

    def find_invalid_gold(self, row: Mapping[str, object], gold: Value) -> tuple[str, ...]:
        if not isinstance(gold, Mapping):
            return (str(gold),)
        problems: dict[str, str] = {}
        coerce_value(self.spec.schema, gold, problems)
        return tuple(problems)

    def describe_invalid_gold(self, value: str) -> str:
        # Names of fields (stage.t, nodes[0]) may be shown; other gold is record text.
        if re.split(r"[.\[]", value)[0] in _get_properties(self.spec.schema):
            return f"gold of the field {quote(value, MAX_GOLD_CHARACTERS)} does not fit the schema"
        return "gold that is not an object of the schema"

    def write_choices(self) -> list[str]:
        may_be_null = "null" in json.dumps(self.spec.schema)
        null = " Write null for what the text does not say." if may_be_null else ""
        return [
            "Fill in these fields from the text:",
            *_list_fields(self.spec.schema, ""),
            "",
            f"Answer with one JSON object on one line that has all fields, in this order.{null}",
        ]

    def write_answer(self, answer: Value, options: Sequence[Option] = ()) -> str:
        return format_json(answer)

    def describe_invalid_answer(self, invalid: str, answer: Value) -> str:
        if isinstance(answer, Mapping):
            return f"answers {quote(invalid)} with a value that the schema does not allow"
        return "answers with something that is not a mapping of fields"

    def complete_answer(self, answer: Value, text: str | None) -> tuple[Value, list[str]]:
        """Add missing nullable fields; quotes must be in the text."""
        if not isinstance(answer, Mapping):
            return answer, []
        completed, missing = _fill_missing_fields(self.spec.schema, answer)
        problems = [f"answers no {quote(name)}" for name in missing]
        return completed, problems + list(self._find_false_quotes(completed, text))

    def find_confidence_problem(self) -> str | None:
        return None if self.spec.scored else "only enum and boolean fields have a confidence"

    @property
    def written_schema(self) -> Mapping[str, Any]:
        return self.spec.schema

    @property
    def answer_schema(self) -> Mapping[str, Any]:
        """The schema of the generated object without the quote fields."""
        schema: dict[str, Any] = json.loads(json.dumps(self.spec.schema))
        for path in self.spec.quoted:
            parent = schema
            for key in path[:-1]:
                parent = parent["properties"][key]
            del parent["properties"][path[-1] + QUOTE_SUFFIX]
        return schema

    @property
    def has_quotes(self) -> bool:
        return bool(self.spec.quoted)

    def build_form(self, options: Sequence[Option]) -> AnswerForm:
        return AnswerForm("object", schema=self.answer_schema)

    def describe_answers(self) -> str:
        quoted = self.spec.quoted
        # A quote is written right after its field.
        count = len(_get_properties(self.spec.schema)) - sum(len(path) == 1 for path in quoted)
        quotes = f", {len(quoted)} with a quote" if quoted else ""
        return f"{format_count(count, 'field')}{quotes}"

    def _find_false_quotes(self, answer: Mapping[str, object], text: str | None) -> Iterator[str]:
        for path in self.spec.quoted:
            span = read_cell(find_value(answer, (*path[:-1], path[-1] + QUOTE_SUFFIX)))
            if span and text is not None and clean_text(span) not in text:
                yield f"has a quote for {quote('.'.join(path))} that is not in its text"


def _get_properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = schema["properties"]
    return properties


def _fill_missing_fields(
    schema: Mapping[str, Any], answer: Mapping[str, object]
) -> tuple[Mapping[str, object], list[str]]:
    """The answer with null for missing fields, and the names of those that must not be null."""
    full: dict[str, object] = {}
    missing: list[str] = []
    for name, part in _get_properties(schema).items():
        if name not in answer:
            problems: dict[str, str] = {}
            coerce_value(part, None, problems)
            missing += [name] if problems else []
            full[name] = None
        elif isinstance(inner := answer[name], Mapping) and "properties" in part:
            full[name], lacking = _fill_missing_fields(part, inner)
            missing += [f"{name}.{key}" for key in lacking]
        else:
            full[name] = answer[name]
    return full, missing


def _list_fields(schema: Mapping[str, Any], indent: str) -> Iterator[str]:
    """One line per field, nested below its parent.

    Example: ``- size: number from 0 to 300, or null; in mm``.
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
            if "maxLength" in part:
                shape = f"{shape} of at most {part['maxLength']} characters"
            return f"{shape}{_format_bounds(*(part.get(key) for key in DATE_BOUNDS))}"
    noun = "whole number" if kind == "integer" else "number"
    return f"{noun}{_format_bounds(part.get('minimum'), part.get('maximum'))}"


def _count_items(part: Mapping[str, Any]) -> str:
    bounds = _format_bounds(part.get("minItems"), part.get("maxItems"))
    return f"{bounds.strip()}: " if bounds else ""


def _format_bounds(minimum: object, maximum: object) -> str:
    if minimum is None:
        return "" if maximum is None else f" up to {maximum}"
    return f" from {minimum} on" if maximum is None else f" from {minimum} to {maximum}"


def _list_leaves(schema: Mapping[str, Any], path: str = "") -> list[str]:
    """The dotted paths of the values of an object, each followed by its quote; lists are one."""
    found: list[str] = []
    for name, part in schema.get("properties", {}).items():
        inner = f"{path}{name}"
        nested = _list_leaves(part, f"{inner}.") if "properties" in part else []
        found += nested or [inner]
    return found
