"""The valid keys of each section of a task file, and suggestions for unknown keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from medtask.display import find_closest, format_suggestion, quote
from medtask.tasks.config import SECTION_CONFIGS, PassConfig, TaskConfig, list_keys
from medtask.tasks.document import Document, KeyPath, SourceLines
from medtask.tasks.kinds import TASK_KINDS
from medtask.tasks.reader import TaskReader

MAX_LISTED_FAULTS = 50

_ANSWER_KEYS = list(
    dict.fromkeys(key for kind in TASK_KINDS.values() for key in list_keys(kind.config_type))
)
# The section of each key. For keys of several sections the first one wins, so it is added last.
_KEY_SECTIONS: Mapping[str, str] = {
    **{
        key: name
        for name in reversed(list(SECTION_CONFIGS))
        for key in list_keys(SECTION_CONFIGS[name])
    },
    **dict.fromkeys(_ANSWER_KEYS, "answer"),
    **dict.fromkeys(list_keys(TaskConfig), ""),
}


def find_kind(answer: object) -> str | None:
    """The kind that an answer section names, or the most similar one."""
    kind = answer.get("kind") if isinstance(answer, dict) else None
    if not isinstance(kind, str):
        return None
    return kind if kind in TASK_KINDS else find_closest(kind, TASK_KINDS)


def resolve_keys(reader: TaskReader) -> None:
    """Remove unknown keys from the document of ``reader``, with a fault for each.

    A misspelled key is renamed, so that faults of its value are found as well.
    """
    waiting: list[KeyPath] = [()]
    while waiting:
        path = waiting.pop()
        _resolve_section_keys(reader, path)
        waiting += _find_sections(reader.document, path)


def _find_sections(document: Document, path: KeyPath) -> Iterator[KeyPath]:
    """The sections directly below ``path``."""
    section = document.get_value(*path)
    if not isinstance(section, dict) or (path and not isinstance(path[-1], int)):
        return
    for key, value in section.items():
        if isinstance(value, dict) and (key in SECTION_CONFIGS or key == "answer"):
            yield (*path, key)
        elif isinstance(value, list) and key == "passes":
            yield from (
                (*path, key, index) for index, item in enumerate(value) if isinstance(item, dict)
            )


def _list_known_keys(document: Document, path: KeyPath) -> Sequence[str]:
    if not path:
        return list_keys(TaskConfig)
    if path == ("answer",):
        kind = find_kind(document.get_value(*path))
        return list_keys(TASK_KINDS[kind].config_type) if kind else _ANSWER_KEYS
    return list_keys(PassConfig if isinstance(path[-1], int) else SECTION_CONFIGS[path[-1]])


def _resolve_section_keys(reader: TaskReader, path: KeyPath) -> None:
    document = reader.document
    section = document.get_value(*path)
    assert isinstance(section, dict)
    known = _list_known_keys(document, path)
    resolved = {key: value for key, value in section.items() if key in known}
    lines = document.source_lines
    unknown = [key for key in section if key not in known]
    for key in unknown[:MAX_LISTED_FAULTS]:
        reader.add_fault(_explain_key(key, path, known, document), *path, key)
        suggestion = find_closest(key, known)
        if suggestion and suggestion not in resolved and key not in _KEY_SECTIONS:
            resolved[suggestion] = section[key]
            lines = SourceLines(
                *(
                    _move_lines(numbers, (*path, key), (*path, suggestion))
                    for numbers in (lines.lines, lines.block_lines)
                )
            )
    if len(unknown) > MAX_LISTED_FAULTS:
        count = len(unknown) - MAX_LISTED_FAULTS
        reader.add_fault(f"and {count:,} more unknown keys", *path)
    data = _replace_value(document.data, path, resolved)
    reader.document = replace(document, data=data, source_lines=lines)


def _explain_key(key: str, path: KeyPath, known: Sequence[str], document: Document) -> str:
    if path == ("answer",) and key in _ANSWER_KEYS:
        kinds_with_key = [
            name for name, kind in TASK_KINDS.items() if key in list_keys(kind.config_type)
        ]
        kinds = (
            f"the kind {kinds_with_key[0]}"
            if len(kinds_with_key) == 1
            else f"the kinds {' and '.join(kinds_with_key)}"
        )
        return (
            f"{quote(key)} belongs to {kinds}, and this task is of the kind "
            f"{find_kind(document.get_value(*path))}"
        )
    if near := format_suggestion(key, () if key in _KEY_SECTIONS else known):
        return f"unknown key {quote(key)}{near}"
    if suggestion := find_closest(key, _KEY_SECTIONS):
        home = (
            f"under {quote(_KEY_SECTIONS[suggestion])}"
            if _KEY_SECTIONS[suggestion]
            else "beside instruction, at the left"
        )
        return f"unknown key {quote(key)} - {quote(suggestion)} belongs {home}"
    return f"unknown key {quote(key)} - there are {', '.join(known)}"


def _replace_value(data: Any, path: KeyPath, value: object) -> Any:
    """A copy of ``data`` with ``value`` at ``path``; only containers on the path are copied."""
    if not path:
        return value
    copy: Any = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = _replace_value(data[path[0]], path[1:], value)
    return copy


def _move_lines(lines: Mapping[KeyPath, int], old: KeyPath, new: KeyPath) -> dict[KeyPath, int]:
    return {
        (*new, *path[len(old) :]) if path[: len(old)] == old else path: line
        for path, line in lines.items()
    }
