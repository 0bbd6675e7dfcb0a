"""The JSON Schema of task files, for editors; made from the configuration of the keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medtask.tasks.config import SECTION_CONFIGS, ConfigModel, PassConfig, TaskConfig
from medtask.tasks.key_reference import KEY_DESCRIPTIONS, KeyDescription
from medtask.tasks.kinds import TASK_KINDS

SECTIONS: Mapping[str, type[ConfigModel]] = {**SECTION_CONFIGS, "pass": PassConfig}


@dataclass(frozen=True, slots=True)
class TaskKey:
    """A key of a task file.

    Attributes:
        name: The key.
        description: Its meaning and an example.
        schema: The JSON Schema of its value.
        required: Whether a task file must have it.
    """

    name: str
    description: KeyDescription
    schema: Mapping[str, Any]
    required: bool


def list_section_keys(section: str) -> list[TaskKey]:
    """The keys of a section: "" for the whole file, a kind for ``answer:``, or one of `SECTIONS`.

    Raises:
        KeyError: A key has no description in `key_reference`, or in its kind.
    """
    if section in TASK_KINDS:
        config_type = TASK_KINDS[section].config_type
    else:
        config_type = SECTIONS[section] if section else TaskConfig
    generated = config_type.model_json_schema()
    required = generated.get("required", ())
    return [
        TaskKey(
            name,
            description := _find_description(section, name),
            description.schema or _simplify(generated["properties"][name]),
            name in required,
        )
        for name in generated["properties"]
        if name != "kind" or section not in TASK_KINDS
    ]


def build_task_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a task file."""
    root = _build_object(list_section_keys(""))
    kinds = [_build_answer(kind) for kind in TASK_KINDS]
    root["properties"]["answer"] = {
        "description": _find_description("", "answer").summary,
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"enum": list(TASK_KINDS)}},
        "allOf": kinds,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A task file of medtask",
        **root,
        "$defs": {section: _build_object(list_section_keys(section)) for section in SECTIONS},
    }


def _build_answer(kind: str) -> dict[str, Any]:
    built = _build_object(list_section_keys(kind))
    built["properties"] = {"kind": {"const": kind}, **built["properties"]}
    return {"if": {"properties": {"kind": {"const": kind}}}, "then": built}


def _build_object(keys: list[TaskKey]) -> dict[str, Any]:
    built: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            key.name: {"description": key.description.summary, **key.schema} for key in keys
        },
    }
    if required := [key.name for key in keys if key.required]:
        built["required"] = required
    return built


def _find_description(section: str, key: str) -> KeyDescription:
    kind = TASK_KINDS.get(section)
    descriptions = kind.key_descriptions if kind else KEY_DESCRIPTIONS[section]
    return descriptions[key]


def _simplify(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of one value without the titles and the error texts of pydantic."""
    kept = {key: value for key, value in schema.items() if key not in {"title", "description"}}
    if "anyOf" in kept:
        kept["anyOf"] = [_simplify(option) for option in kept["anyOf"]]
    return kept
