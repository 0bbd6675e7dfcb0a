"""Values of fields as their schema types them: what a task file, a gold column or a worked example
says as text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from medtask.tasks.source import NullWord

QUOTE = "_quote"  # behind a field's name: the span of the record that says so
WRONG: Any = object()  # what read_scalar says of a text that is no value of the type

_MEASURE = re.compile(r"([-+]?[\d.,]*\d)\s*(\D+)")


def read_scalar(typed: object, kind: str) -> Any:
    """A typed text, or a JSON scalar, as a value of a schema's type; WRONG where it is none. Null
    is a value of every type.
    """
    if typed is None or (isinstance(typed, NullWord) and (kind != "string" or typed == "null")):
        return None
    if kind == "string":
        return str(typed) if isinstance(typed, str) and typed else WRONG
    text = json.dumps(typed) if isinstance(typed, bool | int | float) else str(typed).strip()
    if kind == "boolean":
        return {"true": True, "yes": True, "false": False, "no": False}.get(text.casefold(), WRONG)
    if kind not in ("integer", "number"):
        return WRONG
    try:
        value: int | float = int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            return WRONG
    if not math.isfinite(value):
        return WRONG
    if kind == "integer":
        return int(value) if value == int(value) else WRONG
    return value


def write_json(value: object) -> str:
    """Compact JSON, as constrained decoding writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def name_type(value: object) -> str:
    """The schema's type of a JSON scalar."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
    return "string"


def shape_value(
    part: Mapping[str, Any], value: object, troubles: dict[str, str], place: str = ""
) -> Any:
    """The value as a schema's ``part`` types it, its keys in the schema's order.

    What does not fit is left as it is and told in ``troubles``, by the field's path; a field that
    is missing is no trouble.
    """
    kinds = [part["type"]] if isinstance(part.get("type"), str) else list(part.get("type", ()))
    if (value is None or isinstance(value, NullWord)) and (
        "null" in kinds or None in part.get("enum", ())
    ):
        return None
    if "enum" in part:
        return _shape_choice(part["enum"], value, troubles, place)
    kind = next((kind for kind in kinds if kind != "null"), "string")
    if kind == "object":
        return _shape_object(part["properties"], value, troubles, place)
    if kind == "array":
        if not isinstance(value, list | tuple):
            troubles[place] = "is no list"
            return value
        return [
            shape_value(part["items"], item, troubles, f"{place}[{index}]")
            for index, item in enumerate(value)
        ]
    shaped = read_scalar(value, kind)
    if shaped is WRONG or shaped is None:
        troubles[place] = f"is no {kind}"
        return value
    return shaped


def _shape_choice(
    values: list[object], value: object, troubles: dict[str, str], place: str
) -> object:
    for known in values:
        if (
            known is not None
            and type(shaped := read_scalar(value, name_type(known))) is type(known)
            and shaped == known
        ):
            return known
    troubles[place] = "is none of its values"
    return value


def _shape_object(
    properties: Mapping[str, Any], value: object, troubles: dict[str, str], place: str
) -> object:
    measure = (
        _MEASURE.fullmatch(value.strip())
        if isinstance(value, str) and list(properties) == ["value", "unit"]
        else None
    )
    if measure:
        value = {"value": measure[1], "unit": measure[2].strip()}
    if not isinstance(value, Mapping):
        troubles[place] = "is no object"
        return value
    inside = f"{place}." if place else ""
    known = {
        name: shape_value(part, value[name], troubles, f"{inside}{name}")
        for name, part in properties.items()
        if name in value
    }
    strange = {str(name): inner for name, inner in value.items() if name not in properties}
    troubles.update({f"{inside}{name}": "is no field" for name in strange})
    return known | strange
