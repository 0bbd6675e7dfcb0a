"""Column types (structs and lists) for values that a JSON schema describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medtask.tables.cell_values import format_json_cell, replace_surrogates

if TYPE_CHECKING:
    import polars as pl

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema_to_dtype(schema: Mapping[str, Any]) -> pl.DataType:
    """The polars type for a schema; text (JSON) if the schema allows several types."""
    import polars as pl

    kind = _find_single_type(schema)
    match kind:
        case "object":
            return pl.Struct(
                {name: schema_to_dtype(part) for name, part in schema["properties"].items()}
            )
        case "array":
            return pl.List(schema_to_dtype(schema["items"]))
        case "integer":
            return pl.Int64()
        case "number":
            return pl.Float64()
        case "boolean":
            return pl.Boolean()
    return pl.String()


def cast_to_schema(value: Any, schema: Mapping[str, Any]) -> object:
    """The value converted to its column's type; None if it is missing or out of range."""
    if value is None:
        return None
    match _find_single_type(schema):
        case "object":
            return {
                name: cast_to_schema(value.get(name), part)
                for name, part in schema["properties"].items()
            }
        case "array":
            return [cast_to_schema(one, schema["items"]) for one in value]
        case "integer":
            return int(value) if abs(value) < 2**63 else None
        case "number":
            return float(value)
        case "boolean":
            return bool(value)
    return replace_surrogates(value if isinstance(value, str) else format_json_cell(value))


def _find_single_type(schema: Mapping[str, Any]) -> str | None:
    """The single type of a schema's values, apart from null; None if there are several."""
    if "enum" in schema:
        kinds = {_JSON_TYPES.get(type(value)) for value in schema["enum"] if value is not None}
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
