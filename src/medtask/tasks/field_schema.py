"""The JSON schema of a task of kind ``fields``: read with little, checked to the end, and made what
engines get.

A task file is text (see source.py), so a schema's keywords say what their values are: ``maximum:
10`` is a number, ``enum: [1, 2]`` holds words unless ``type: integer`` stands beside it.

What comes out is closed and complete: every object has just its properties, all of them required
and in their order. A property that an object's own ``required`` leaves out may be null, for it has
to be written. ``$ref`` is written out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medtask.display import format_name, format_suggestion, quote
from medtask.tasks.document import KeyPath, NullScalar
from medtask.tasks.field_values import INVALID, QUOTE_SUFFIX, find_json_type, parse_scalar
from medtask.tasks.reader import TaskReader, is_null
from medtask.tasks.task import Fields, ScoredField
from medtask.tasks.text_cleaning import is_clean_line

MAX_FIELDS = 300
MAX_SCHEMA_DEPTH = 10
MAX_ENUM_VALUES = 2_000
MAX_PATTERN_LENGTH = 1_000  # characters
MAX_FILE_BYTES = 1_000_000  # bytes

_NUMBER_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_SIZE_BOUNDS = {"minItems", "maxItems", "minLength", "maxLength"}
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
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


def read_fields(reader: TaskReader, raw: object, max_tokens: int) -> Fields:
    """The fields of ``answer: schema``: a JSON schema as a mapping, or the path of a JSON file."""
    schema_reader = _SchemaReader(reader)
    if isinstance(raw, str) and not is_null(raw):
        schema_reader.file = Path(raw.strip()).name
        raw = _read_schema_file(schema_reader, reader.folder / raw.strip())
    if not isinstance(raw, dict) or not raw:
        if not schema_reader.has_faults:
            schema_reader.add_fault(
                '"schema" is a JSON schema, or the path of a .json file that holds one', ()
            )
        return Fields({}, max_tokens=max_tokens)
    schema_reader.root = raw
    schema = schema_reader.read_schema(raw, _SchemaLocation())
    if schema is not None and not schema_reader.has_faults:
        if schema["type"] != "object":
            message = 'a schema begins with an object: "type: object" and "properties"'
            schema_reader.add_fault(message, ())
        elif problem := find_schema_problem(schema):
            schema_reader.add_fault(f"nothing satisfies this schema: {problem}", ())
    scored, quoted = tuple(schema_reader.scored), tuple(schema_reader.quoted)
    return Fields(schema or {}, scored, quoted, max_tokens)


def find_schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Why no JSON satisfies the schema, or why it cannot be written under it, in llguidance's
    words; None if all is well.
    """
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(
        LLMatcher.grammar_from_json_schema(json.dumps(schema))
    )
    # "regex parse error:\n    [a-\n    ^\nerror: unclosed character class": the last line says it.
    detail = messages[0].strip().split("\n")[-1] if failed else ""
    return (
        format_name(detail.removeprefix("error: ").removeprefix("Unsatisfiable schema: "), 200)
        if failed
        else None
    )


def _read_schema_file(reader: _SchemaReader, path: Path) -> object:
    if path.suffix.lower() != ".json":
        reader.add_fault(f"the schema {quote(path.name)} is no .json file", (), omit_file_name=True)
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


@dataclass(frozen=True, slots=True)
class _SchemaLocation:
    """Where a part of a schema stands: in the file (``path``) and in what is written
    (``field_path``; None inside a list).

    ``always_present``: it is always written, because nothing around it may be null.
    ``visited_refs``: the references on the way here.
    """

    path: KeyPath = ()
    field_path: tuple[str, ...] | None = ()
    always_present: bool = True
    depth: int = 0
    visited_refs: tuple[str, ...] = ()

    def child(
        self, *path: str | int, key: str | None = None, always_present: bool = True
    ) -> _SchemaLocation:
        keys = (*self.field_path, key) if self.field_path is not None and key is not None else None
        return _SchemaLocation(
            (*self.path, *path),
            keys,
            self.always_present and always_present,
            self.depth + 1,
            self.visited_refs,
        )


@dataclass(slots=True)
class _SchemaReader:
    """One walk through a schema. ``root``: where references begin. ``has_faults``: whether
    there was a fault; ``field_count``: of fields.
    """

    task_reader: TaskReader
    file: str | None = None
    root: Mapping[str, Any] = field(default_factory=dict)
    has_faults: bool = False
    field_count: int = 0
    scored: list[ScoredField] = field(default_factory=list)
    quoted: list[tuple[str, ...]] = field(default_factory=list)

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

    def read_schema(
        self, raw: object, location: _SchemaLocation, optional: bool = False
    ) -> dict[str, Any] | None:
        """The part as engines get it; None where it cannot be read."""
        if not isinstance(raw, dict):
            self.add_fault("a part of a schema is a mapping, as in {type: number}", location.path)
            return None
        if location.depth > MAX_SCHEMA_DEPTH:
            self.add_fault(f"nested more than {MAX_SCHEMA_DEPTH} deep", location.path)
            return None
        resolved = self._resolve_references(raw, location)
        if resolved is None:
            return None
        raw, location, may_be_null = resolved
        types = self._read_type(raw, location)
        if types is None:
            return None
        json_type, nullable = (
            types[0],
            types[1] or may_be_null or optional or self._read_flag(raw, "nullable", location),
        )
        self._check_keywords(raw, json_type, location)
        return self._build_schema(raw, json_type, nullable, location)

    def _build_schema(
        self, raw: Mapping[str, Any], json_type: str, nullable: bool, location: _SchemaLocation
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
                    {**part, "items": items, **self._read_bounds(raw, location)} if items else None
                )
            else:
                part |= self._read_bounds(raw, location)
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
        self._check_satisfiable(part, json_type, location)
        return part | ({"description": note} if note else {})

    def _resolve_references(
        self, raw: Mapping[str, Any], location: _SchemaLocation
    ) -> tuple[Mapping[str, Any], _SchemaLocation, bool] | None:
        """The mapping that is meant, behind references and around ``anyOf: [..., {type: "null"}]``;
        whether it may be null.
        """
        may_be_null = False
        while joint := next(
            (key for key in ("$ref", "anyOf", "oneOf", "allOf") if key in raw), None
        ):
            rest = {key: value for key, value in raw.items() if key != joint}
            if joint == "$ref":
                target, name = self._resolve_pointer(raw[joint], location), str(raw[joint])
                if target is None:
                    return None
                location = _SchemaLocation(
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
                part
                for part in parts
                if not (isinstance(part, dict) and part.get("type") == "null")
            ]
            if len(others) != 1 or not isinstance(others[0], dict):
                self.add_fault(
                    f'{quote(joint)} may only join one part with {{type: "null"}}',
                    (*location.path, joint),
                )
                return None
            may_be_null = may_be_null or len(others) < len(parts)
            raw = {**others[0], **rest}
        return raw, location, may_be_null

    def _resolve_pointer(
        self, reference: object, location: _SchemaLocation
    ) -> Mapping[str, Any] | None:
        path = (*location.path, "$ref")
        if reference in location.visited_refs or reference == "#":
            self.add_fault(
                f"{quote(reference)} leads back to itself: what it describes would never end",
                path,
            )
            return None
        target: Any = self.root
        for key in str(reference).removeprefix("#/").split("/"):
            target = (
                target.get(key.replace("~1", "/").replace("~0", "~"))
                if isinstance(target, dict)
                else None
            )
        if not str(reference).startswith("#/") or not isinstance(target, dict):
            self.add_fault(f"{quote(reference)} names nothing in this schema", path)
            return None
        return target

    def _read_type(
        self, raw: Mapping[str, Any], location: _SchemaLocation
    ) -> tuple[str, bool] | None:
        """The type, told or else plain from the keywords, and whether null is another."""
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
            others = (
                ["string"] if "enum" in raw or "const" in raw else [inferred] if inferred else []
            )
        if len(others) != 1:
            message = (
                'a part has one type, or one and "null"'
                if types
                else f"a part of a schema has a type: {', '.join(_KEYWORDS)}"
            )
            self.add_fault(message, location.path)
            return None
        if others[0] not in _KEYWORDS:
            hint = format_suggestion(others[0], _KEYWORDS) or f" - there are {', '.join(_KEYWORDS)}"
            self.add_fault(f"unknown type {quote(others[0])}{hint}", (*location.path, "type"))
            return None
        return others[0], "null" in types

    def _check_keywords(
        self, raw: Mapping[str, Any], json_type: str, location: _SchemaLocation
    ) -> None:
        for key in raw:
            if key in _COMMON_KEYWORDS or key in _IGNORED_KEYWORDS or key in _KEYWORDS[json_type]:
                continue
            owners = [other for other, keys in _KEYWORDS.items() if key in keys]
            if owners:
                message = (
                    f"{quote(key)} belongs to the type {' or '.join(owners)}, and this is "
                    f"{quote(json_type)}"
                )
            else:
                known = [*_KEYWORDS[json_type], *_COMMON_KEYWORDS]
                hint = format_suggestion(key, known) or " - there are " + ", ".join(known)
                message = f"unknown key {quote(key)}{hint}"
            self.add_fault(message, (*location.path, key))

    def _build_enum(
        self, raw: Mapping[str, Any], json_type: str, nullable: bool, location: _SchemaLocation
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
        for index, typed in enumerate(listed):
            value = parse_scalar(typed, json_type if "type" in raw else find_json_type(typed))
            if value is INVALID:
                self.add_fault(f"{quote(typed)} is no {json_type}", (*location.path, key, index))
            elif any(value == other and type(value) is type(other) for other in values):
                self.add_fault(
                    f"{quote(typed)} stands here a second time", (*location.path, key, index)
                )
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
        self,
        raw: Mapping[str, Any],
        part: dict[str, Any],
        nullable: bool,
        location: _SchemaLocation,
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
                "only the fields that are named are written: leave this out",
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
            if isinstance(typed, dict) and self._read_flag(typed, "quote", inner):
                written[name + QUOTE_SUFFIX] = self._build_quote_field(name, properties, inner)
        return {
            **part,
            "properties": written,
            "required": list(written),
            "additionalProperties": False,
        }

    def _check_name(
        self, name: str, properties: Mapping[str, Any], location: _SchemaLocation
    ) -> None:
        self.field_count += 1
        if self.field_count == MAX_FIELDS + 1:
            self.add_fault(
                f"more than {MAX_FIELDS} fields, counting what references repeat", location.path
            )
        if not name.strip() or not is_clean_line(name) or len(name) > 200:
            self.add_fault(
                f"{quote(name)} cannot be a field: it is blank, too long, or holds an "
                "invisible "
                "character",
                location.path,
            )

    def _read_required(
        self, raw: Mapping[str, Any], properties: Mapping[str, Any], location: _SchemaLocation
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
                    f"{quote(name)} is required, but no field of the "
                    f"object{format_suggestion(str(name), properties)}"
                )
                self.add_fault(message, (*location.path, "required", index))
        return [str(name) for name in required]

    def _build_quote_field(
        self, name: str, properties: Mapping[str, Any], location: _SchemaLocation
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
                f"the quote would be called {quote(name + QUOTE_SUFFIX)}, which is a field already",
                (*location.path, "quote"),
            )
        return {"type": ["string", "null"], "quote": True}

    def _build_unit(
        self,
        unit: object,
        part: dict[str, Any],
        nullable: bool,
        note: str,
        location: _SchemaLocation,
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

    def _read_bounds(self, raw: Mapping[str, Any], location: _SchemaLocation) -> dict[str, Any]:
        bounds: dict[str, Any] = {}
        for key in (key for key in raw if key in _NUMBER_BOUNDS | _SIZE_BOUNDS):
            value = parse_scalar(raw[key], "integer" if key in _SIZE_BOUNDS else "number")
            if value is INVALID or value is None or (key in _SIZE_BOUNDS and value < 0):
                self.add_fault(
                    f"{quote(key)} must be a "
                    f"{'whole number from 0 on' if key in _SIZE_BOUNDS else 'number'}",
                    (*location.path, key),
                )
            else:
                bounds[key] = value
        for least, most in _BOUND_PAIRS:
            if least in bounds and most in bounds and bounds[least] > bounds[most]:
                self.add_fault(
                    f'"{least}" is above "{most}": nothing is both', (*location.path, least)
                )
        for key, limit in (("pattern", MAX_PATTERN_LENGTH), ("format", 100)):
            if key not in raw:
                continue
            if not isinstance(raw[key], str) or not 0 < len(raw[key]) <= limit:
                self.add_fault(
                    f"{quote(key)} must be a text of at most {limit:,} characters",
                    (*location.path, key),
                )
            elif key == "format" and raw[key] not in _FORMATS:
                known = f" - there are {', '.join(_FORMATS)}"
                self.add_fault(
                    "unknown format "
                    f"{quote(raw[key])}{format_suggestion(raw[key], _FORMATS) or known}",
                    (*location.path, key),
                )
            else:
                bounds[key] = raw[key]
        return bounds

    def _check_satisfiable(
        self, part: Mapping[str, Any], json_type: str, location: _SchemaLocation
    ) -> None:
        """By itself and not null, because what may be null is satisfied by that; and so the fault
        has a line.
        """
        plain = (
            json_type in ("string", "number", "integer")
            and "enum" not in part
            and "properties" not in part
        )
        if (
            plain
            and not self.has_faults
            and len(part) > 1
            and (problem := find_schema_problem({**part, "type": json_type}))
        ):
            self.add_fault(f"nothing satisfies this: {problem}", location.path)

    def _read_flag(self, raw: Mapping[str, Any], key: str, location: _SchemaLocation) -> bool:
        text = str(raw.get(key, False)).casefold()
        if text not in ("true", "false"):
            self.add_fault(f"{quote(key)} must be true or false", (*location.path, key))
        return text == "true"
