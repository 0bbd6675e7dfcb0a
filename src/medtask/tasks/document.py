"""Task files as text with line numbers, from YAML or JSON without type conversion."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medtask.display import quote
from medtask.errors import InputError, TaskFault, TaskFaults
from medtask.tasks.parse_events import MAX_DEPTH, ParseEvent, iter_json_events, iter_yaml_events

MAX_BYTES = 1_000_000
MAX_NODES = 20_000  # including everything that aliases repeat

KeyPath = tuple[str | int, ...]

_CONTROL_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")


@dataclass(frozen=True, slots=True)
class SourceLines:
    """Line numbers of a file, from 1.

    Attributes:
        lines: The line of every key and list item.
        block_lines: The first line of the text of each ``|`` block.
    """

    lines: Mapping[KeyPath, int]
    block_lines: Mapping[KeyPath, int]

    def find(self, *path: str | int, text_line: int = 1) -> int | None:
        """The line of the value at ``path``, or else of its container; None if not found.

        ``text_line`` is a line within the value's text, from 1.
        """
        if path in self.block_lines:
            return self.block_lines[path] + text_line - 1
        known = (path[:length] for length in range(len(path), 0, -1))
        return next((self.lines[prefix] for prefix in known if prefix in self.lines), None)


@dataclass(frozen=True, slots=True)
class Document:
    """A task file as text.

    Attributes:
        source: The name of the file.
        data: The content; every scalar is the text as typed, or None if it is empty.
        source_lines: The line numbers.
        faults: The faults found while reading.
        warnings: What is valid and probably not meant, with its line.
    """

    source: str
    data: dict[str, object]
    source_lines: SourceLines = field(repr=False)
    faults: tuple[TaskFault, ...] = ()
    warnings: tuple[TaskFault, ...] = ()

    def get_value(self, *path: str | int) -> object:
        """The value at ``path``; None if not found."""
        value: object = self.data
        for key in path:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return None
        return value

    def find_line(self, *path: str | int) -> int | None:
        """The line of the value at ``path``, or else of its container."""
        return self.source_lines.find(*path)

    def make_fault(self, message: str, *path: str | int, text_line: int = 1) -> TaskFault:
        """A fault with the line of the value at ``path``."""
        return TaskFault(self.source_lines.find(*path, text_line=text_line), message)


def read_document(path: Path) -> Document:
    """Read a task file by its suffix. Raises TaskFaults if it cannot be parsed."""
    source = str(path)
    text = _read_text(path)
    events = (
        iter_json_events(text, source)
        if path.suffix.lower() == ".json"
        else iter_yaml_events(text, source)
    )
    builder = _DocumentBuilder(source, events)
    first = next(events, None)
    if first is None:
        raise TaskFaults(source, [TaskFault(None, "the file is empty")])
    data = builder.build(first, (), 0)
    if next(events, None) is not None:
        raise TaskFaults(
            source,
            [TaskFault(None, "the file holds more than one document - write one task per file")],
        )
    if not isinstance(data, dict):
        raise TaskFaults(
            source, [TaskFault(first.line, "a task is a mapping: instruction, input, answer")]
        )
    return Document(
        source,
        data,
        SourceLines(builder.lines, builder.blocks),
        tuple(builder.faults),
        tuple(builder.warnings),
    )


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}", fix="check the path and its permissions"
        ) from None
    if len(raw) > MAX_BYTES:
        message = (
            f"the file is larger than {MAX_BYTES:,} bytes - move long examples into a "
            "table and name it under examples"
        )
        raise TaskFaults(str(path), [TaskFault(None, message)])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TaskFaults(
            str(path), [TaskFault(line, "not UTF-8 - save the file with the encoding UTF-8")]
        ) from None
    if unwanted := _CONTROL_CHARACTER.search(text):
        line = text.count("\n", 0, unwanted.start()) + 1
        message = f"a control character (U+{ord(unwanted[0]):04X}) is not allowed in a task file"
        raise TaskFaults(str(path), [TaskFault(line, message)])
    return text


class _DocumentBuilder:
    """Builds a tree from parse events and records line numbers."""

    def __init__(self, source: str, events: Iterator[ParseEvent]) -> None:
        self.source = source
        self.events = events
        self.lines: dict[KeyPath, int] = {}
        self.blocks: dict[KeyPath, int] = {}
        self.faults: list[TaskFault] = []
        self.warnings: list[TaskFault] = []
        self.anchors: dict[str, tuple[object, int]] = {}
        self.nodes = 0

    def build(self, event: ParseEvent, path: KeyPath, depth: int) -> object:
        if depth > MAX_DEPTH:
            raise self._make_error(event, f"nested more than {MAX_DEPTH} deep")
        self._count_nodes(event, 1)
        before = self.nodes
        if event.kind == "alias":
            return self._resolve_alias(event)
        if event.tag not in _TEXT_TAGS:
            self.faults.append(
                TaskFault(
                    event.line,
                    f"the YAML tag {quote(event.tag)} has no meaning in a task file - leave it "
                    'out, or put quotes around a text that begins with "!"',
                )
            )
        value: object
        if event.kind == "map":
            value = self._build_mapping(path, depth)
        elif event.kind == "list":
            value = self._build_list(path, depth)
        else:
            value = self._check_scalar(event)
            if event.is_block:
                self.blocks[path] = event.line + 1
        if event.anchor:
            self.anchors[event.anchor] = (value, self.nodes - before)
        return value

    def _build_mapping(self, path: KeyPath, depth: int) -> dict[str, object]:
        mapping: dict[str, object] = {}
        while (key := next(self.events)).kind != "end":
            if key.kind != "scalar":
                hint = '" around a value that begins with "{", as in input: "{{ procedure }}"'
                raise self._make_error(
                    key, f"a key must be plain text - if this is a template, put {hint}"
                )
            name = str(self._check_scalar(key) or "")
            key_path = (*path, name)
            if name in mapping:
                message = (
                    f"the key {quote(name)} is used twice, first in line {self.lines[key_path]}"
                )
                self.faults.append(TaskFault(key.line, message))
                # The first value is kept; the repeated one is parsed and discarded.
                self.build(next(self.events), (*path, name, -1), depth + 1)
                continue
            self.lines[key_path] = key.line
            mapping[name] = self.build(next(self.events), key_path, depth + 1)
        return mapping

    def _build_list(self, path: KeyPath, depth: int) -> list[object]:
        items: list[object] = []
        while (item := next(self.events)).kind != "end":
            item_path = (*path, len(items))
            self.lines[item_path] = item.line
            items.append(self.build(item, item_path, depth + 1))
        return items

    def _resolve_alias(self, event: ParseEvent) -> object:
        # An anchor is registered when it is complete, so no value can contain itself; the tree is
        # shared, not copied.
        value, nodes = self.anchors.get(event.value or "", (None, -1))
        if nodes < 0:
            raise self._make_error(
                event,
                f"the alias *{event.value} refers to an anchor that is not defined before it - put "
                f'quotes around a text that begins with "*", as in "*{event.value}"',
            )
        self._count_nodes(event, nodes)
        return value

    def _count_nodes(self, event: ParseEvent, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise self._make_error(
                event, f"more than {MAX_NODES:,} values, counting what aliases repeat"
            )

    def _check_scalar(self, event: ParseEvent) -> str | None:
        if event.fault:
            self.faults.append(TaskFault(event.line, event.fault))
        if event.warning:
            self.warnings.append(TaskFault(event.line, event.warning))
        if event.value is None or not _LONE_SURROGATE.search(event.value):
            return event.value
        self.faults.append(
            TaskFault(
                event.line, "half a character (a lone surrogate) - write the character itself"
            )
        )
        return _LONE_SURROGATE.sub("\ufffd", event.value)

    def _make_error(self, event: ParseEvent, message: str) -> TaskFaults:
        return TaskFaults(self.source, [*self.faults, TaskFault(event.line, message)])
