"""Counts of the cells of a column of names: values, missing values, and normalised names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from medtask.display import format_count, format_list, format_row_count, quote
from medtask.names import normalize_spelling
from medtask.records import Record, Value
from medtask.tables.cell_values import read_cell
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.prompt import find_prompt_columns
from medtask.tasks.task import Task
from medtask.tasks.text_cleaning import format_character

MAX_EXAMPLES = 3
MAX_WORDS = 20


@dataclass(slots=True)
class CellCounts:
    """Counts of the cells of one column, such as gold or another tool's answers.

    Attributes:
        values: Cells with a value, valid or not.
        blank: Cells without a visible character.
        missing_words: Cells with a word for a missing value, by word.
        empty_sets: Cells that say that no label applies; of several labels only.
        blank_meaning: What a blank cell means; "" if it can only mean that there is no value.
        normalized: Cells in which a name was found that is not written exactly so.
        examples: Some of these texts, and their names.
        form_notes: In which form the cells name options, where they could have several; from
            `read_gold_column`.
    """

    values: int = 0
    blank: int = 0
    empty_sets: int = 0
    blank_meaning: str = ""
    missing_words: Counter[str] = field(default_factory=Counter)
    normalized: int = 0
    examples: dict[str, str] = field(default_factory=dict)
    form_notes: Sequence[str] = ()

    def add(
        self,
        task: Task,
        row: Mapping[str, object],
        cell: object,
        *,
        value: Value | None = None,
        is_gold: bool = True,
    ) -> None:
        """Count one cell; ``row`` holds the columns that the task uses.

        ``value``: the result of `read_gold`, if it is known. ``is_gold``: whether a person wrote
        the cell; a blank one has no meaning in answers.
        """
        text, kind = read_cell(cell), get_task_kind(task)
        self.blank_meaning = kind.blank_gold if is_gold else ""
        if text is None:
            self.blank += 1
            return
        if value is None:
            value = kind.read_gold(row, cell)
        if value is None:
            self.missing_words[text] += 1
            return
        self.values += 1
        self.empty_sets += value == ()
        if value == text:
            return  # the name as it is written
        found = {
            written.text: written.match.name
            for written in kind.match_names(row, cell)
            if written.match.is_normalized and written.match.name is not None
        }
        self.normalized += bool(found)
        # Texts of options are texts of the row.
        shown = {} if task.kind_spec.has_options else found
        for written_text, name in shown.items():
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.setdefault(written_text, name)

    def describe(self, column: str) -> list[str]:
        """Sentences on the form, normalised names and missing values, where there are any."""
        lines = [f"{column} {note}" for note in self.form_notes]
        if self.normalized:
            shown = [
                f"{quote(text)}{_name_lookalike(text, name)} is {quote(name)}"
                for text, name in self.examples.items()
            ]
            lines.append(
                f"{self.normalized:,} of {format_count(self.values, 'value')} of {column} "
                f"{'matches' if self.normalized == 1 else 'match'} after normalisation only"
                + (f" ({format_list(shown)})" if shown else "")
            )
        if self.blank and self.blank_meaning:
            lines.append(
                f"blank cells of {column} count as {self.blank_meaning} ({self.blank:,}; see "
                f"blank_gold), [] as no label ({self.empty_sets:,})"
            )
        if self.missing_words:
            lines.append(f"{describe_missing_words(self.missing_words)} of {column}")
        return lines

    def to_json(self) -> dict[str, object]:
        """Returns a plain dict; the texts in it are spellings of the task's names."""
        return {
            "values": self.values,
            "blank": self.blank,
            "empty_sets": self.empty_sets,
            "missing_words": dict(self.missing_words.most_common(MAX_WORDS)),
            "normalized": self.normalized,
            "form_notes": list(self.form_notes),
            "normalized_examples": [[text, name] for text, name in self.examples.items()],
        }


def _name_lookalike(text: str, name: str) -> str:
    """ " with U+00A0 (NO-BREAK SPACE)" for a character that looks like one of the name; or ""."""
    if normalize_spelling(text) != normalize_spelling(name):
        return ""
    other = next((one for one in text if one not in name and not one.isascii()), None)
    return f" with {format_character(other)}" if other is not None else ""


def count_gold_cells(
    task: Task, records: Iterable[Record], column: str, counts: CellCounts
) -> Iterator[Record]:
    """The records; their gold cells are added to ``counts``."""
    for record in records:
        counts.add(task, record.fields, record.fields.get(column), value=record.gold)
        yield record


def describe_missing_words(words: Mapping[str, int]) -> str:
    """'"NA", "-" count as missing in 5 rows'."""
    rows = sum(words.values())
    return (
        f"{format_list([quote(word) for word in words])} "
        f"{'counts' if len(words) == 1 else 'count'} as missing in {format_row_count(rows)}"
    )


def select_input_words(
    task: Task, words: Mapping[str, Mapping[str, int]]
) -> dict[str, Mapping[str, int]]:
    """The words for missing values by column, of the columns whose texts a prompt shows.

    In columns of options such a word is a text like any other; so is a name of the task.
    """
    kind = get_task_kind(task)
    columns = (find_prompt_columns(task) - set(kind.columns)) & set(words)
    found = {
        column: {word: rows for word, rows in words[column].items() if not kind.has_name({}, word)}
        for column in sorted(columns)
    }
    return {column: counts for column, counts in found.items() if counts}


def describe_input_words(words: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A sentence on each column of `select_input_words`."""
    return [
        f'{describe_missing_words(found)} of the column "{column}" (the option missing replaces '
        "these words)"
        for column, found in words.items()
    ]
