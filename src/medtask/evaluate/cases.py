"""Rows that a person should see, and the best few of any number of things in bounded memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappush, heappushpop
from itertools import pairwise
from typing import Generic, TypeVar

from medtask.evaluate.agreement import compare_objects, flatten
from medtask.evaluate.words import read_leaf, read_value
from medtask.records import Answer, Option, Quote, Status, Step, Value

UNSHOWABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e\ud800-\udfff]"
)  # controls, overrides of the direction, lone surrogates
TEXT = 600  # characters of a record that a case shows
WRITTEN = 1500  # of an answer, and of gold
THOUGHTS = 4000
AROUND = 80  # characters shown beside a quote that stands behind the text's first 600
FIELDS = 40
LIKELIEST = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a record's text; ``field`` is whose quote it is."""

    text: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One field of an answer that is an object, beside gold's where there is gold; ``right`` unless
    gold says otherwise.
    """

    field: str
    value: str
    gold: str | None
    right: bool


@dataclass(frozen=True, slots=True)
class Case:
    """One row: its text (600 characters of it, and the surroundings of each quote) and the five
    likeliest outcomes.

    ``value`` and ``gold`` are readable text, whatever the kind. ``top``: of a choice with what the
    options say; of fields the outcomes that were chosen, the least sure first. ``in_gold``,
    ``in_answer``: which of these gold says, and the answer. ``parts``: of an answer with fields.
    ``earlier``: what each pass said before the last one.
    """

    row: int
    record_id: str
    status: Status
    value: str | None
    confidence: float | None
    pieces: tuple[Piece, ...]
    top: tuple[tuple[str, float], ...]
    reason: str | None
    gold: str | None
    kind: str = "label"
    in_gold: frozenset[str] = frozenset()
    in_answer: frozenset[str] = frozenset()
    options: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    thoughts: str | None = None
    thoughts_cut: bool = False
    earlier: tuple[str, ...] = ()

    @property
    def short(self) -> bool:
        """Whether answer and gold are a few words."""
        return self.kind != "answer" and not self.parts

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def tone(self, name: str) -> str:
        """The colour of an outcome's bar: blue for what gold says, orange for an answer that it
        does not.
        """
        if self.gold is None or name in self.in_gold:
            return "blue"
        return "orange" if name in self.in_answer else "grey"

    def locate(self) -> dict[str, object]:
        """Which row it is, without its text."""
        return {
            "row": self.row,
            "id": self.record_id,
            "status": str(self.status),
            "confidence": self.confidence,
        }


def describe_case(
    row: int,
    answer: Answer,
    text: str,
    gold: Value | None,
    *,
    kind: str = "label",
    options: Sequence[Option] = (),
) -> Case:
    shown = {option.letter: cut_text(f"{option.letter}: {option.text}", 200) for option in options}
    limit = WRITTEN if kind in ("answer", "fields") else 200 if shown else 80
    return Case(
        row=row,
        record_id=answer.record_id,
        status=answer.status,
        value=_read(answer.value, shown, max(limit, 200)),
        confidence=answer.confidence,
        pieces=mark_quotes(text, answer.quotes or {}),
        top=tuple((shown.get(name, name), share) for name, share in _rank(answer)),
        reason=answer.reason,
        gold=_read(gold, shown, limit),
        kind=kind,
        in_gold=_name(gold, shown),
        in_answer=_name(answer.value, shown),
        options=tuple(shown.values()),
        parts=_compare_parts(answer.value, gold) if kind == "fields" else (),
        thoughts=cut_text(answer.thoughts, THOUGHTS) if answer.thoughts else None,
        thoughts_cut=len((answer.thoughts or "").strip()) > THOUGHTS,
        earlier=tuple(_tell_step(step, shown) for step in answer.steps),
    )


def mark_quotes(text: str, quotes: Mapping[str, Quote]) -> tuple[Piece, ...]:
    """A record's text for a page, cut short, in pieces: what is quoted, by field, and what is
    not.
    """
    first = len(text) - len(text.lstrip())
    last = max(first, len(text.rstrip()))
    spans = [
        (max(first, quote.start), min(last, quote.end), field) for field, quote in quotes.items()
    ]
    pieces: list[Piece] = []
    windows = _find_windows(first, last, [(start, end) for start, end, _ in spans])
    for place, (start, end) in enumerate(windows):
        if place:
            pieces.append(Piece(" … "))
        cuts = sorted(
            {start, end, *(edge for span in spans for edge in span[:2] if start < edge < end)}
        )
        for left, right in pairwise(cuts):
            fields = [field for begin, stop, field in spans if begin <= left and right <= stop]
            pieces.append(Piece(_clean(text[left:right]), ", ".join(fields) or None))
    if windows[-1][1] < last:
        pieces[-1] = Piece(pieces[-1].text.rstrip(), pieces[-1].field)
        pieces.append(Piece(" …"))
    return tuple(pieces)


def _find_windows(first: int, last: int, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Which parts of a text are shown: its beginning, and the surroundings of each span behind
    that.
    """
    windows = [(first, min(last, first + TEXT))]
    for start, end in sorted(spans):
        start, end = max(first, start - AROUND), min(last, end + AROUND)
        if end <= windows[-1][1]:
            continue
        if start <= windows[-1][1]:
            windows[-1] = windows[-1][0], end
        else:
            windows.append((start, end))
    return windows


def cut_text(text: str, limit: int) -> str:
    """The text's first ``limit`` characters, with U+FFFD for every one that a page cannot show, or
    not honestly.
    """
    text = text.strip()
    return _clean(text if len(text) <= limit else text[:limit].rstrip() + " …")


def _clean(text: str) -> str:
    return UNSHOWABLE.sub("\ufffd", text)


def _read(value: Value | None, shown: Mapping[str, str], limit: int) -> str | None:
    """Readable text of an answer or of gold; None where there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, tuple):
        value = tuple(shown.get(name, name) for name in value)
    return cut_text(shown.get(value, value) if isinstance(value, str) else read_value(value), limit)


def _name(value: Value | None, shown: Mapping[str, str]) -> frozenset[str]:
    """The outcomes that a value stands for, as a case shows them."""
    if isinstance(value, Mapping):
        return frozenset(name_outcome(path, leaf) for path, leaf in flatten(value).items())
    return frozenset(
        shown.get(name, name) for name in ((value,) if isinstance(value, str) else value or ())
    )


def name_outcome(path: Sequence[str], leaf: object) -> str:
    """``stage=II``, as an answer's probabilities name what was chosen for a field."""
    return f"{'.'.join(path)}={leaf if isinstance(leaf, str) else json.dumps(leaf, default=str)}"


def _rank(answer: Answer) -> list[tuple[str, float]]:
    shares = answer.probabilities or {}
    if isinstance(answer.value, Mapping):
        chosen = _name(answer.value, {})
        return sorted(
            ((name, share) for name, share in shares.items() if name in chosen),
            key=lambda item: item[1],
        )[:LIKELIEST]
    return sorted(shares.items(), key=lambda item: -item[1])[:LIKELIEST]


def _tell_step(step: Step, shown: Mapping[str, str]) -> str:
    said = _read(step.value, shown, 80) or step.status.replace("_", " ")
    sure = f" ({step.confidence:.2f})" if step.confidence is not None else ""
    return f"{step.pass_name}: {said}{sure}"


def _compare_parts(value: Value | None, gold: Value | None) -> tuple[Part, ...]:
    given, truth = (flatten(one) if isinstance(one, Mapping) else {} for one in (value, gold))
    findings = (
        compare_objects(gold, value if isinstance(value, Mapping) else None)
        if isinstance(gold, Mapping)
        else ()
    )
    wrong = {path for path, finding, _, _ in findings if finding != "right"}
    return tuple(
        Part(
            field=cut_text(".".join(path), 80),
            value=cut_text(read_leaf(given.get(path)), 300),
            gold=cut_text(read_leaf(truth.get(path)), 300) if isinstance(gold, Mapping) else None,
            right=path not in wrong,
        )
        for path in list(dict.fromkeys((*given, *truth)))[:FIELDS]
    )


class Shortlist(Generic[T]):
    """The ``size`` things with the largest keys, whatever the order in which they come; keys must
    differ.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[tuple[tuple[float, ...], T]] = []

    def offer(self, key: tuple[float, ...], make: Callable[[], T]) -> None:
        """``make`` is called only if the thing is kept."""
        if len(self._kept) < self._size:
            heappush(self._kept, (key, make()))
        elif key > self._kept[0][0]:
            heappushpop(self._kept, (key, make()))

    def ranked(self) -> tuple[T, ...]:
        """What is kept, the largest key first."""
        return tuple(
            thing for _, thing in sorted(self._kept, key=lambda kept: kept[0], reverse=True)
        )
