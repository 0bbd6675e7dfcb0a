"""The options of a row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from medtask.display import quote
from medtask.names import normalize_spelling
from medtask.records import LETTERS, Option
from medtask.tables.cell_values import read_cell
from medtask.tasks.annotation_shapes import describe_shape, read_option_pairs
from medtask.tasks.containers import parse_container
from medtask.tasks.task import MultipleChoice
from medtask.tasks.text_cleaning import clean_text

MAX_OPTIONS_LENGTH = 200_000  # characters of one cell of options

# "A)", "(b)", "C.", "4:" before an option, at the beginning of a line or after a blank.
_LINE_MARK = re.compile(
    r"^[ \t]*(?:[-*•][ \t]+)?\(?([A-Za-z]|\d{1,2})(?:\)[ \t]*|(?:[.:]|[ \t]-)[ \t]+)", re.MULTILINE
)
_INLINE_MARK = re.compile(r"(?:^|(?<=\s))\(?([A-Za-z]|\d{1,2})(?:\)\s*|[.:]\s+)")
_BULLET = re.compile(r"^[-*•]\s+")


@dataclass(frozen=True, slots=True)
class RowOptions:
    """A row's options.

    Attributes:
        options: The options; blank ones are omitted.
        keys: Letters by the keys that the options have in the row, if these are not letters.
        positions: Letters by the places of the options in the row, from 0.
    """

    options: tuple[Option, ...]
    keys: Mapping[str, str] = field(default_factory=dict)
    positions: Mapping[int, str] = field(default_factory=dict)

    @property
    def letters(self) -> tuple[str, ...]:
        return tuple(option.letter for option in self.options)


def read_options(answer_spec: MultipleChoice, fields: Mapping[str, object]) -> RowOptions | str:
    """The row's options, or why they are not valid.

    Keys that are single letters are kept as letters; otherwise options get A, B, ... in order. With
    several columns the position determines the letter, so a blank column leaves a gap and a letter
    always means the same column. Blank options are omitted.
    """
    if missing := [column for column in answer_spec.columns if column not in fields]:
        return f"the row has no column {quote(missing[0])}, which should hold options"
    if len(answer_spec.columns) > 1:
        named: list[tuple[str | None, object]] = [
            (column, fields[column]) for column in answer_spec.columns
        ]
        places = list(range(len(named)))
    else:
        found = _read_one_column(fields[answer_spec.columns[0]])
        if isinstance(found, str):
            return found
        named = [(key, value) for key, value in found if read_cell(value) is not None]
        places = [place for place, (_, value) in enumerate(found) if read_cell(value) is not None]
    if any(isinstance(value, dict | list | tuple) for _, value in named):
        return "an option holds more than a text"
    texts = [" ".join(clean_text(read_cell(value) or "").split()) for _, value in named]
    keys = [(key or "").strip() for key, _ in named]
    entries = list(zip(keys, texts, places, strict=True))
    if len(answer_spec.columns) == 1:
        entries = [entry for entry in entries if entry[1]]
    if len(entries) > len(LETTERS):
        return f"the row has {len(entries)} options, and there are only {len(LETTERS)} letters"
    if len(answer_spec.columns) == 1 and _are_letters([key for key, _, _ in entries]):
        lettered = sorted((key.upper(), "", text, place) for key, text, place in entries)
    else:
        lettered = [
            (letter, *entry) for letter, entry in zip(LETTERS, entries, strict=False) if entry[1]
        ]
    return _check_options(
        RowOptions(
            tuple(Option(letter, text) for letter, _, text, _ in lettered),
            {key: letter for letter, key, _, _ in lettered if key},
            {place: letter for letter, _, _, place in lettered},
        )
    )


def _check_options(options: RowOptions) -> RowOptions | str:
    if len(options.options) < 2:
        return "the row has no options" if not options.options else "the row has a single option"
    # Options that differ in capital letters or superscripts are different: BB and Bb, 10² and 102.
    if len({normalize_spelling(option.text) for option in options.options}) < len(options.options):
        return "two of the row's options are the same"
    return options


def _are_letters(keys: Sequence[str]) -> bool:
    upper = [key.upper() for key in keys]
    return (
        bool(keys) and all(letter in LETTERS for letter in upper) and len(set(upper)) == len(upper)
    )


def _read_one_column(value: object) -> list[tuple[str | None, object]] | str:
    """Options as (key, text) from a mapping, a list, or text."""
    if isinstance(value, str) and len(value) > MAX_OPTIONS_LENGTH:
        return f"the options take more than {MAX_OPTIONS_LENGTH:,} characters"
    if read_cell(value) is None:
        return "the row has no options"
    read = parse_container(value)
    if read is not None:
        pairs = read_option_pairs(read)
        if any(isinstance(text, dict | list | tuple) for _, text in pairs):
            return f"an option holds more than a text: the options are {describe_shape(read)}"
        return pairs
    if str(value).lstrip()[:1] in ("{", "["):
        return "the options can be read neither as JSON nor as what Python prints"
    return list(_read_lines(clean_text(str(value))))


def _read_lines(text: str) -> Iterator[tuple[str | None, object]]:
    """Options marked A), B), ... or 1., 2., ..., on separate lines or in one; else one per line."""
    for pattern in (_LINE_MARK, _INLINE_MARK):
        marks = _find_marks(pattern, text)
        if len(marks) > 1:
            ends = [mark.start() for mark in marks[1:]] + [len(text)]
            yield from (
                (mark[1], text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)
            )
            return
    yield from ((None, _BULLET.sub("", line.strip())) for line in text.split("\n"))


def _find_marks(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Marks in sequence; in "A) vitamin K B) vitamin A) C) none" the second A) is not a mark."""
    marks: list[re.Match[str]] = []
    for mark in pattern.finditer(text):
        wanted = _next_marks(marks[-1][1]) if marks else ("A", "1")
        if mark[1].upper() in wanted:
            marks.append(mark)
    return marks


def _next_marks(mark: str) -> tuple[str, ...]:
    return (str(int(mark) + 1),) if mark.isdigit() else (chr(ord(mark.upper()) + 1),)
