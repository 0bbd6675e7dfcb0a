"""Limits on what one rendering of a template may compute: steps, characters and time.

A template is a program. Everything in it that can repeat work or make a longer text is counted:
iterations, calls, filters, operators, printed values and literals of lists and dicts.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2.utils import Namespace

MAX_STEPS = 1_000_000
MAX_CHARACTERS = 20_000_000  # of all texts that are made, printed ones included
CHARACTERS_PER_INPUT = 100  # more, for each character of the chat
MAX_CPU_SECONDS = 5.0
MAX_WIDTH = 1_000  # of padding and indentation
MAX_NUMBER = 100_000  # as an argument
_LONG_FORMAT = re.compile(r"\d{4,}|:[^}]*\{")
_LONG_PERCENT = re.compile(r"%[^a-zA-Z%]*(?:\d{4,}|\*)")
STEPS_PER_CALL = 20  # a macro takes as long as so many iterations
_STEPS_PER_CHECK = 64


class ChatTemplateError(jinja2.TemplateRuntimeError):
    """The template rejected the chat or exceeded a limit."""


class TemplateMeter:
    """What one rendering may still do."""

    def __init__(self, chat: object) -> None:
        self._deadline = time.thread_time() + MAX_CPU_SECONDS
        self._steps, self._characters = MAX_STEPS, 2**62
        self.count_value(chat)
        input_characters = 2**62 - self._characters
        self._steps = MAX_STEPS
        self._characters = MAX_CHARACTERS + input_characters * CHARACTERS_PER_INPUT

    def count_steps(self, steps: int = 1) -> None:
        """Raises ChatTemplateError if the template has done too much."""
        before = self._steps
        self._steps -= steps
        if self._steps < 0:
            raise ChatTemplateError("the chat template loops too often")
        if before // _STEPS_PER_CHECK != self._steps // _STEPS_PER_CHECK:
            self.check_time()

    def count_characters(self, characters: int) -> None:
        """Raises ChatTemplateError if the template has made too long texts."""
        self._characters -= characters
        if self._characters < 0:
            raise ChatTemplateError("the chat template writes too much")
        if characters > MAX_WIDTH:
            self.check_time()

    def check_time(self) -> None:
        """Raises ChatTemplateError after the time limit."""
        if time.thread_time() > self._deadline:
            raise ChatTemplateError("the chat template takes too long")

    def count_value(self, value: object) -> None:
        """Count all texts and items in a value: those of nested lists as often as they occur."""
        open_values = [value]
        while open_values:
            item = open_values.pop()
            if isinstance(item, str):
                self.count_characters(len(item))
            elif isinstance(item, int) and not isinstance(item, bool):
                self.count_characters(item.bit_length() // 3 + 1)
            elif isinstance(item, Mapping):
                self.count_steps(1 + len(item))
                open_values += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple | set | frozenset):
                self.count_steps(1 + len(item))
                open_values += item


_meter: ContextVar[TemplateMeter] = ContextVar("template_meter")


@contextmanager
def measure_rendering(chat: object) -> Iterator[None]:
    """Count what templates do until the block ends. A longer ``chat`` allows longer texts."""
    token = _meter.set(TemplateMeter(chat))
    try:
        yield
    finally:
        _meter.reset(token)


def get_meter() -> TemplateMeter:
    """The meter of the current rendering."""
    return _meter.get()


def iterate(items: Iterable[object]) -> Iterator[object]:
    """The items, each counted as a step."""
    meter = get_meter()
    for item in items:
        meter.count_steps()
        yield item


def call_measured(
    function: Callable[..., Any], name: str, subject: object, *arguments: Any, **named: Any
) -> Any:
    """Call a filter or a method, and count its input, arguments and result.

    Args:
        function: The function; ``subject`` is not passed to it.
        name: The name of the filter or method.
        subject: The value that the filter or method works on.
        arguments: Arguments of the call.
        named: Arguments of the call, by name.
    """
    meter = get_meter()
    values = [*arguments, *named.values()]
    meter.count_steps(1 + sum(_measure_length(value) for value in (subject, *values)))
    if any(isinstance(value, int) and abs(value) > MAX_NUMBER for value in values):
        raise ChatTemplateError("the chat template uses too large a number")
    if name in _PRINTING:
        for value in (subject, *values):
            if not isinstance(value, str):
                meter.count_value(value)
    _check_growth(name, subject, values)
    result = function(*arguments, **named)
    if isinstance(result, Iterator):
        return iterate(result)
    meter.count_value(result)
    return result


def _measure_length(value: object) -> int:
    """The number of items that a call may visit; a character is far cheaper than an item."""
    if isinstance(value, str):
        return len(value) // 10_000
    return len(value) if isinstance(value, list | tuple | dict | range) else 0


# They write their values as text.
_PRINTING = frozenset({"join", "string", "tojson", "format"})
_WIDENING = frozenset(
    {"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "tojson", "wordwrap", "round"}
)


def _check_growth(name: str, subject: object, values: list[Any]) -> None:
    """Raises ChatTemplateError for a call whose result is far longer than its text."""
    texts = [value for value in values if isinstance(value, str)]
    longest = max(map(len, texts), default=0)
    if name == "replace" and len(texts) > 1:
        places = str(subject).count(texts[0])
        get_meter().count_characters(max(0, places * (len(texts[1]) - len(texts[0]))))
    elif name == "join":
        items = values[0] if isinstance(subject, str) and values else subject
        separator = len(subject) if isinstance(subject, str) else longest
        get_meter().count_characters(separator * (_measure_length(items) or MAX_NUMBER))
    elif name in _WIDENING:
        numbers = [abs(number) for number in values if isinstance(number, int)]
        if max([*numbers, longest], default=0) > MAX_WIDTH:
            raise ChatTemplateError("the chat template widens a text too much")
    elif name in ("format", "format_map") and isinstance(subject, str):
        check_percent_format(subject)
        if _LONG_FORMAT.search(subject):
            raise ChatTemplateError("the chat template widens a text too much")


def check_percent_format(text: str) -> None:
    """Raises ChatTemplateError for ``text % value`` with a large width."""
    if _LONG_PERCENT.search(text):
        raise ChatTemplateError("the chat template widens a text too much")


class OpaqueNamespace(Namespace):
    """A namespace that is never printed: two that contain each other have no end."""

    def __repr__(self) -> str:
        return "<Namespace>"
