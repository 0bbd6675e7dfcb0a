"""Writes a task file with other words, keeping comments and order where possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medtask.errors import InputError, TaskFaults
from medtask.tables.cell_values import read_cell
from medtask.tasks.document import Document, KeyPath, read_document
from medtask.tasks.task import Example, Task
from medtask.training.search.prompt_candidate import PromptCandidate, extract_candidate

WIDTH = 110
KeyChange = tuple[KeyPath, object]


def rewrite_task(
    task: Task, candidate: PromptCandidate, comments: Sequence[str], rows_file: str | None = None
) -> str:
    """The task's file as YAML with a candidate's words.

    Args:
        task: The original task.
        candidate: The new words.
        comments: Comment lines at the start of the file.
        rows_file: The name of the file of the rows that chose the words.

    Raises:
        InputError: The task was not read from a file.
    """
    if task.source is None:
        raise InputError("the task was not read from a file", fix="write it into a file first")
    document = read_document(task.source)
    changes = list(_list_changes(task, candidate, document))
    if rows_file is not None:
        changes.append((("tuning_rows",), rows_file))
    head = "".join(f"# {line}\n" for line in comments)
    expected = _apply(document.data, changes)
    if task.source.suffix.lower() != ".json":
        text = head + _replace_spans(task.source.read_text(encoding="utf-8-sig"), document, changes)
        if _parses_as(text, expected, task.source):
            return text
    # JSON, or YAML in a style that spans cannot replace. Comments are lost, but no content.
    return head + yaml.safe_dump(expected, sort_keys=False, allow_unicode=True, width=WIDTH)


def write_example(example: Example) -> dict[str, object]:
    """An example in the form of a task file."""
    return {
        # A missing cell becomes "", as examples need all columns.
        **_convert(example.fields, lambda cell: read_cell(cell) or ""),
        "answer": _convert(example.answer, lambda scalar: scalar),
    }


def _list_changes(task: Task, candidate: PromptCandidate, document: Document) -> list[KeyChange]:
    before = extract_candidate(task)
    changes: list[KeyChange] = []
    if candidate.instruction != before.instruction:
        changes.append((("instruction",), candidate.instruction))
    if candidate.definitions is not None and candidate.definitions != before.definitions:
        changes.append(
            (
                ("answer", "labels"),
                {name: definition or None for name, definition in candidate.definitions.items()},
            )
        )
    if candidate.examples is not None:
        changes.append((("examples",), [write_example(example) for example in candidate.examples]))
    return changes


def _apply(data: Mapping[str, object], changes: Sequence[KeyChange]) -> Any:
    """The content after all changes."""
    changed = _convert(data, lambda scalar: None if scalar is None else str(scalar))
    for path, value in changes:
        inner = changed
        for key in path[:-1]:
            inner = inner[str(key)]
        inner[str(path[-1])] = value
    return changed


def _replace_spans(text: str, document: Document, changes: Sequence[KeyChange]) -> str:
    lines = text.splitlines()
    if lines and lines[-1].strip() == "...":
        lines.pop()
    spans = [(_find_span(document, path, lines), path, value) for path, value in changes]
    # From the end, so that the line numbers of earlier changes stay valid.
    for span, path, value in sorted(spans, key=lambda found: -found[0][0]):
        first, last = span
        indent = len(lines[first]) - len(lines[first].lstrip()) if first < len(lines) else 0
        block = yaml.safe_dump({path[-1]: value}, sort_keys=False, allow_unicode=True, width=WIDTH)
        lines[first:last] = [" " * indent + line if line else line for line in block.splitlines()]
    return "\n".join(lines) + "\n"


def _find_span(document: Document, path: KeyPath, lines: Sequence[str]) -> tuple[int, int]:
    """The lines of a key and its value as a half-open range from 0; the file's end if missing.

    Comments and blank lines before the next key belong to that key.
    """
    if path not in document.source_lines.lines:
        return len(lines), len(lines)
    first = document.source_lines.lines[path]
    later = [
        line
        for other, line in document.source_lines.lines.items()
        if other[: len(path)] != path and line > first
    ]
    last = min(later, default=len(lines) + 1) - 1
    while last > first and (
        not lines[last - 1].strip() or lines[last - 1].lstrip().startswith("#")
    ):
        last -= 1
    return first - 1, last


def _parses_as(text: str, expected: Mapping[str, object], source: Path) -> bool:
    """Whether the text parses as expected; files of one line or with anchors may not."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix=".medtask-") as folder:
        draft = Path(folder) / source.name
        draft.write_text(text, encoding="utf-8")
        try:
            return _normalize_value(read_document(draft).data) == _normalize_value(expected)
        except TaskFaults:
            return False


def _convert(value: Any, convert_scalar: Callable[[Any], object]) -> Any:
    """Mappings and sequences as those of YAML, with converted scalars."""
    if isinstance(value, Mapping):
        return {str(key): _convert(part, convert_scalar) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_convert(part, convert_scalar) for part in value]
    return convert_scalar(value)


def _normalize_value(value: object) -> object:
    """Normalise as a task file does: scalars are texts, and null is an empty text."""
    return _convert(value, lambda scalar: "" if scalar is None else str(scalar).strip())
