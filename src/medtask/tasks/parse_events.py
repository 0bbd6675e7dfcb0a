"""Parse events of task files: YAML and JSON as text with line numbers, without type conversion."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import yaml

from medtask.display import quote
from medtask.errors import TaskFault, TaskFaults

MAX_DEPTH = 20
_JSON_TOKEN = re.compile(r'[{}\[\]]|"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+')
_YAML_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
# The beginning of a line up to a value: dashes of lists, and a key.
_BEFORE_VALUE = r"^\s*(?:-\s+)*(?:[^\s\"'#][^\"'#]*?:\s+)?"
_INDICATOR = re.compile(_BEFORE_VALUE + r"([@`%*&>|!?,\]}].*)$")
_INDICATOR_IN_FLOW = re.compile(r"[\[{,]\s*([@`%*&>|!][^,\]}:]*)")
_BLOCK_HEADER = re.compile(r"[>|](?:[1-9][+-]?|[+-][1-9]?)?\s*(?:#.*)?")
_QUOTED_START = re.compile(
    _BEFORE_VALUE + r"""(?:(["'])(?:(?!\1).)*\1\s*[^\s#:,\]}]|(["'])[^"']*$)"""
)
_COMMENT = re.compile(r"[ \t]+#")


class NullScalar(str):
    """A YAML null as typed: null where a value is optional, text where a name is required."""

    __slots__ = ()


class ParseEvent(NamedTuple):
    """One event of a parser.

    Attributes:
        kind: What begins or ends, or a scalar.
        line: The line, from 1.
        value: The text of a scalar, or the name of an alias; None for an empty scalar.
        anchor: The name of an anchor.
        tag: A YAML tag.
        is_block: Whether a scalar is a ``|`` block.
        fault: Why a scalar is not valid as it is written; "" if it is.
        warning: Why a scalar is probably not what was meant; "" if there is no doubt.
    """

    kind: Literal["scalar", "map", "list", "end", "alias"]
    line: int
    value: str | None = None
    anchor: str | None = None
    tag: str | None = None
    is_block: bool = False
    fault: str = ""
    warning: str = ""


def iter_yaml_events(text: str, source: str) -> Iterator[ParseEvent]:
    """The events of a YAML file. Raises TaskFaults if it cannot be parsed."""
    # PyYAML's event level comes before object construction: nothing is resolved, expanded or
    # constructed.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    lines = _YAML_LINE_END.split(text)
    try:
        for event in yaml.parse(text, Loader=loader):
            line = event.start_mark.line + 1 if event.start_mark else 0
            match event:
                case yaml.ScalarEvent():
                    yield ParseEvent(
                        "scalar",
                        line,
                        _read_yaml_scalar(event),
                        event.anchor,
                        event.tag,
                        event.style == "|",
                        _find_empty_scalar_fault(event, lines),
                        _find_comment_warning(event, lines),
                    )
                case yaml.MappingStartEvent():
                    yield ParseEvent("map", line, None, event.anchor, event.tag)
                case yaml.SequenceStartEvent():
                    yield ParseEvent("list", line, None, event.anchor, event.tag)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    yield ParseEvent("end", line)
                case yaml.AliasEvent():
                    yield ParseEvent("alias", line, event.anchor)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at_line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        start = error.context_mark.line + 1 if error.context_mark else at_line
        hint = _suggest_yaml_fix(error.problem or "", lines, at_line, start)
        raise TaskFaults(
            source, [TaskFault(at_line, f"not YAML: column {column}: {error.problem}{hint}")]
        ) from None
    except yaml.YAMLError:
        raise TaskFaults(
            source, [TaskFault(None, "not YAML: it holds a character that YAML does not allow")]
        ) from None


def _read_yaml_scalar(event: yaml.ScalarEvent) -> str | None:
    """The text as typed: ``no``, ``1e3`` and ``2024-01-01`` are not converted."""
    value = str(event.value)
    if not event.style and event.tag is None:
        if not value:
            return None
        if value in ("~", "null", "Null", "NULL"):
            return NullScalar(value)
    return value


def _find_comment_warning(event: yaml.ScalarEvent, lines: Sequence[str]) -> str:
    """A warning if a comment after one blank ends a text without quotes.

    Two blanks before "#" are the usual form of a comment that is meant.
    """
    if event.style or not event.value or event.end_mark is None:
        return ""
    rest = lines[event.end_mark.line][event.end_mark.column :]
    if not _COMMENT.match(rest) or rest.startswith("  "):
        return ""
    return (
        f'{quote(event.value, 40)} ends before " #", which begins a comment - put quotes around '
        'the text if the "#" belongs to it, or two blanks before the comment'
    )


def _find_empty_scalar_fault(event: yaml.ScalarEvent, lines: Sequence[str]) -> str:
    """A fault if a text is empty because of the character that it begins with."""
    if event.value or event.start_mark is None or event.start_mark.line >= len(lines):
        return ""  # a value that is missing at the end of the file
    line = lines[event.start_mark.line]
    if event.style in (">", "|"):
        written = line[event.start_mark.column :].strip()
        # With a number it is rather a comparison ("> 5") than a block without lines.
        return _demand_quotes(written) if any(map(str.isdigit, written)) else ""
    if event.anchor:
        return _demand_quotes(f"&{event.anchor}")
    commented = re.match(r"\s*(?:-\s+)*-\s+(#.*)$", line)
    return _demand_quotes(commented[1].strip()) if commented and not event.style else ""


def _demand_quotes(text: str) -> str:
    return f'a text that begins with "{text[0]}" needs quotes around it, as in {quote(text, 40)}'


def _suggest_yaml_fix(problem: str, lines: Sequence[str], line: int, start: int) -> str:
    """A remedy for common mistakes, from the YAML error and the lines around it.

    Args:
        problem: The message of the parser.
        lines: The lines of the file.
        line: The line of the problem, from 1.
        start: The line on which the value or collection with the problem begins.
    """
    near = lines[max(0, line - 2) : line]
    if any(re.search(r":\s+\{[{%]", text) for text in near):
        return ' - put " around a template, as in input: "{{ procedure }}"'
    if "cannot start any token" in problem and any(
        text[: len(text) - len(text.lstrip())].count("\t") for text in near
    ):
        return " - indent with spaces, not with tabs"
    for text in dict.fromkeys((*lines[line - 1 : line], *lines[start - 1 : start])):
        found = _INDICATOR.match(text)
        if found and not _BLOCK_HEADER.fullmatch(found[1]):
            written = re.split(r":(?:\s|$)", found[1])[0].strip()
            return f" - {_demand_quotes(written)}"
        if in_flow := _INDICATOR_IN_FLOW.search(text):
            return f" - {_demand_quotes(in_flow[1].strip())}"
        if _QUOTED_START.match(text):
            return " - put quotes of the other kind around the whole text"
    if "mapping values are not allowed" in problem:
        return ' - put " around a text that holds a colon'
    if any(_COMMENT.search(text) for text in (*near, *lines[start - 1 : start])):
        return ' - " #" begins a comment: put quotes around a text that holds it'
    return ""


def iter_json_events(text: str, source: str) -> Iterator[ParseEvent]:
    """The events of a JSON file. Raises TaskFaults if it cannot be parsed."""
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        raise TaskFaults(
            source, [TaskFault(error.lineno, f"not JSON: column {error.colno}: {error.msg}")]
        ) from None
    except RecursionError:
        raise TaskFaults(source, [TaskFault(None, f"nested more than {MAX_DEPTH} deep")]) from None
    # The syntax is valid at this point, so the first character identifies each token.
    number, counted = 1, 0
    for token in _JSON_TOKEN.finditer(text):
        number += text.count("\n", counted, token.start())
        counted = token.start()
        match token[0][0]:
            case "{":
                yield ParseEvent("map", number)
            case "[":
                yield ParseEvent("list", number)
            case "}" | "]":
                yield ParseEvent("end", number)
            case '"':
                yield ParseEvent("scalar", number, json.loads(token[0]))
            case _:
                yield ParseEvent("scalar", number, None if token[0] == "null" else token[0])
