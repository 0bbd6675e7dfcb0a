"""Field values from text (task files, gold, examples), typed by a JSON schema."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from medtask.names import Names
from medtask.tasks.parse_events import NullScalar

QUOTE_SUFFIX = "_quote"  # after a field's name: the span of the record that supports its value
INVALID: Any = object()  # returned by parse_scalar for a text that is not a value of the type

_BOOLEANS = Names(("true", "false"))
_MEASUREMENT = re.compile(r"([-+]?[\d.,]*\d)\s*([^\d\s]\D*)")


def parse_scalar(raw: object, json_type: str) -> Any:
    """Convert text or a JSON scalar to a schema type; INVALID if not possible.

    Null is valid for every type.
    """
    if raw is None or (isinstance(raw, NullScalar) and (json_type != "string" or raw == "null")):
        return None
    if json_type == "string":
        return str(raw) if isinstance(raw, str) and raw else INVALID
    text = json.dumps(raw) if isinstance(raw, bool | int | float) else str(raw).strip()
    if json_type == "boolean":
        return {"true": True, "false": False}.get(_BOOLEANS.find(text) or "", INVALID)
    if json_type not in ("integer", "number"):
        return INVALID
    try:
        value: int | float = int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            return INVALID
    if not math.isfinite(value):
        return INVALID
    if json_type == "integer":
        return int(value) if value == int(value) else INVALID
    return value


def format_json(value: object) -> str:
    """Compact JSON, in the format of constrained decoding."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def find_json_type(value: object) -> str:
    """The JSON schema type of a scalar."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
    return "string"


def find_value(value: object, path: Iterable[str]) -> object:
    """The value at a path of keys; None if it is missing."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def read_unit(part: Mapping[str, Any]) -> str:
    """The unit of a number: a schema's single unit is the beginning of its description."""
    types = part.get("type", ())
    if not {"number", "integer"}.intersection([types] if isinstance(types, str) else types):
        return ""
    note = str(part.get("description", ""))
    return note.removeprefix("in ").partition(";")[0].strip() if note.startswith("in ") else ""


def list_units(schema: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The units of the numbers of an object, by dotted path."""
    units: dict[str, str] = {}
    for name, part in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        units |= list_units(part, f"{path}.")
        if unit := read_unit(part):
            units[path] = unit
    return units


def coerce_value(
    part: Mapping[str, Any], value: object, problems: dict[str, str], path: str = ""
) -> Any:
    """The value typed by a schema's ``part``, with keys in the schema's order.

    Invalid parts are unchanged and reported in ``problems``, by field path. Missing fields are not
    reported.
    """
    kinds = [part["type"]] if isinstance(part.get("type"), str) else list(part.get("type", ()))
    if (value is None or isinstance(value, NullScalar)) and (
        "null" in kinds or None in part.get("enum", ())
    ):
        return None
    if "enum" in part:
        return _coerce_enum(part["enum"], value, problems, path)
    kind = next((kind for kind in kinds if kind != "null"), "string")
    if kind == "object":
        return _coerce_object(part["properties"], value, problems, path)
    if kind == "array":
        if not isinstance(value, list | tuple):
            problems[path] = "is not a list"
            return value
        return [
            coerce_value(part["items"], item, problems, f"{path}[{index}]")
            for index, item in enumerate(value)
        ]
    coerced = parse_scalar(value, kind)
    if coerced is INVALID or coerced is None:
        problems[path] = f"is not a valid {kind}"
        return value
    return coerced


def _coerce_enum(
    values: list[object], value: object, problems: dict[str, str], path: str
) -> object:
    for known in values:
        if (
            known is not None
            and type(coerced := parse_scalar(value, find_json_type(known))) is type(known)
            and coerced == known
        ):
            return known
    by_name = {str(known): known for known in values if isinstance(known, str)}
    name = Names(by_name).find(str(value)) if isinstance(value, str | int | float) else None
    if name is not None:
        return by_name[name]
    problems[path] = "is not one of its values"
    return value


def _coerce_object(
    properties: Mapping[str, Any], value: object, problems: dict[str, str], path: str
) -> object:
    measure = (
        _MEASUREMENT.fullmatch(value.strip())
        if isinstance(value, str) and list(properties) == ["value", "unit"]
        else None
    )
    if measure:
        value = {"value": measure[1], "unit": measure[2].strip()}
    if not isinstance(value, Mapping):
        problems[path] = "is not an object"
        return value
    inside = f"{path}." if path else ""
    known = {
        name: coerce_value(part, value[name], problems, f"{inside}{name}")
        for name, part in properties.items()
        if name in value
    }
    unknown = {str(name): inner for name, inner in value.items() if name not in properties}
    problems.update({f"{inside}{name}": "is not a field" for name in unknown})
    return known | unknown
