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

from medtask.errors import TaskFault
from medtask.tasks.field_values import QUOTE, WRONG, name_type, read_scalar
from medtask.tasks.hints import did_you_mean, quote, show
from medtask.tasks.hygiene import is_clean_line
from medtask.tasks.source import Document, KeyPath, NullWord
from medtask.tasks.task import Fields, ScoredField

MAX_FIELDS = 300
MAX_LEVELS = 10
MAX_VALUES = 2_000
MAX_PATTERN = 1_000  # characters
MAX_FILE = 1_000_000  # bytes

_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_SIZES = {"minItems", "maxItems", "minLength", "maxLength"}
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({*_NUMBERS, "unit"}),
    "integer": frozenset({*_NUMBERS, "unit"}),
    "boolean": frozenset(),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
}
_FOR_ALL = (
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
_IGNORED = ("title", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions")
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
_PAIRS = (("minimum", "maximum"), ("minItems", "maxItems"), ("minLength", "maxLength"))


def read_fields(
    document: Document, raw: object, folder: Path, max_tokens: int, faults: list[TaskFault]
) -> Fields:
    """The fields of ``answer: schema``, a mapping or the path of a JSON file; what is wrong goes
    into ``faults``.
    """
    reader = _Reader(document, faults)
    if isinstance(raw, str) and not isinstance(raw, NullWord):
        reader.file = Path(raw.strip()).name
        raw = _read_file(reader, folder / raw.strip())
    if not isinstance(raw, dict) or not raw:
        if not reader.found:
            reader.tell('"schema" is a JSON schema, or the path of a .json file that holds one', ())
        return Fields({}, max_tokens=max_tokens)
    reader.root = raw
    schema = reader.read(raw, _Place())
    if schema is not None and not reader.found:
        if schema["type"] != "object":
            reader.tell('a schema begins with an object: "type: object" and "properties"', ())
        elif trouble := find_trouble(schema):
            reader.tell(f"nothing satisfies this schema: {trouble}", ())
    return Fields(schema or {}, tuple(reader.scored), tuple(reader.quoted), max_tokens)


def find_trouble(schema: Mapping[str, Any]) -> str | None:
    """Why no JSON satisfies the schema, or why it cannot be written under it, in llguidance's
    words; None if all is well.
    """
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(
        LLMatcher.grammar_from_json_schema(json.dumps(schema))
    )
    # "regex parse error:\n    [a-\n    ^\nerror: unclosed character class": the last line says it.
    said = messages[0].strip().split("\n")[-1] if failed else ""
    return (
        show(said.removeprefix("error: ").removeprefix("Unsatisfiable schema: "), 200)
        if failed
        else None
    )


def _read_file(reader: _Reader, path: Path) -> object:
    if path.suffix.lower() != ".json":
        reader.tell(f"the schema {quote(path.name)} is no .json file", (), bare=True)
        return None
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
        if len(raw) > MAX_FILE:
            reader.tell(f"the file is larger than {MAX_FILE:,} bytes", ())
            return None
        return json.loads(raw.decode("utf-8-sig"))
    except OSError as error:
        reader.tell(f"the file cannot be read: {error.strerror}", ())
    except json.JSONDecodeError as error:
        reader.tell(f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}", ())
    except (UnicodeDecodeError, ValueError):
        reader.tell("not UTF-8, or it holds a number that is too long", ())
    except RecursionError:
        reader.tell(f"nested more than {MAX_LEVELS} deep", ())
    return None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a part of a schema stands: in the file (``path``) and in what is written (``keys``;
    None inside a list).

    ``certain``: it is always written, because nothing around it may be null. ``followed``: the
    references on the way here.
    """

    path: KeyPath = ()
    keys: tuple[str, ...] | None = ()
    certain: bool = True
    level: int = 0
    followed: tuple[str, ...] = ()

    def under(self, *path: str | int, key: str | None = None, certain: bool = True) -> _Place:
        keys = (*self.keys, key) if self.keys is not None and key is not None else None
        return _Place(
            (*self.path, *path), keys, self.certain and certain, self.level + 1, self.followed
        )


@dataclass(slots=True)
class _Reader:
    """One walk through a schema. ``root``: where references begin. ``found``: whether there was a
    fault; ``count``: of fields.
    """

    document: Document
    faults: list[TaskFault]
    file: str | None = None
    root: Mapping[str, Any] = field(default_factory=dict)
    found: bool = False
    count: int = 0
    scored: list[ScoredField] = field(default_factory=list)
    quoted: list[tuple[str, ...]] = field(default_factory=list)

    def tell(self, message: str, path: KeyPath, *, bare: bool = False) -> None:
        self.found = True
        if self.file and not bare:
            place = ".".join(map(str, path))
            message = f"{show(self.file)}: {f'{show(place)}: ' if place else ''}{message}"
        self.faults.append(
            self.document.fault(message, "answer", "schema", *(path if self.file is None else ()))
        )

    def read(self, raw: object, place: _Place, optional: bool = False) -> dict[str, Any] | None:
        """The part as engines get it; None where it cannot be read."""
        if not isinstance(raw, dict):
            self.tell("a part of a schema is a mapping, as in {type: number}", place.path)
            return None
        if place.level > MAX_LEVELS:
            self.tell(f"nested more than {MAX_LEVELS} deep", place.path)
            return None
        followed = self._follow(raw, place)
        if followed is None:
            return None
        raw, place, may_be_null = followed
        kinds = self._read_kinds(raw, place)
        if kinds is None:
            return None
        kind, nullable = (
            kinds[0],
            kinds[1] or may_be_null or optional or self._is_true(raw, "nullable", place),
        )
        self._check_keywords(raw, kind, place)
        return self._write(raw, kind, nullable, place)

    def _write(
        self, raw: Mapping[str, Any], kind: str, nullable: bool, place: _Place
    ) -> dict[str, Any] | None:
        note = " ".join(str(raw.get("description") or "").split())
        part: dict[str, Any] | None
        if "enum" in raw or "const" in raw:
            part = self._write_enum(raw, kind, nullable, place)
        else:
            part = {"type": [kind, "null"] if nullable else kind}
            if kind == "object":
                part = self._write_object(raw, part, nullable, place)
            elif kind == "array":
                items = self.read(raw.get("items", {}), place.under("items"))
                part = {**part, "items": items, **self._read_bounds(raw, place)} if items else None
            else:
                part |= self._read_bounds(raw, place)
            if kind == "boolean" and place.certain and place.keys:
                self.scored.append(
                    ScoredField(place.keys, (True, False, None) if nullable else (True, False))
                )
        if part is None:
            return None
        if "unit" in raw:
            part, note = self._write_unit(raw["unit"], part, nullable, note, place)
        self._check_leaf(part, kind, place)
        return part | ({"description": note} if note else {})

    def _follow(
        self, raw: Mapping[str, Any], place: _Place
    ) -> tuple[Mapping[str, Any], _Place, bool] | None:
        """The mapping that is meant, behind references and around ``anyOf: [..., {type: "null"}]``;
        whether it may be null.
        """
        may_be_null = False
        while joint := next(
            (key for key in ("$ref", "anyOf", "oneOf", "allOf") if key in raw), None
        ):
            rest = {key: value for key, value in raw.items() if key != joint}
            if joint == "$ref":
                target, name = self._find_target(raw[joint], place), str(raw[joint])
                if target is None:
                    return None
                place = _Place(
                    place.path, place.keys, place.certain, place.level, (*place.followed, name)
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
                self.tell(
                    f'{quote(joint)} may only join one part with {{type: "null"}}',
                    (*place.path, joint),
                )
                return None
            may_be_null = may_be_null or len(others) < len(parts)
            raw = {**others[0], **rest}
        return raw, place, may_be_null

    def _find_target(self, reference: object, place: _Place) -> Mapping[str, Any] | None:
        path = (*place.path, "$ref")
        if reference in place.followed or reference == "#":
            self.tell(
                f"{quote(reference)} leads back to itself: what it describes would never end", path
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
            self.tell(f"{quote(reference)} names nothing in this schema", path)
            return None
        return target

    def _read_kinds(self, raw: Mapping[str, Any], place: _Place) -> tuple[str, bool] | None:
        """The type, told or else plain from the keywords, and whether null is another."""
        said = raw.get("type")
        listed = (
            said
            if isinstance(said, list)
            else []
            if said is None and not isinstance(said, NullWord)
            else [said]
        )
        kinds = ["null" if kind is None else str(kind) for kind in listed]
        others = [kind for kind in kinds if kind != "null"]
        if not kinds:
            telling = next(
                (kind for kind, keys in _KEYWORDS.items() if any(key in raw for key in keys)), None
            )
            others = ["string"] if "enum" in raw or "const" in raw else [telling] if telling else []
        if len(others) != 1:
            message = (
                'a part has one type, or one and "null"'
                if kinds
                else f"a part of a schema has a type: {', '.join(_KEYWORDS)}"
            )
            self.tell(message, place.path)
            return None
        if others[0] not in _KEYWORDS:
            hint = did_you_mean(others[0], _KEYWORDS) or f" - there are {', '.join(_KEYWORDS)}"
            self.tell(f"unknown type {quote(others[0])}{hint}", (*place.path, "type"))
            return None
        return others[0], "null" in kinds

    def _check_keywords(self, raw: Mapping[str, Any], kind: str, place: _Place) -> None:
        for key in raw:
            if key in _FOR_ALL or key in _IGNORED or key in _KEYWORDS[kind]:
                continue
            homes = [other for other, keys in _KEYWORDS.items() if key in keys]
            if homes:
                message = (
                    f"{quote(key)} belongs to the type {' or '.join(homes)}, and this is "
                    f"{quote(kind)}"
                )
            else:
                known = [*_KEYWORDS[kind], *_FOR_ALL]
                hint = did_you_mean(key, known) or " - there are " + ", ".join(known)
                message = f"unknown key {quote(key)}{hint}"
            self.tell(message, (*place.path, key))

    def _write_enum(
        self, raw: Mapping[str, Any], kind: str, nullable: bool, place: _Place
    ) -> dict[str, Any] | None:
        key = "enum" if "enum" in raw else "const"
        listed = raw[key] if key == "enum" else [raw[key]]
        if not isinstance(listed, list) or not listed:
            self.tell(
                '"enum" is empty - name the values' if not listed else '"enum" is a list of values',
                (*place.path, key),
            )
            return None
        if len(listed) > MAX_VALUES:
            self.tell(
                f"more than {MAX_VALUES:,} values - ask for a text, and look it up afterwards",
                (*place.path, key),
            )
            return None
        values: list[object] = []
        for index, typed in enumerate(listed):
            value = read_scalar(typed, kind if "type" in raw else name_type(typed))
            if value is WRONG:
                self.tell(f"{quote(typed)} is no {kind}", (*place.path, key, index))
            elif any(value == other and type(value) is type(other) for other in values):
                self.tell(f"{quote(typed)} stands here a second time", (*place.path, key, index))
            values.append(value)
        if nullable and None not in values:
            values.append(None)
        if place.certain and place.keys and len(values) > 1 and not self.found:
            self.scored.append(ScoredField(place.keys, tuple(values)))
        return {"enum": values}

    def _write_object(
        self, raw: Mapping[str, Any], part: dict[str, Any], nullable: bool, place: _Place
    ) -> dict[str, Any] | None:
        properties = raw.get("properties")
        if not isinstance(properties, dict) or not properties:
            self.tell(
                'an object names its fields under "properties"',
                (*place.path, *(["properties"] if "properties" in raw else [])),
            )
            return None
        if str(raw.get("additionalProperties", False)).casefold() != "false":
            self.tell(
                "only the fields that are named are written: leave this out",
                (*place.path, "additionalProperties"),
            )
        required = self._read_required(raw, properties, place)
        written: dict[str, Any] = {}
        for name, typed in properties.items():
            inner = place.under("properties", name, key=name, certain=not nullable)
            self._check_name(name, properties, inner)
            read = self.read(typed, inner, required is not None and name not in required)
            if self.count > MAX_FIELDS:
                return None
            written[name] = read or {}
            if isinstance(typed, dict) and self._is_true(typed, "quote", inner):
                written[name + QUOTE] = self._write_quote(name, properties, inner)
        return {
            **part,
            "properties": written,
            "required": list(written),
            "additionalProperties": False,
        }

    def _check_name(self, name: str, properties: Mapping[str, Any], place: _Place) -> None:
        self.count += 1
        if self.count == MAX_FIELDS + 1:
            self.tell(f"more than {MAX_FIELDS} fields, counting what references repeat", place.path)
        if not name.strip() or not is_clean_line(name) or len(name) > 200:
            self.tell(
                f"{quote(name)} cannot be a field: it is blank, too long, or holds an invisible "
                "character",
                place.path,
            )

    def _read_required(
        self, raw: Mapping[str, Any], properties: Mapping[str, Any], place: _Place
    ) -> Sequence[str] | None:
        if "required" not in raw:
            return None
        required = raw["required"]
        if not isinstance(required, list):
            self.tell('"required" is a list of the object\'s fields', (*place.path, "required"))
            return None
        for index, name in enumerate(required):
            if name not in properties:
                message = (
                    f"{quote(name)} is required, but no field of the "
                    f"object{did_you_mean(str(name), properties)}"
                )
                self.tell(message, (*place.path, "required", index))
        return [str(name) for name in required]

    def _write_quote(
        self, name: str, properties: Mapping[str, Any], place: _Place
    ) -> dict[str, Any]:
        if place.keys is None:
            self.tell(
                "a field inside a list cannot be quoted: ask for the quote of the whole list",
                (*place.path, "quote"),
            )
        else:
            self.quoted.append(place.keys)
        if name + QUOTE in properties:
            self.tell(
                f"the quote would be called {quote(name + QUOTE)}, which is a field already",
                (*place.path, "quote"),
            )
        return {"type": ["string", "null"], "quote": True}

    def _write_unit(
        self, unit: object, part: dict[str, Any], nullable: bool, note: str, place: _Place
    ) -> tuple[dict[str, Any], str]:
        if isinstance(unit, str) and unit.strip():
            return part, "; ".join(filter(None, (f"in {unit.strip()}", note)))
        units = [str(name).strip() for name in unit if name] if isinstance(unit, list) else []
        if len(units) < 2 or len(set(units)) < len(units):
            self.tell(
                '"unit" is one unit, or a list of different ones to choose from',
                (*place.path, "unit"),
            )
            return part, note
        if place.certain and place.keys and not nullable:
            self.scored.append(ScoredField((*place.keys, "unit"), tuple(units)))
        kind = part["type"][0] if nullable else part["type"]
        properties = {"value": {**part, "type": kind}, "unit": {"enum": units}}
        kinds = {"type": ["object", "null"] if nullable else "object"}
        return {
            **kinds,
            "properties": properties,
            "required": ["value", "unit"],
            "additionalProperties": False,
        }, note

    def _read_bounds(self, raw: Mapping[str, Any], place: _Place) -> dict[str, Any]:
        bounds: dict[str, Any] = {}
        for key in (key for key in raw if key in _NUMBERS | _SIZES):
            value = read_scalar(raw[key], "integer" if key in _SIZES else "number")
            if value is WRONG or value is None or (key in _SIZES and value < 0):
                self.tell(
                    f"{quote(key)} must be a "
                    f"{'whole number from 0 on' if key in _SIZES else 'number'}",
                    (*place.path, key),
                )
            else:
                bounds[key] = value
        for least, most in _PAIRS:
            if least in bounds and most in bounds and bounds[least] > bounds[most]:
                self.tell(f'"{least}" is above "{most}": nothing is both', (*place.path, least))
        for key, limit in (("pattern", MAX_PATTERN), ("format", 100)):
            if key not in raw:
                continue
            if not isinstance(raw[key], str) or not 0 < len(raw[key]) <= limit:
                self.tell(
                    f"{quote(key)} must be a text of at most {limit:,} characters",
                    (*place.path, key),
                )
            elif key == "format" and raw[key] not in _FORMATS:
                known = f" - there are {', '.join(_FORMATS)}"
                self.tell(
                    f"unknown format {quote(raw[key])}{did_you_mean(raw[key], _FORMATS) or known}",
                    (*place.path, key),
                )
            else:
                bounds[key] = raw[key]
        return bounds

    def _check_leaf(self, part: Mapping[str, Any], kind: str, place: _Place) -> None:
        """By itself and not null, because what may be null is satisfied by that; and so the fault
        has a line.
        """
        plain = (
            kind in ("string", "number", "integer")
            and "enum" not in part
            and "properties" not in part
        )
        if (
            plain
            and not self.found
            and len(part) > 1
            and (trouble := find_trouble({**part, "type": kind}))
        ):
            self.tell(f"nothing satisfies this: {trouble}", place.path)

    def _is_true(self, raw: Mapping[str, Any], key: str, place: _Place) -> bool:
        said = str(raw.get(key, False)).casefold()
        if said not in ("true", "false"):
            self.tell(f"{quote(key)} must be true or false", (*place.path, key))
        return said == "true"
