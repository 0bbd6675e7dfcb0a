"""Quotes beside the fields of an answer: which place in the record they come from."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from medtask.display import join_reasons
from medtask.prediction.truncation import find_sentences
from medtask.records import Answer, Quote, Record, Status
from medtask.tasks.field_values import QUOTE_SUFFIX
from medtask.tasks.task import Fields, Task
from medtask.tasks.text_origins import trace_text
from medtask.unicode_text import split_words

FieldPath = tuple[str, ...]


def extract_quotes(
    spec: Fields, value: Mapping[str, Any], text: str
) -> tuple[dict[str, Any], dict[str, Quote], list[str]]:
    """The object without its quotes, the quotes by dotted path, and the fields with a wrong quote.

    A quote is wrong if it is not in ``text``. Of several places with the same text, the one is
    chosen whose sentence has the most in common with the rest of the answer: quotes and values of
    the same object, and words of the field's name. Otherwise it is the one nearest to
    the other quotes of the object.
    """
    unquoted = json.loads(json.dumps(value))
    written: dict[FieldPath, str] = {}
    parents: dict[FieldPath, Mapping[str, Any]] = {}
    for path in spec.quoted:
        parent = unquoted
        for key in path[:-1]:
            parent = parent.get(key) if isinstance(parent, dict) else None
        quote = parent.pop(path[-1] + QUOTE_SUFFIX, None) if isinstance(parent, dict) else None
        # What was not found has no quote, whatever the model has written beside it.
        if quote and isinstance(parent, dict) and parent.get(path[-1], quote) is not None:
            written[path], parents[path] = quote, parent
    places = {path: list(_find_places(text, quote)) for path, quote in written.items()}
    certain = {path: found[0] for path, found in places.items() if len(found) == 1}
    quotes: dict[str, Quote] = {}
    for path, found in places.items():
        if not found:
            continue
        quote, name = written[path], ".".join(path)
        anchors = [place for other, place in certain.items() if other[:-1] == path[:-1]]
        evidence = _list_evidence(path, quote, parents[path], written)
        best = _choose_places(text, quote, found, evidence, anchors)
        end = best[0] + len(quote)
        quotes[name] = Quote(quote, best[0], end, ambiguous=len(best) > 1)
    return unquoted, quotes, [".".join(path) for path, found in places.items() if not found]


def locate_quotes(task: Task, record: Record, answer: Answer) -> Answer:
    """The answer with each quote's column and position in the cell of this record."""
    if not answer.quotes:
        return answer
    origins = trace_text(task.input, record)
    quotes = {}
    for name, quote in answer.quotes.items():
        span = origins.locate(quote.input_start, quote.input_end) if origins else None
        if span:
            quotes[name] = replace(
                quote, text=span.text, column=span.column, start=span.start, end=span.end
            )
        else:
            text = origins.text[quote.input_start : quote.input_end] if origins else quote.text
            quotes[name] = replace(quote, text=text, column=None, start=None, end=None)
    return replace(answer, quotes=quotes)


def move_quotes(answer: Answer, shortened: str, text: str, gap: str) -> Answer:
    """The answer to a shortened text with the positions of its quotes in the whole ``text``.

    The shortened text is the beginning and the end of ``text`` with ``gap`` between them. A quote
    that crosses the gap is removed: its text is not in the record.
    """
    if not answer.quotes:
        return answer
    # The record itself may have the text of the gap.
    middle = next(
        place
        for place in _find_places(shortened, gap)
        if text.startswith(shortened[:place]) and text.endswith(shortened[place + len(gap) :])
    )
    shift = len(text) - len(shortened)
    quotes, crossing = {}, []
    for name, quote in answer.quotes.items():
        if quote.input_end <= middle:
            quotes[name] = quote
        elif quote.input_start >= middle + len(gap):
            quotes[name] = replace(
                quote, input_start=quote.input_start + shift, input_end=quote.input_end + shift
            )
        else:
            crossing.append(name)
    answer = replace(answer, quotes=quotes or None)
    if not crossing:
        return answer
    reason = f"the quote of {', '.join(crossing)} crosses the part that was left out"
    return replace(answer, status=Status.REVIEW, reason=join_reasons(answer.reason, reason))


def _find_places(text: str, quote: str) -> Iterator[int]:
    place = text.find(quote)
    while place >= 0:
        yield place
        place = text.find(quote, place + 1)


def _list_evidence(
    path: FieldPath, quote: str, parent: Mapping[str, Any], written: Mapping[FieldPath, str]
) -> list[frozenset[str]]:
    """Words that the right sentence is likely to have, one set for each piece of evidence."""
    siblings = [text for other, text in written.items() if other[:-1] == path[:-1]]
    values = list(_list_scalars(parent))
    names = [word for key in path for word in split_words(key.replace("_", " "))]
    own = set(split_words(quote))
    found = (frozenset(split_words(text)) - own for text in (*siblings, *values, *names))
    return [words for words in dict.fromkeys(found) if words]


def _list_scalars(value: object) -> Iterator[str]:
    """The texts and numbers of an object, in order."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _list_scalars(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _list_scalars(inner)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def _choose_places(
    text: str,
    quote: str,
    places: Sequence[int],
    evidence: Sequence[frozenset[str]],
    anchors: Sequence[int],
) -> list[int]:
    """The places that are equally likely, in order."""
    if len(places) == 1:
        return list(places)
    starts = [start for start, _ in find_sentences(text)]
    ends = [*starts[1:], len(text)]

    @cache
    def count_evidence(first: int, last: int) -> int:
        words = set(split_words(text[starts[first] : ends[last]]))
        return sum(piece <= words for piece in evidence)

    counts = [
        count_evidence(
            bisect_right(starts, place) - 1, bisect_right(starts, place + len(quote) - 1) - 1
        )
        for place in places
    ]
    most = max(counts)
    likely = [place for place, n in zip(places, counts, strict=True) if n == most]
    if len(likely) > 1 and anchors:
        distances = [min(abs(place - anchor) for anchor in anchors) for place in likely]
        nearest = min(distances)
        likely = [place for place, n in zip(likely, distances, strict=True) if n == nearest]
    return likely
