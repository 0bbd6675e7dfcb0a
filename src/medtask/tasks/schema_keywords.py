"""The keywords of one part of a JSON schema: type, references, bounds, flags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from medtask.display import format_name, format_suggestion, quote
from medtask.tasks.document import KeyPath
from medtask.tasks.field_values import INVALID, parse_scalar
from medtask.tasks.parse_events import NullScalar
from medtask.tasks.reader import TaskReader

MAX_PATTERN_LENGTH = 1_000  # characters

_NUMBER_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_SIZE_BOUNDS = {"minItems", "maxItems", "minLength", "maxLength"}
# The keywords of ajv-formats, for "format: date"; JSON Schema itself has none.
DATE_BOUNDS = ("formatMinimum", "formatMaximum")
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format", *DATE_BOUNDS}),
    "number": frozenset({*_NUMBER_BOUNDS, "unit"}),
    "integer": frozenset({*_NUMBER_BOUNDS, "unit"}),
    "boolean": frozenset(),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
}
_COMMON_KEYWORDS = (
    "type",
    "enum",
    "const",
    "nullable",
    "quote",
    "description",
    "$ref",
    "anyOf",
    "oneOf",
    "allOf",
)
_IGNORED_KEYWORDS = (
    "title",
    "default",
    "examples",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
)
_FORMATS = (
    "date",
    "time",
    "date-time",
    "duration",
    "email",
    "uri",
    "uuid",
    "hostname",
    "ipv4",
    "ipv6",
)
_BOUND_PAIRS = (("minimum", "maximum"), ("minItems", "maxItems"), ("minLength", "maxLength"))
# Characters that each item or character takes at least: an item has a comma after it.
_MIN_CHARACTERS = {"minItems": 2, "minLength": 1}
_MAX_TOKEN_CHARACTERS = 32  # more than the tokens of a text have on average


@dataclass(frozen=True, slots=True)
class SchemaLocation:
    """The location of a part in a schema.

    Attributes:
        path: The path in the file.
        field_path: The path in the generated object; None inside a list.
        always_present: Whether the part is always written, because no parent may be null.
        depth: The nesting depth.
        visited_refs: The references on the way to this part.
    """

    path: KeyPath = ()
    field_path: tuple[str, ...] | None = ()
    always_present: bool = True
    depth: int = 0
    visited_refs: tuple[str, ...] = ()

    def child(
        self, *path: str | int, key: str | None = None, always_present: bool = True
    ) -> SchemaLocation:
        keys = (*self.field_path, key) if self.field_path is not None and key is not None else None
        return SchemaLocation(
            (*self.path, *path),
            keys,
            self.always_present and always_present,
            self.depth + 1,
            self.visited_refs,
        )


@dataclass(slots=True)
class SchemaFaults:
    """Collects the faults of one schema.

    Attributes:
        task_reader: The task file that contains the schema or names its file.
        file: The name of the schema's file; None if the task file contains the schema.
        max_tokens: The maximum number of tokens of an answer.
        root: The whole schema, for resolving references.
        has_faults: Whether a fault was found.
    """

    task_reader: TaskReader
    max_tokens: int
    file: str | None = None
    root: Mapping[str, Any] = field(default_factory=dict)
    has_faults: bool = False

    def add_fault(self, message: str, path: KeyPath, *, omit_file_name: bool = False) -> None:
        self.has_faults = True
        if self.file and not omit_file_name:
            dotted_path = ".".join(map(str, path))
            message = (
                f"{format_name(self.file)}: "
                f"{f'{format_name(dotted_path)}: ' if dotted_path else ''}{message}"
            )
        inner = path if self.file is None else ()
        self.task_reader.add_fault(message, "answer", "schema", *inner)


def find_schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Why no JSON can satisfy the schema, as reported by llguidance; None if some can."""
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(
        LLMatcher.grammar_from_json_schema(json.dumps(schema))
    )
    # "regex parse error:\n    [a-\n    ^\nerror: unclosed character class": the last line is the
    # cause.
    detail = messages[0].strip().split("\n")[-1] if failed else ""
    return (
        format_name(detail.removeprefix("error: ").removeprefix("Unsatisfiable schema: "), 200)
        if failed
        else None
    )


def resolve_references(
    faults: SchemaFaults, raw: Mapping[str, Any], location: SchemaLocation
) -> tuple[Mapping[str, Any], SchemaLocation, bool] | None:
    """The target of references and of ``anyOf: [..., {type: "null"}]``, and if it may be null."""
    may_be_null = False
    while joint := next((key for key in ("$ref", "anyOf", "oneOf", "allOf") if key in raw), None):
        rest = {key: value for key, value in raw.items() if key != joint}
        if joint == "$ref":
            target, name = _resolve_pointer(faults, raw[joint], location), str(raw[joint])
            if target is None:
                return None
            location = SchemaLocation(
                location.path,
                location.field_path,
                location.always_present,
                location.depth,
                (*location.visited_refs, name),
            )
            raw = {**target, **rest}
            continue
        parts = raw[joint] if isinstance(raw[joint], list) else []
        others = [
            part for part in parts if not (isinstance(part, dict) and part.get("type") == "null")
        ]
        if len(others) != 1 or not isinstance(others[0], dict):
            faults.add_fault(
                f'{quote(joint)} may only join one part with {{type: "null"}}',
                (*location.path, joint),
            )
            return None
        may_be_null = may_be_null or len(others) < len(parts)
        raw = {**others[0], **rest}
    return raw, location, may_be_null


def _resolve_pointer(
    faults: SchemaFaults, reference: object, location: SchemaLocation
) -> Mapping[str, Any] | None:
    path = (*location.path, "$ref")
    if reference in location.visited_refs or reference == "#":
        faults.add_fault(f"{quote(reference)} refers to itself: the schema would be endless", path)
        return None
    target: Any = faults.root
    for key in str(reference).removeprefix("#/").split("/"):
        target = (
            target.get(key.replace("~1", "/").replace("~0", "~"))
            if isinstance(target, dict)
            else None
        )
    if not str(reference).startswith("#/") or not isinstance(target, dict):
        faults.add_fault(f"{quote(reference)} is not in this schema", path)
        return None
    return target


def read_type(
    faults: SchemaFaults, raw: Mapping[str, Any], location: SchemaLocation
) -> tuple[str, bool] | None:
    """The type, declared or inferred from the keywords, and whether null is allowed."""
    declared = raw.get("type")
    listed = (
        declared
        if isinstance(declared, list)
        else []
        if declared is None and not isinstance(declared, NullScalar)
        else [declared]
    )
    types = ["null" if kind is None else str(kind) for kind in listed]
    others = [kind for kind in types if kind != "null"]
    if not types:
        inferred = next(
            (kind for kind, keys in _KEYWORDS.items() if any(key in raw for key in keys)), None
        )
        others = ["string"] if "enum" in raw or "const" in raw else [inferred] if inferred else []
    if len(others) != 1:
        message = (
            'a part has one type, or one and "null"'
            if types
            else f"a part of a schema has a type: {', '.join(_KEYWORDS)}"
        )
        faults.add_fault(message, location.path)
        return None
    if others[0] not in _KEYWORDS:
        hint = format_suggestion(others[0], _KEYWORDS) or f" - there are {', '.join(_KEYWORDS)}"
        faults.add_fault(f"unknown type {quote(others[0])}{hint}", (*location.path, "type"))
        return None
    return others[0], "null" in types


def check_keywords(
    faults: SchemaFaults, raw: Mapping[str, Any], json_type: str, location: SchemaLocation
) -> None:
    for key in raw:
        if key in _COMMON_KEYWORDS or key in _IGNORED_KEYWORDS or key in _KEYWORDS[json_type]:
            continue
        owners = [other for other, keys in _KEYWORDS.items() if key in keys]
        if key in ("minimum", "maximum") and raw.get("format") == "date":
            message = f'{quote(key)} belongs to numbers: a date has "format{key.capitalize()}"'
        elif owners:
            message = (
                f"{quote(key)} belongs to the type {' or '.join(owners)}, and this is "
                f"{quote(json_type)}"
            )
        else:
            known = [*_KEYWORDS[json_type], *_COMMON_KEYWORDS]
            hint = format_suggestion(key, known) or " - there are " + ", ".join(known)
            message = f"unknown key {quote(key)}{hint}"
        faults.add_fault(message, (*location.path, key))


def read_bounds(
    faults: SchemaFaults, raw: Mapping[str, Any], location: SchemaLocation
) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for key in (key for key in raw if key in _NUMBER_BOUNDS | _SIZE_BOUNDS):
        value = parse_scalar(raw[key], "integer" if key in _SIZE_BOUNDS else "number")
        if value is INVALID or value is None or (key in _SIZE_BOUNDS and value < 0):
            faults.add_fault(
                f"{quote(key)} must be a "
                f"{'whole number, 0 or more' if key in _SIZE_BOUNDS else 'number'}",
                (*location.path, key),
            )
        else:
            bounds[key] = value
    for least, most in _BOUND_PAIRS:
        if least in bounds and most in bounds and bounds[least] > bounds[most]:
            faults.add_fault(f'"{least}" is above "{most}"', (*location.path, least))
    for key, characters in _MIN_CHARACTERS.items():
        if bounds.get(key, 0) * characters > _MAX_TOKEN_CHARACTERS * faults.max_tokens:
            message = f'{quote(key)} needs more text than "max_tokens: {faults.max_tokens}" allows'
            faults.add_fault(message, (*location.path, key))
    for key, limit in (("pattern", MAX_PATTERN_LENGTH), ("format", 100)):
        if key not in raw:
            continue
        if not isinstance(raw[key], str) or not 0 < len(raw[key]) <= limit:
            faults.add_fault(
                f"{quote(key)} must be a text of at most {limit:,} characters",
                (*location.path, key),
            )
        elif key == "format" and raw[key] not in _FORMATS:
            known = f" - there are {', '.join(_FORMATS)}"
            faults.add_fault(
                f"unknown format {quote(raw[key])}{format_suggestion(raw[key], _FORMATS) or known}",
                (*location.path, key),
            )
        else:
            bounds[key] = raw[key]
    return bounds | _read_date_bounds(faults, raw, location)


def _read_date_bounds(
    faults: SchemaFaults, raw: Mapping[str, Any], location: SchemaLocation
) -> dict[str, str]:
    bounds: dict[str, str] = {}
    for key in (key for key in DATE_BOUNDS if key in raw):
        try:
            if raw.get("format") != "date":
                raise ValueError
            bounds[key] = date.fromisoformat(str(raw[key])).isoformat()
        except ValueError:
            message = f'{quote(key)} is a date as YYYY-MM-DD, beside "format: date"'
            faults.add_fault(message, (*location.path, key))
    least, most = (bounds.get(key) for key in DATE_BOUNDS)
    if least and most and least > most:
        faults.add_fault('"formatMinimum" is above "formatMaximum"', location.path)
    return bounds


def check_satisfiable(
    faults: SchemaFaults, part: Mapping[str, Any], json_type: str, location: SchemaLocation
) -> None:
    """Check one part without null, which would satisfy any part, so that the fault has a line."""
    plain = (
        json_type in ("string", "number", "integer")
        and "enum" not in part
        and "properties" not in part
    )
    if (
        plain
        and not faults.has_faults
        and len(part) > 1
        and (problem := find_schema_problem({**part, "type": json_type}))
    ):
        faults.add_fault(f"nothing satisfies this: {problem}", location.path)


def read_flag(
    faults: SchemaFaults, raw: Mapping[str, Any], key: str, location: SchemaLocation
) -> bool:
    text = str(raw.get(key, False)).casefold()
    if text not in ("true", "false"):
        faults.add_fault(f"{quote(key)} must be true or false", (*location.path, key))
    return text == "true"
