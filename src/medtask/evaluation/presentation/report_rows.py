"""Rows shown in reports, and the top k items of a stream in bounded memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from itertools import pairwise
from typing import Generic, TypeVar

from medtask.evaluation.presentation.formatting import format_field_value, format_value
from medtask.evaluation.statistics.extraction import compare_objects, flatten
from medtask.records import Answer, Option, PassStep, Quote, Status, Value, list_names

# Control characters, direction overrides, lone surrogates
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e\ud800-\udfff]")
MAX_TEXT_CHARACTERS = 600  # characters of a record that a row shows
MAX_ANSWER_CHARACTERS = 1500  # characters of an answer, and of gold
MAX_THOUGHTS_CHARACTERS = 4000
# Characters shown around a quote that begins after the first 600 of the text
QUOTE_CONTEXT_CHARACTERS = 80
MAX_FIELDS_SHOWN = 40
MAX_OUTCOMES_SHOWN = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RowStyle:
    """How the rows of one kind of question are shown.

    Attributes:
        limit: Characters of an answer that are shown; None: 80, or 200 of options.
        is_text: Whether answer and gold are shown as paragraphs of text.
        has_fields: Whether answer and gold are compared field by field.
        shows_answer: Whether the heading shows the answer, in addition to the bars.
        units: The units of numbers, by the dotted path of their field.
    """

    limit: int | None = None
    is_text: bool = False
    has_fields: bool = False
    shows_answer: bool = True
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextSpan:
    """A part of a record's text; ``field`` is the field that it is quoted for."""

    text: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class FieldComparison:
    """One field of an answer compared with gold; ``right`` is False only if gold differs."""

    field: str
    value: str
    gold: str | None
    right: bool
    quote: str | None = None


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One row as a report shows it: its text, at most 600 characters and the context of quotes.

    Attributes:
        row: Row number.
        record_id: The record's id.
        status: Status of the answer.
        value: The answer as text.
        confidence: Its confidence.
        pieces: The text, with quotes marked.
        top: The five likeliest outcomes; for fields the chosen ones, the least certain first.
        reason: The reason of the status.
        gold: Gold as text.
        style: How rows of this kind are shown.
        in_gold: Outcomes that gold has.
        in_answer: Outcomes that the answer has.
        options: The row's options.
        parts: Fields compared with gold.
        thoughts: The model's reasoning.
        thoughts_cut: Whether ``thoughts`` is cut.
        earlier: Answers of earlier passes.
    """

    row: int
    record_id: str
    status: Status
    value: str | None
    confidence: float | None
    pieces: tuple[TextSpan, ...]
    top: tuple[tuple[str, float], ...]
    reason: str | None
    gold: str | None
    style: RowStyle = RowStyle()
    in_gold: frozenset[str] = frozenset()
    in_answer: frozenset[str] = frozenset()
    options: tuple[str, ...] = ()
    parts: tuple[FieldComparison, ...] = ()
    thoughts: str | None = None
    thoughts_cut: bool = False
    earlier: tuple[str, ...] = ()

    @property
    def short(self) -> bool:
        """Whether answer and gold are only a few words."""
        return not self.style.is_text and not self.parts

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def tone(self, name: str) -> str:
        """Colour of an outcome: blue if it is in gold, orange for a wrong answer."""
        if self.gold is None or name in self.in_gold:
            return "blue"
        return "orange" if name in self.in_answer else "grey"

    def to_json(self) -> dict[str, object]:
        """Returns JSON values that identify the row, without its text."""
        return {
            "row": self.row,
            "id": self.record_id,
            "status": str(self.status),
            "confidence": self.confidence,
        }


def build_report_row(
    row: int,
    answer: Answer,
    text: str,
    gold: Value | None,
    *,
    style: RowStyle = RowStyle(),
    options: Sequence[Option] = (),
) -> ReportRow:
    option_texts = {
        option.letter: cut_text(f"{option.letter}: {option.text}", 200) for option in options
    }
    limit = style.limit or (200 if option_texts else 80)
    return ReportRow(
        row=row,
        record_id=answer.record_id,
        status=answer.status,
        value=_format_outcome_text(answer.value, option_texts, max(limit, 200)),
        confidence=answer.confidence,
        pieces=mark_quotes(text, answer.quotes or {}),
        top=tuple(
            (option_texts.get(name, name), share) for name, share in _list_top_outcomes(answer)
        ),
        reason=answer.reason,
        gold=_format_outcome_text(gold, option_texts, limit),
        style=style,
        in_gold=_list_outcomes(gold, option_texts),
        in_answer=_list_outcomes(answer.value, option_texts),
        options=tuple(option_texts.values()),
        parts=_compare_fields(answer, gold, style.units) if style.has_fields else (),
        thoughts=cut_text(answer.thoughts, MAX_THOUGHTS_CHARACTERS) if answer.thoughts else None,
        thoughts_cut=len((answer.thoughts or "").strip()) > MAX_THOUGHTS_CHARACTERS,
        earlier=tuple(_format_step(step, option_texts) for step in answer.steps),
    )


def mark_quotes(text: str, quotes: Mapping[str, Quote]) -> tuple[TextSpan, ...]:
    """Shorten a record's text, and split it into quotes by field and the text between them."""
    first = len(text) - len(text.lstrip())
    last = max(first, len(text.rstrip()))
    spans = [
        (max(first, quote.input_start), min(last, quote.input_end), field)
        for field, quote in quotes.items()
    ]
    pieces: list[TextSpan] = []
    windows = _find_windows(first, last, [(start, end) for start, end, _ in spans])
    for place, (start, end) in enumerate(windows):
        if place:
            pieces.append(TextSpan(" … "))
        cuts = sorted(
            {start, end, *(edge for span in spans for edge in span[:2] if start < edge < end)}
        )
        for left, right in pairwise(cuts):
            fields = [field for begin, stop, field in spans if begin <= left and right <= stop]
            pieces.append(
                TextSpan(_replace_unprintable(text[left:right]), ", ".join(fields) or None)
            )
    if windows[-1][1] < last:
        pieces[-1] = TextSpan(pieces[-1].text.rstrip(), pieces[-1].field)
        pieces.append(TextSpan(" …"))
    return tuple(pieces)


def _find_windows(first: int, last: int, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The shown parts of a text: its beginning, and the context of later quotes."""
    windows = [(first, min(last, first + MAX_TEXT_CHARACTERS))]
    for start, end in sorted(spans):
        start, end = (
            max(first, start - QUOTE_CONTEXT_CHARACTERS),
            min(last, end + QUOTE_CONTEXT_CHARACTERS),
        )
        if end <= windows[-1][1]:
            continue
        if start <= windows[-1][1]:
            windows[-1] = windows[-1][0], end
        else:
            windows.append((start, end))
    return windows


def cut_text(text: str, limit: int) -> str:
    """The first ``limit`` characters; unprintable characters become U+FFFD."""
    text = text.strip()
    return _replace_unprintable(text if len(text) <= limit else text[:limit].rstrip() + " …")


def _replace_unprintable(text: str) -> str:
    return UNPRINTABLE.sub("\ufffd", text)


def _format_outcome_text(
    value: Value | None, option_texts: Mapping[str, str], limit: int
) -> str | None:
    """An answer or gold value as text; None if it is missing."""
    if value is None or value == "":
        return None
    if isinstance(value, tuple):
        value = tuple(option_texts.get(name, name) for name in value)
    return cut_text(
        option_texts.get(value, value) if isinstance(value, str) else format_value(value), limit
    )


def _list_outcomes(value: Value | None, option_texts: Mapping[str, str]) -> frozenset[str]:
    """The outcomes of a value, as they are named in a row."""
    if isinstance(value, Mapping):
        return frozenset(format_outcome(path, leaf) for path, leaf in flatten(value).items())
    return frozenset(option_texts.get(name, name) for name in list_names(value))


def format_outcome(path: Sequence[str], leaf: object) -> str:
    """The name of a field's outcome among the probabilities, such as ``stage=II``."""
    return f"{'.'.join(path)}={leaf if isinstance(leaf, str) else json.dumps(leaf, default=str)}"


def _list_top_outcomes(answer: Answer) -> list[tuple[str, float]]:
    shares = answer.probabilities or {}
    if isinstance(answer.value, Mapping):
        chosen = _list_outcomes(answer.value, {})
        return sorted(
            ((name, share) for name, share in shares.items() if name in chosen),
            key=lambda item: item[1],
        )[:MAX_OUTCOMES_SHOWN]
    return sorted(shares.items(), key=lambda item: -item[1])[:MAX_OUTCOMES_SHOWN]


def _format_step(step: PassStep, option_texts: Mapping[str, str]) -> str:
    outcome = _format_outcome_text(step.value, option_texts, 80) or step.status.replace("_", " ")
    sure = f" ({step.confidence:.2f})" if step.confidence is not None else ""
    return f"{step.pass_name}: {outcome}{sure}"


def _compare_fields(
    answer: Answer, gold: Value | None, units: Mapping[str, str]
) -> tuple[FieldComparison, ...]:
    value = answer.value
    given, truth = (flatten(one) if isinstance(one, Mapping) else {} for one in (value, gold))
    findings = (
        compare_objects(gold, value if isinstance(value, Mapping) else None)
        if isinstance(gold, Mapping)
        else ()
    )
    wrong = {path for path, finding, _, _ in findings if finding != "right"}
    quotes = {name: cut_text(quote.text, 300) for name, quote in (answer.quotes or {}).items()}
    parts = []
    for path in list(dict.fromkeys((*given, *truth)))[:MAX_FIELDS_SHOWN]:
        name = ".".join(path)
        unit = units.get(name)
        parts.append(
            FieldComparison(
                field=cut_text(f"{name} ({unit})" if unit else name, 80),
                value=cut_text(format_field_value(given.get(path)), 300),
                gold=cut_text(format_field_value(truth.get(path)), 300)
                if isinstance(gold, Mapping)
                else None,
                right=path not in wrong,
                # The quote of a whole object, such as a number with its unit, is shown once.
                quote=quotes.pop(name, None) or quotes.pop(".".join(path[:-1]), None),
            )
        )
    return tuple(parts)


class TopK(Generic[T]):
    """Keeps the ``size`` items with the largest keys, in any order of arrival; keys must differ."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[tuple[float, ...], T]] = []

    def push(self, key: tuple[float, ...], make: Callable[[], T]) -> None:
        """Calls ``make`` only if the item is kept."""
        if len(self._heap) < self._size:
            heappush(self._heap, (key, make()))
        elif key > self._heap[0][0]:
            heappushpop(self._heap, (key, make()))

    def to_sorted(self) -> tuple[T, ...]:
        """The kept items, the largest key first."""
        return tuple(
            thing for _, thing in sorted(self._heap, key=lambda kept: kept[0], reverse=True)
        )
