"""The JSON schema of a task of kind ``fields``: reading, checking and normalising.

A task file is text (see `document`), so a schema's keywords determine the types of their values:
``maximum: 10`` is a number, ``enum: [1, 2]`` contains strings unless ``type: integer`` is given.

The result is closed and complete: every object has only its own properties, all required and in
order. A property that is not in an object's ``required`` may be null. ``$ref`` is replaced by its
target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medtask.display import format_suggestion, quote
from medtask.errors import InputError
from medtask.names import normalize_spelling
from medtask.tasks.field_values import INVALID, QUOTE_SUFFIX, find_json_type, parse_scalar
from medtask.tasks.reader import TaskReader, is_null
from medtask.tasks.schema_keywords import (
    SchemaFaults,
    SchemaLocation,
    check_keywords,
    check_satisfiable,
    find_schema_problem,
    read_bounds,
    read_flag,
    read_type,
    resolve_references,
)
from medtask.tasks.task import Fields, ScoredField
from medtask.tasks.text_cleaning import is_clean_line

MAX_FIELDS = 300
MAX_SCHEMA_DEPTH = 10
MAX_ENUM_VALUES = 2_000
MAX_FILE_BYTES = 1_000_000  # bytes


def read_fields(reader: TaskReader, raw: object, max_tokens: int) -> Fields:
    """Read ``answer: schema``: a JSON schema as a mapping, or the path of a JSON file."""
    schema_reader = _SchemaReader(reader, max_tokens)
    if isinstance(raw, str) and not is_null(raw):
        schema_reader.file = Path(raw.strip()).name
        raw = _read_schema_file(schema_reader, reader, raw.strip())
    if not isinstance(raw, dict) or not raw:
        if not schema_reader.has_faults:
            schema_reader.add_fault(
                '"schema" is a JSON schema, or the path of a .json file that holds one', ()
            )
        return Fields({}, max_tokens=max_tokens)
    schema_reader.root = raw
    schema = schema_reader.read_schema(raw, SchemaLocation())
    if schema is not None and not schema_reader.has_faults:
        if schema["type"] != "object":
            message = 'a schema begins with an object: "type: object" and "properties"'
            schema_reader.add_fault(message, ())
        elif problem := find_schema_problem(schema):
            schema_reader.add_fault(f"nothing satisfies this schema: {problem}", ())
    scored, quoted = tuple(schema_reader.scored), tuple(schema_reader.quoted)
    return Fields(schema or {}, scored, quoted, max_tokens)


def _read_schema_file(reader: _SchemaReader, task_reader: TaskReader, name: str) -> object:
    try:
        path = task_reader.resolve_path(name)
    except InputError as error:
        reader.add_fault(f"{error} - {error.fix}", (), omit_file_name=True)
        return None
    if path.suffix.lower() != ".json":
        reader.add_fault(
            f"the schema {quote(path.name)} is not a .json file", (), omit_file_name=True
        )
        return None
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            reader.add_fault(f"the file is larger than {MAX_FILE_BYTES:,} bytes", ())
            return None
        return json.loads(raw.decode("utf-8-sig"))
    except OSError as error:
        reader.add_fault(f"the file cannot be read: {error.strerror}", ())
    except json.JSONDecodeError as error:
        reader.add_fault(f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}", ())
    except (UnicodeDecodeError, ValueError):
        reader.add_fault("not UTF-8, or it holds a number that is too long", ())
    except RecursionError:
        reader.add_fault(f"nested more than {MAX_SCHEMA_DEPTH} deep", ())
    return None


@dataclass(slots=True)
class _SchemaReader(SchemaFaults):
    """Reads one schema recursively. ``field_count`` is the number of fields so far."""

    field_count: int = 0
    scored: list[ScoredField] = field(default_factory=list)
    quoted: list[tuple[str, ...]] = field(default_factory=list)

    def read_schema(
        self, raw: object, location: SchemaLocation, optional: bool = False
    ) -> dict[str, Any] | None:
        """The part in the form for engines; None if it is not valid."""
        if not isinstance(raw, dict):
            self.add_fault("a part of a schema is a mapping, as in {type: number}", location.path)
            return None
        if location.depth > MAX_SCHEMA_DEPTH:
            self.add_fault(f"nested more than {MAX_SCHEMA_DEPTH} deep", location.path)
            return None
        resolved = resolve_references(self, raw, location)
        if resolved is None:
            return None
        raw, location, may_be_null = resolved
        types = read_type(self, raw, location)
        if types is None:
            return None
        json_type = types[0]
        nullable = types[1] or may_be_null or optional or read_flag(self, raw, "nullable", location)
        check_keywords(self, raw, json_type, location)
        return self._build_schema(raw, json_type, nullable, location)

    def _build_schema(
        self, raw: Mapping[str, Any], json_type: str, nullable: bool, location: SchemaLocation
    ) -> dict[str, Any] | None:
        note = " ".join(str(raw.get("description") or "").split())
        part: dict[str, Any] | None
        if "enum" in raw or "const" in raw:
            part = self._build_enum(raw, json_type, nullable, location)
        else:
            part = {"type": [json_type, "null"] if nullable else json_type}
            if json_type == "object":
                part = self._build_object(raw, part, nullable, location)
            elif json_type == "array":
                items = self.read_schema(raw.get("items", {}), location.child("items"))
                part = (
                    {**part, "items": items, **read_bounds(self, raw, location)} if items else None
                )
            else:
                part |= read_bounds(self, raw, location)
            if json_type == "boolean" and location.always_present and location.field_path:
                self.scored.append(
                    ScoredField(
                        location.field_path, (True, False, None) if nullable else (True, False)
                    )
                )
        if part is None:
            return None
        if "unit" in raw:
            part, note = self._build_unit(raw["unit"], part, nullable, note, location)
        check_satisfiable(self, part, json_type, location)
        return part | ({"description": note} if note else {})

    def _build_enum(
        self, raw: Mapping[str, Any], json_type: str, nullable: bool, location: SchemaLocation
    ) -> dict[str, Any] | None:
        key = "enum" if "enum" in raw else "const"
        listed = raw[key] if key == "enum" else [raw[key]]
        if not isinstance(listed, list) or not listed:
            self.add_fault(
                '"enum" is empty - name the values' if not listed else '"enum" is a list of values',
                (*location.path, key),
            )
            return None
        if len(listed) > MAX_ENUM_VALUES:
            self.add_fault(
                f"more than {MAX_ENUM_VALUES:,} values - ask for a text, and look it up afterwards",
                (*location.path, key),
            )
            return None
        values: list[object] = []
        names: dict[tuple[type, object], object] = {}
        for index, typed in enumerate(listed):
            value = parse_scalar(typed, json_type if "type" in raw else find_json_type(typed))
            if value is INVALID:
                self.add_fault(
                    f"{quote(typed)} is not a valid {json_type}", (*location.path, key, index)
                )
            elif (name := _name_value(value)) in names:
                message = (
                    f"{quote(typed)} is listed twice"
                    if value in values
                    else f"{quote(names[name])} and {quote(typed)} cannot be told apart"
                )
                self.add_fault(message, (*location.path, key, index))
            names.setdefault(_name_value(value), typed)
            values.append(value)
        if nullable and None not in values:
            values.append(None)
        if (
            location.always_present
            and location.field_path
            and len(values) > 1
            and not self.has_faults
        ):
            self.scored.append(ScoredField(location.field_path, tuple(values)))
        return {"enum": values}

    def _build_object(
        self, raw: Mapping[str, Any], part: dict[str, Any], nullable: bool, location: SchemaLocation
    ) -> dict[str, Any] | None:
        properties = raw.get("properties")
        if not isinstance(properties, dict) or not properties:
            self.add_fault(
                'an object names its fields under "properties"',
                (*location.path, *(["properties"] if "properties" in raw else [])),
            )
            return None
        if str(raw.get("additionalProperties", False)).casefold() != "false":
            self.add_fault(
                "only named fields are written: remove this",
                (*location.path, "additionalProperties"),
            )
        required = self._read_required(raw, properties, location)
        written: dict[str, Any] = {}
        for name, typed in properties.items():
            inner = location.child("properties", name, key=name, always_present=not nullable)
            self._check_name(name, properties, inner)
            read = self.read_schema(typed, inner, required is not None and name not in required)
            if self.field_count > MAX_FIELDS:
                return None
            written[name] = read or {}
            if isinstance(typed, dict) and read_flag(self, typed, "quote", inner):
                written[name + QUOTE_SUFFIX] = self._build_quote_field(name, properties, inner)
        return {
            **part,
            "properties": written,
            "required": list(written),
            "additionalProperties": False,
        }

    def _check_name(
        self, name: str, properties: Mapping[str, Any], location: SchemaLocation
    ) -> None:
        self.field_count += 1
        if self.field_count == MAX_FIELDS + 1:
            self.add_fault(
                f"more than {MAX_FIELDS} fields, counting what references repeat", location.path
            )
        if not name.strip() or not is_clean_line(name) or len(name) > 200:
            self.add_fault(
                f"{quote(name)} cannot be a field: it is blank, too long, or holds an invisible "
                "character",
                location.path,
            )

    def _read_required(
        self, raw: Mapping[str, Any], properties: Mapping[str, Any], location: SchemaLocation
    ) -> Sequence[str] | None:
        if "required" not in raw:
            return None
        required = raw["required"]
        if not isinstance(required, list):
            self.add_fault(
                '"required" is a list of the object\'s fields', (*location.path, "required")
            )
            return None
        for index, name in enumerate(required):
            if name not in properties:
                message = (
                    f"{quote(name)} is required, but is not a field of the "
                    f"object{format_suggestion(str(name), properties)}"
                )
                self.add_fault(message, (*location.path, "required", index))
        return [str(name) for name in required]

    def _build_quote_field(
        self, name: str, properties: Mapping[str, Any], location: SchemaLocation
    ) -> dict[str, Any]:
        if location.field_path is None:
            self.add_fault(
                "a field inside a list cannot be quoted: ask for the quote of the whole list",
                (*location.path, "quote"),
            )
        else:
            self.quoted.append(location.field_path)
        if name + QUOTE_SUFFIX in properties:
            self.add_fault(
                f"the quote would have the name {quote(name + QUOTE_SUFFIX)} of another field",
                (*location.path, "quote"),
            )
        return {"type": ["string", "null"], "quote": True}

    def _build_unit(
        self,
        unit: object,
        part: dict[str, Any],
        nullable: bool,
        note: str,
        location: SchemaLocation,
    ) -> tuple[dict[str, Any], str]:
        if isinstance(unit, str) and unit.strip():
            return part, "; ".join(filter(None, (f"in {unit.strip()}", note)))
        units = [str(name).strip() for name in unit if name] if isinstance(unit, list) else []
        if len(units) < 2 or len(set(units)) < len(units):
            self.add_fault(
                '"unit" is one unit, or a list of different ones to choose from',
                (*location.path, "unit"),
            )
            return part, note
        if location.always_present and location.field_path and not nullable:
            self.scored.append(ScoredField((*location.field_path, "unit"), tuple(units)))
        kind = part["type"][0] if nullable else part["type"]
        properties = {"value": {**part, "type": kind}, "unit": {"enum": units}}
        kinds = {"type": ["object", "null"] if nullable else "object"}
        return {
            **kinds,
            "properties": properties,
            "required": ["value", "unit"],
            "additionalProperties": False,
        }, note


def _name_value(value: object) -> tuple[type, object]:
    """What is equal for values of an enumeration that a reader cannot distinguish."""
    return type(value), normalize_spelling(value) if isinstance(value, str) else value
