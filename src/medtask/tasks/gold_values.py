"""What a gold cell, or a worked example, says the answer is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from medtask.records import Value
from medtask.tables.cell_values import read_cell
from medtask.tasks.containers import parse_container
from medtask.tasks.field_values import coerce_value
from medtask.tasks.row_options import find_letters, read_options
from medtask.tasks.task import Fields, MultiLabel, MultipleChoice, Task

LABEL_SEPARATORS = (";", "|", ",")
MAX_LABEL_LIST_LENGTH = 20_000  # characters: a longer text is no list of labels


def read_gold(task: Task, row: Mapping[str, object], cell: object) -> Value | None:
    """The truth of a row as a value of the task's kind; its bare text where it is none; None where
    the cell is blank.

    Several labels: a list, one as text, or names separated by ";", "|" or ","; those that are no
    label stay in it. An option: its letter, its key in the row's mapping, or its text. Fields: a
    mapping, or one as text.
    """
    text = read_cell(cell)
    if text is None:
        return None
    match task.answer_spec:
        case MultiLabel():
            return _read_labels(_index_labels(task), cell, text)
        case MultipleChoice(several=several) as form:
            options = read_options(form, row)
            letters = None if isinstance(options, str) else find_letters(cell, options, several)
            return text if letters is None else letters if several else letters[0]
        case Fields(schema=schema):
            read = parse_container(cell)
            coerced = coerce_value(schema, read, {}) if isinstance(read, dict) else None
            return coerced if isinstance(coerced, dict) else text
    return text


def find_invalid_gold(task: Task, row: Mapping[str, object], gold: Value) -> tuple[str, ...]:
    """What of a row's gold is no answer that the task could give: names that are no label, a text
    that is no option, fields.

    ``gold`` is what read_gold said. Kind ``answer`` takes any text.
    """
    match task.answer_spec:
        case MultiLabel():
            known = _index_labels(task).positions
            return (
                tuple(name for name in gold if name not in known)
                if isinstance(gold, tuple)
                else (str(gold),)
            )
        case MultipleChoice(several=several) as form:
            options = read_options(form, row)
            if isinstance(options, str):
                return ()  # what is wrong with this row is told when it is asked
            given = gold if isinstance(gold, tuple) else (str(gold),)
            return (
                ()
                if isinstance(gold, tuple) == several and set(given) <= set(options.letters)
                else (str(gold),)
            )
        case Fields(schema=schema):
            problems: dict[str, str] = {}
            coerce_value(schema, gold, problems)
            return tuple(problems) if isinstance(gold, Mapping) else (str(gold),)
    names = {label.name for label in task.candidates}
    return () if not names or gold in names else (str(gold),)


@dataclass(frozen=True, slots=True, eq=False)
class _LabelIndex:
    """A task's labels, for look-ups: ``positions`` in the task's order; by separator, ``spellings``
    (see _respell) and how many parts the longest name has.
    """

    positions: Mapping[str, int]
    spellings: Mapping[str, Mapping[str, str]]
    max_parts: Mapping[str, int]


@lru_cache(maxsize=8)
def _index_labels(task: Task) -> _LabelIndex:
    names = [label.name for label in task.labels]
    return _LabelIndex(
        {name: place for place, name in enumerate(names)},
        {
            separator: {_normalize_spacing(name, separator): name for name in names}
            for separator in LABEL_SEPARATORS
        },
        {
            separator: max((name.count(separator) for name in names), default=0) + 1
            for separator in LABEL_SEPARATORS
        },
    )


def _read_labels(index: _LabelIndex, cell: object, text: str) -> tuple[str, ...]:
    listed = parse_container(cell)
    if isinstance(listed, list):
        found = [name for name in map(read_cell, listed) if name is not None]
    elif text in index.positions or len(text) > MAX_LABEL_LIST_LENGTH:
        found = [text]
    else:
        found = _split_names(index, text)
    known = sorted(
        {name for name in found if name in index.positions}, key=index.positions.__getitem__
    )
    return (*known, *dict.fromkeys(name for name in found if name not in index.positions))


def _split_names(index: _LabelIndex, text: str) -> list[str]:
    """The names in a separated text, by the separator that sets most labels free: names may hold
    others themselves.
    """
    splits = [
        _join_names(index, text.split(separator), separator)
        for separator in LABEL_SEPARATORS
        if separator in text
    ]
    return max(
        splits,
        key=lambda split: len({name for name in split if name in index.positions}),
        default=[text],
    )


def _join_names(index: _LabelIndex, parts: Sequence[str], separator: str) -> list[str]:
    """The parts, those joined again that together make a label: the longest such run first."""
    joined: list[str] = []
    place = 0
    while place < len(parts):
        for end in range(min(len(parts), place + index.max_parts[separator]), place, -1):
            name = index.spellings[separator].get(
                _normalize_spacing(separator.join(parts[place:end]), separator)
            )
            if name is not None or end == place + 1:
                joined.append(name if name is not None else parts[place].strip())
                place = end
                break
    return [name for name in joined if name]


def _normalize_spacing(name: str, separator: str) -> str:
    """The same for "a, b" and "a,b"."""
    return separator.join(part.strip() for part in name.split(separator))
