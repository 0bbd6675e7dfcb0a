"""The page of all keys of a task file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from documentation.markdown import write_code, write_table
from medtask.kinds import KINDS
from medtask.tasks.json_schema import SECTIONS, TaskKey, list_section_keys
from medtask.tasks.kinds import TASK_KINDS

_INTRODUCTION = """\
# Task files

A task is one file, `task.yaml` or `task.json`, in a folder of its own. The commands accept the
file or the folder. Unknown keys are faults. All faults of a file are reported at once, with their
lines: `medtask check TASK`.

`medtask init` also writes `task.schema.json`, and a first line that names it, so that an editor
with a YAML language server completes keys and marks faults while you type. `medtask data schema`
prints the same JSON Schema.

"""
_SECTION_TITLES = {"pass": "An item of `passes:`", "when": "`when:` of a pass"}


def write_task_file_page() -> str:
    """The page, generated from the configuration of task files."""
    parts = [_INTRODUCTION, "## The whole file\n\n", _write_keys(list_section_keys(""))]
    for kind in KINDS:
        parts += [
            f"\n## `answer:` of the kind `{kind}`\n\n",
            f"`kind: {kind}` asks for {_describe_kind(kind)}\n\n",
            _write_keys(list_section_keys(kind)),
        ]
    for section in SECTIONS:
        title = _SECTION_TITLES.get(section, f"`{section}:`")
        parts += [f"\n## {title}\n\n", _write_keys(list_section_keys(section))]
    return "".join(parts)


def _describe_kind(kind: str) -> str:
    """The first sentence of the module of the kind."""
    module = import_module(TASK_KINDS[kind].__module__)
    return (module.__doc__ or "").partition(": ")[2].partition("\n")[0]


def _write_keys(keys: list[TaskKey]) -> str:
    header = ("key", "type", "default", "meaning", "example")
    return write_table(header, map(_write_key, keys))


def _write_key(key: TaskKey) -> tuple[str, ...]:
    return (
        write_code(key.name),
        describe_type(key.schema),
        "required" if key.required else _describe_default(key.schema),
        key.description.summary,
        write_code(key.description.example),
    )


def describe_type(schema: Mapping[str, Any]) -> str:
    """The type of a value in words."""
    if "$ref" in schema:
        return "section"
    if "const" in schema:
        return write_code(str(schema["const"]))
    if "enum" in schema:
        return " or ".join(write_code(str(value)) for value in schema["enum"])
    if "anyOf" in schema:
        kinds = [describe_type(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return ", or ".join(dict.fromkeys(kinds))
    kinds = schema.get("type", "object")
    if isinstance(kinds, list):
        if "string" in kinds and "number" in kinds:
            return "text"
        return ", or ".join(describe_type({"type": kind}) for kind in kinds if kind != "null")
    if kinds == "array":
        return "list"
    if kinds in {"number", "integer"}:
        return {"number": "number", "integer": "whole number"}[kinds] + _describe_range(schema)
    return {"string": "text", "boolean": "true or false", "object": "mapping"}[kinds]


def _describe_range(schema: Mapping[str, Any]) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None or high is None or high >= 2**31:
        return ""
    return f", {low:,} to {high:,}"


def _describe_default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    if default is None:
        return "none"
    return write_code(default if isinstance(default, str) else json.dumps(default))
