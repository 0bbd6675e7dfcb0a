"""Objects of a JSON schema as a column with a type of its own: structs and lists in place of
text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medtask.data.values import encodable, json_text

if TYPE_CHECKING:
    import polars as pl

_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def nested_dtype(schema: Mapping[str, Any]) -> pl.DataType:
    """The polars type of what a schema describes; text (JSON) where that is no single type."""
    import polars as pl

    kind = _find_kind(schema)
    match kind:
        case "object":
            return pl.Struct(
                {name: nested_dtype(part) for name, part in schema["properties"].items()}
            )
        case "array":
            return pl.List(nested_dtype(schema["items"]))
        case "integer":
            return pl.Int64()
        case "number":
            return pl.Float64()
        case "boolean":
            return pl.Boolean()
    return pl.String()


def fit_nested(value: Any, schema: Mapping[str, Any]) -> object:
    """The value as its column's type holds it; None where it is missing or cannot be held."""
    if value is None:
        return None
    match _find_kind(schema):
        case "object":
            return {
                name: fit_nested(value.get(name), part)
                for name, part in schema["properties"].items()
            }
        case "array":
            return [fit_nested(one, schema["items"]) for one in value]
        case "integer":
            return int(value) if abs(value) < 2**63 else None
        case "number":
            return float(value)
        case "boolean":
            return bool(value)
    return encodable(value if isinstance(value, str) else json_text(value))


def _find_kind(schema: Mapping[str, Any]) -> str | None:
    """The one type that all values of a schema have, null apart; None where there is none."""
    if "enum" in schema:
        kinds = {_SCALARS.get(type(value)) for value in schema["enum"] if value is not None}
        return kinds.pop() if len(kinds) == 1 else None
    given = schema.get("type")
    named = [
        name for name in ([given] if isinstance(given, str) else given or []) if name != "null"
    ]
    if len(named) != 1:
        return None
    kind = str(named[0])
    complete = {"object": bool(schema.get("properties")), "array": "items" in schema}.get(
        kind, True
    )
    return kind if complete else None
