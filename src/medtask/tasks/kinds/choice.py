"""Kind ``choice``: options that are given in each row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from medtask.display import format_list, format_suggestion, quote
from medtask.records import LETTERS, Branch, Description, Option, Value
from medtask.tables.cell_values import read_present_cell
from medtask.tasks.annotation_shapes import read_annotations
from medtask.tasks.answer_form import AnswerChoice, AnswerForm
from medtask.tasks.config import BOOLEAN, ConfigModel, NullAsNone
from medtask.tasks.key_reference import KeyDescription, Schema
from medtask.tasks.kinds.base import MAX_GOLD_CHARACTERS, RowExtras, TaskKind, WrittenName
from medtask.tasks.kinds.labels import YES_NO, ask_for_each, write_yes_no_lines
from medtask.tasks.option_gold import (
    GoldColumn,
    find_letters,
    find_readings,
    match_option_texts,
)
from medtask.tasks.reader import TaskReader
from medtask.tasks.row_options import RowOptions, read_options
from medtask.tasks.task import GoldForm, MultipleChoice, Task

_TEXT_COLUMN = "answer_text"  # the text of the option whose letter is the answer


class MultipleChoiceConfig(ConfigModel):
    kind: Any
    options: Any
    several: Annotated[bool, BOOLEAN] = False
    readout: Literal["letter", "text"] = "letter"
    normalise: Annotated[bool, BOOLEAN] = True
    debias: Literal["none", "permute"] = "none"
    at_least_one: Annotated[bool | None, BOOLEAN, NullAsNone] = None
    gold_is: Annotated[GoldForm | None, NullAsNone] = None


_COLUMNS: Schema = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}
_KEYS: Mapping[str, KeyDescription] = {
    "options": KeyDescription(
        "One column with all options of a row, or a list of columns with one option each.",
        "options: [option_a, option_b, option_c]",
        _COLUMNS,
    ),
    "several": KeyDescription("Whether several options may be right.", "several: true"),
    "readout": KeyDescription(
        "Whether the model chooses a letter, or the texts of the options are scored.",
        "readout: text",
    ),
    "normalise": KeyDescription(
        "With `readout: text`: divide the log-likelihood by the length of the text.",
        "normalise: false",
    ),
    "debias": KeyDescription(
        "`permute` averages the probabilities over orders of the options.", "debias: permute"
    ),
    "at_least_one": KeyDescription(
        "With `several`: whether every row gets at least one option. Default: true.",
        "at_least_one: false",
    ),
    "gold_is": KeyDescription(
        "What the gold column holds. Default: what fits the whole column.", "gold_is: letter"
    ),
}


class ChoiceKind(TaskKind[MultipleChoice]):
    """Branches over the letters or the texts of a row's options."""

    config_type = MultipleChoiceConfig
    spec_type = MultipleChoice
    key_descriptions = _KEYS
    columns_key = "options"
    columns_use = "holds options"

    @classmethod
    def read_spec(
        cls, reader: TaskReader, config: MultipleChoiceConfig, label_names: Sequence[str]
    ) -> MultipleChoice:
        for key, message in _find_contradictions(config):
            reader.add_fault(message, "answer", key)
        return MultipleChoice(
            _read_columns(reader, config.options),
            config.several,
            config.readout,
            config.normalise,
            config.debias,
            at_least_one=config.several and config.at_least_one is not False,
            gold_is=config.gold_is,
        )

    @classmethod
    def make_minimal_spec(cls) -> MultipleChoice:
        return MultipleChoice(())

    def restore_spec(self, properties: Mapping[str, str]) -> MultipleChoice:
        # Earlier versions could answer with no option, and had no setting for it.
        was_optional = properties.get("several") == "true" and "at_least_one" not in properties
        return replace(self.spec, at_least_one=False) if was_optional else self.spec

    @property
    def allows_none(self) -> bool:
        """Whether no option may apply to a row."""
        return self.spec.several and not self.spec.at_least_one

    @property
    def always_answers(self) -> bool:
        return not self.allows_none

    @property
    def columns(self) -> tuple[str, ...]:
        return self.spec.columns

    def read_extras(self, fields: Mapping[str, object]) -> RowExtras | str:
        found = read_options(self.spec, fields)
        return found if isinstance(found, str) else RowExtras(options=found.options)

    def read_gold(self, row: Mapping[str, object], cell: object) -> Value | None:
        """See `TaskKind.read_gold`; an annotation without an option is missing."""
        if not self.spec.several and read_annotations(cell) == []:
            return None
        return super().read_gold(row, cell)

    def parse_gold(self, row: Mapping[str, object], cell: object, text: str) -> Value:
        """Letters, from the letter, the key, the text or the position of options."""
        options = read_options(self.spec, row)
        if isinstance(options, str):
            return text
        if self.allows_none and read_annotations(cell) == []:
            return ()
        letters = find_letters(cell, options, self.spec.several, self.spec.gold_is)
        if letters is None:
            # A letter that may be the text of another option must not be taken for its letter.
            return quote(text) if text in options.letters else text
        return letters if self.spec.several else letters[0]

    def read_gold_column(
        self, cells: Iterable[tuple[Mapping[str, object], object]]
    ) -> tuple[Task, list[str]]:
        if self.spec.gold_is is not None:
            return self.task, []
        column = GoldColumn()
        for number, (row, cell) in enumerate(cells, 1):
            options = read_options(self.spec, row)
            if isinstance(options, RowOptions) and read_present_cell(cell) is not None:
                column.add(number, find_readings(cell, options, self.spec.several))
        return self._with_gold_form(column.infer_form()), column.describe()

    def match_names(self, row: Mapping[str, object], cell: object) -> tuple[WrittenName, ...]:
        """The texts of options in a cell; letters, keys and numbers are not names."""
        options = read_options(self.spec, row)
        if not isinstance(options, RowOptions):
            return ()
        found = match_option_texts(cell, options, self.spec.several, self.spec.gold_is)
        return tuple(WrittenName(text, match) for text, match in found)

    def with_written_values(self) -> Task:
        return self._with_gold_form("letter")

    def read_example_answer(self, row: Mapping[str, object], cell: object) -> Value | None:
        """The answer of a worked example, which can have another form than the gold column."""
        answer = super().read_example_answer(row, cell)
        if answer is None or self.spec.gold_is is None or not self.find_invalid_gold(row, answer):
            return answer
        return ChoiceKind(self._with_gold_form(None)).read_example_answer(row, cell)

    def has_name(self, row: Mapping[str, object], word: str) -> bool:
        options = read_options(self.spec, row)
        return not isinstance(options, str) and any(
            word.strip() == option.text for option in options.options
        )

    def find_invalid_gold(self, row: Mapping[str, object], gold: Value) -> tuple[str, ...]:
        options = read_options(self.spec, row)
        if isinstance(options, str):
            return ()  # reported when the prompt is built
        names = gold if isinstance(gold, tuple) else (str(gold),)
        if gold == () and not self.allows_none:
            return ("[]",)
        valid = isinstance(gold, tuple) == self.spec.several and set(names) <= set(options.letters)
        return () if valid else (str(gold),)

    def describe_invalid_gold(self, value: str) -> str:
        what = "does not name one option" if value[:1] == '"' else "is not an option"
        shown = quote(value.strip('"'), MAX_GOLD_CHARACTERS)
        return f"gold {shown} {what} of its row"

    def write_choices(self) -> list[str]:
        if self.spec.several:
            return [
                "At least one of the options is right, and more can be."
                if self.spec.at_least_one
                else "Any number of the options can be right.",
                ask_for_each("option", "its letter"),
            ]
        what = "that option" if self.spec.readout == "text" else "its letter"
        return [f"Exactly one of the options is right. Answer with {what} alone."]

    @property
    def fenced_part(self) -> str:
        return "question"

    def write_question(self, text: str, extras: RowExtras) -> str:
        # If exactly one option is correct, each branch shows the options, in its own order.
        if self.spec.several:
            return self.write_example_question(text, extras)
        return f"Question: {text}"

    def write_example_question(self, text: str, extras: RowExtras) -> str:
        return f"Question: {text}{self._write_options(extras.options)}"

    def write_answer(self, answer: Value, options: Sequence[Option] = ()) -> str:
        if self.spec.several:
            return write_yes_no_lines([option.letter for option in options], answer)
        texts = {
            option.letter: option.text if self.spec.readout == "text" else option.letter
            for option in options
        }
        return texts[str(answer)]

    def build_branches(self, options: Sequence[Option]) -> tuple[Branch, ...]:
        if self.spec.several:
            return tuple(
                Branch(f"{option.letter}: ", YES_NO, descriptions=(Description(option.text),))
                for option in options
            )
        if self.spec.readout == "text":
            return (self._build_branch([option.text for option in options], options),)
        orders = _rotate_options(options) if self.spec.debias == "permute" else [options]
        letters = [option.letter for option in options]
        return tuple(self._build_branch(letters, order) for order in orders)

    def find_gold_indices(self, options: Sequence[Option], gold: Value) -> list[int]:
        if self.spec.several:
            return [0 if option.letter in gold else 1 for option in options]
        index = [option.letter for option in options].index(str(gold))
        permuted = self.spec.readout == "letter" and self.spec.debias == "permute"
        # In cyclic order j, the i-th letter shows option (i + j) mod n: see _rotate_options.
        return [(index - shift) % len(options) for shift in range(len(options) if permuted else 1)]

    @property
    def compares_likelihoods(self) -> bool:
        return self.spec.readout == "text"

    def get_length_scales(self, options: Sequence[Option]) -> tuple[float, ...] | None:
        """Factors for log-likelihoods per character, times the row's mean length.

        This gives the order of lm-evaluation-harness's acc_norm; the mean keeps the probabilities
        as sharp as those of whole texts.
        """
        if self.spec.several or self.spec.readout == "letter" or not self.spec.normalise:
            return None
        lengths = [len(option.text) for option in options]
        mean = sum(lengths) / len(lengths)
        return tuple(mean / length for length in lengths)

    def describe_invalid_answer(self, invalid: str, answer: Value) -> str:
        if invalid[:1] == '"':
            return f"answers {invalid}, a letter and the text of another of its options"
        return f"answers {quote(invalid)}, which is not one of its options"

    def find_reasoning_conflict(self) -> str | None:
        # Thoughts refer to options by letter, so letters must not be permuted after them.
        if self.spec.debias == "none":
            return None
        return (
            '"debias: permute" shows the options in several orders, and thoughts name them by the '
            "letters of one order: remove one of the two"
        )

    def find_unknown_answers(self, names: Sequence[str]) -> list[str]:
        return [
            f"answer_in names {quote(name)}, which is not a "
            f"letter{format_suggestion(name, LETTERS)}"
            for name in names
            if name not in LETTERS
        ]

    def build_form(self, options: Sequence[Option]) -> AnswerForm:
        choices = tuple(AnswerChoice(option.letter, option.text) for option in options)
        if not self.spec.several:
            return AnswerForm("one", choices)
        return AnswerForm("several", choices, at_least_one=self.spec.at_least_one)

    def list_reading_columns(self, *, wide: bool) -> tuple[str, ...]:
        return (_TEXT_COLUMN,)

    def read_reading_cells(
        self, row: Mapping[str, object], value: object, quotes: Mapping[str, str]
    ) -> dict[str, object]:
        options = read_options(self.spec, row)
        if value is None or isinstance(options, str):
            return {}
        letters = (
            [value]
            if isinstance(value, str)
            else list(value)
            if isinstance(value, list | tuple)
            else []
        )
        texts = {option.letter: option.text for option in options.options}
        return {_TEXT_COLUMN: "; ".join(texts[name] for name in letters if name in texts)}

    def format_gold(self, value: Value, options: Sequence[Option]) -> Value:
        forms: dict[str, list[str]] = {
            "text": [option.text for option in options],
            "index0": [str(index) for index in range(len(options))],
            "index1": [str(index) for index in range(1, len(options) + 1)],
        }
        names = forms.get(self.spec.gold_is or "letter")
        if names is None:
            return value
        letters = [option.letter for option in options]
        if isinstance(value, str):
            return names[letters.index(value)]
        return tuple(names[letters.index(letter)] for letter in value)

    def describe_answers(self) -> str:
        columns = self.spec.columns
        number = "any number" if self.allows_none else "one" + " or more" * self.spec.several
        return (
            f"{number} of the options in the "
            f"column{'s' if len(columns) > 1 else ''} {format_list(list(map(quote, columns)))}"
        )

    def _with_gold_form(self, form: GoldForm | None) -> Task:
        return replace(self.task, answer_spec=replace(self.spec, gold_is=form))

    def _build_branch(self, candidates: Sequence[str], order: Sequence[Option]) -> Branch:
        descriptions = tuple(Description(option.text) for option in order)
        return Branch("", tuple(candidates), self._write_options(order), "text", descriptions)

    def _write_options(self, options: Sequence[Option]) -> str:
        """The block that lists a row's options, after the question."""
        bare = self.spec.readout == "text"
        lines = [
            f"- {option.text}" if bare else f"{option.letter}. {option.text}" for option in options
        ]
        return "\n".join(["\n\nOptions:", *lines])


def _read_columns(reader: TaskReader, raw: object) -> tuple[str, ...]:
    path = ("answer", "options")
    given = [raw] if isinstance(raw, str) else raw if isinstance(raw, list) else []
    columns = [column.strip() for column in given if isinstance(column, str) and column.strip()]
    if not columns or len(columns) < len(given):
        reader.add_fault(
            '"options" is the column that holds them, or a list of columns with one option each',
            *path,
        )
    elif len(columns) > len(LETTERS):
        reader.add_fault(
            f"{len(columns)} columns of options, but there are only {len(LETTERS)} letters", *path
        )
    for index, column in enumerate(columns):
        if column in columns[:index]:
            reader.add_fault(f"the column {quote(column)} is named twice", *path, index)
    return tuple(columns)


def _find_contradictions(config: MultipleChoiceConfig) -> Iterator[tuple[str, str]]:
    if config.several and config.readout == "text":
        yield "readout", '"several" asks about every option by itself: remove "readout: text"'
    if config.several and config.debias == "permute":
        yield "debias", '"several" asks about every option by itself: remove "debias: permute"'
    if config.at_least_one is not None and not config.several:
        yield "at_least_one", '"at_least_one" belongs to "several: true"'
    if not config.several and config.readout == "text" and config.debias == "permute":
        yield "debias", '"debias: permute" is about letters: remove it, or "readout: text"'
    if "normalise" in config.model_fields_set and config.readout == "letter":
        yield "normalise", '"normalise" is about the length of texts: it belongs to "readout: text"'


def _rotate_options(options: Sequence[Option]) -> list[list[Option]]:
    """All cyclic orders: in order j, the i-th letter shows the text of option (i + j) mod n."""
    orders = ([*options[shift:], *options[:shift]] for shift in range(len(options)))
    return [
        [Option(option.letter, shown.text) for option, shown in zip(options, order, strict=True)]
        for order in orders
    ]
