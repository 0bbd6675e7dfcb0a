"""The page of the server's HTTP API, generated from its OpenAPI document."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from documentation.markdown import write_code, write_table

_INTRODUCTION = """\
# HTTP API

`medtask serve` answers these requests. A running server shows the same list, with a form for each
request, at `/docs`, and the OpenAPI document at `/openapi.json`. [The
server](../how-to/server.md) describes access, limits and errors.

"""
_METHODS = ("get", "post", "put", "patch", "delete")


def write_http_page() -> str:
    """The page."""
    document = _read_openapi()
    schemas = document.get("components", {}).get("schemas", {})
    groups: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method in operations:
                operation = operations[method]
                group = (operation.get("tags") or ["other"])[0]
                groups[group].append(_write_operation(method, path, operation, schemas))
    parts = [_INTRODUCTION]
    for group, rows in sorted(groups.items()):
        header = ("request", "meaning", "parameters", "body")
        parts.append(f"## {group}\n\n{write_table(header, rows)}\n")
    parts.append("## Objects\n\n")
    for name, schema in sorted(schemas.items()):
        if properties := schema.get("properties"):
            rows = [
                (
                    write_code(key),
                    _describe(value, schemas),
                    "yes" if key in schema.get("required", ()) else "",
                )
                for key, value in properties.items()
            ]
            parts.append(f"### {name}\n\n{write_table(('key', 'type', 'required'), rows)}\n")
    return "".join(parts)


def _read_openapi() -> dict[str, Any]:
    from medtask.server.app import create_app
    from medtask.server.settings import ServerSettings

    with tempfile.TemporaryDirectory() as folder:
        document: dict[str, Any] = create_app(ServerSettings(Path(folder))).openapi()
    return document


def _write_operation(
    method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> tuple[str, ...]:
    text = operation.get("description") or operation.get("summary") or ""
    parameters = ", ".join(
        write_code(one["name"]) for one in operation.get("parameters", ()) if one["in"] == "query"
    )
    bodies = operation.get("requestBody", {}).get("content", {})
    body = next((_describe(one.get("schema", {}), schemas) for one in bodies.values()), "")
    first = " ".join(text.partition("\n\n")[0].split()).replace("<", "&lt;")
    return (write_code(f"{method.upper()} {path}"), first, parameters, body)


def _describe(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """The type of a value; ``schemas`` are all named ones of the document."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        if "properties" in schemas[name]:
            return f"[{name}](#{name.lower()})"
        return _describe(schemas[name], schemas)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_describe(one, schemas) for one in schema[key]))
    if "enum" in schema:
        return " or ".join(write_code(str(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_describe(schema.get('items', {}), schemas)}"
    return str(schema.get("type") or schema.get("const") or "any")
