"""`TaskKind`: the parts of tasks and task files that depend on the kind of question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from pydantic import TypeAdapter

from medtask.display import quote
from medtask.errors import UsageError
from medtask.names import MatchLevel, NameMatch
from medtask.records import Branch, Option, Value
from medtask.tables.cell_values import read_cell
from medtask.tables.missing import MISSING_WORDS, MissingText
from medtask.tasks.answer_form import AnswerForm
from medtask.tasks.config import ConfigModel
from medtask.tasks.fence import Fence
from medtask.tasks.key_reference import KeyDescription
from medtask.tasks.reader import TaskReader
from medtask.tasks.task import AnswerSpec, Task

_MIN_WORD_LENGTH = 4  # characters of a label that is a word and not a symbol
MAX_GOLD_CHARACTERS = 40  # shown in a warning

SpecT = TypeVar("SpecT", bound=AnswerSpec)


@dataclass(frozen=True, slots=True)
class RowExtras:
    """The parts of a row that a prompt shows in addition to the input."""

    context: str = ""
    options: tuple[Option, ...] = ()


class WrittenName(NamedTuple):
    """A name in a cell: its text, and the task's name that it stands for."""

    text: str
    match: NameMatch


class TaskKind(Generic[SpecT]):
    """A kind of question, for one task.

    The methods of this class implement a kind without columns, labels or candidates; subclasses
    override what differs.

    Attributes:
        config_type: The keys of ``answer:``.
        spec_type: The class of the specification that is read from them.
        key_descriptions: What these keys mean, for the JSON Schema and the documentation.
        columns_key: The key of ``answer:`` that names further columns.
        columns_use: The purpose of such a column, as completed after "which" in a fault.
    """

    config_type: ClassVar[type[ConfigModel]]
    spec_type: ClassVar[type[AnswerSpec]]
    key_descriptions: ClassVar[Mapping[str, KeyDescription]]
    columns_key: ClassVar[str] = ""
    columns_use: ClassVar[str] = ""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.spec: SpecT = task.answer_spec  # type: ignore[assignment]  # of this class's kind

    # task files and manifests

    @classmethod
    def read_spec(cls, reader: TaskReader, config: Any, label_names: Sequence[str]) -> AnswerSpec:
        """Read the answer section of a task file; ``label_names`` is empty if not valid."""
        raise NotImplementedError

    @classmethod
    def make_minimal_spec(cls) -> AnswerSpec:
        """The specification if only the kind of the answers is known."""
        return cls.spec_type()  # type: ignore[call-arg]  # kinds without defaults override this

    @classmethod
    def spec_from_dict(cls, content: Mapping[str, Any]) -> AnswerSpec:
        """The specification from its JSON object. Raises ValueError if not valid."""
        spec: AnswerSpec = TypeAdapter(cls.spec_type).validate_python(content)
        return spec

    @classmethod
    def get_readout(cls, spec: SpecT) -> Literal["name", "code"]:
        """Whether the model writes the names of labels or their codes."""
        return "name"

    def restore_spec(self, properties: Mapping[str, str]) -> AnswerSpec:
        """The specification for a run that was started before some settings existed.

        ``properties`` are those of `describe_task`, as that run recorded them.
        """
        return self.spec

    # rows

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a prompt shows in addition to the input."""
        return ()

    def read_extras(self, fields: Mapping[str, object]) -> RowExtras | str:
        """The further parts of a row for a prompt, or why the row cannot be asked."""
        return RowExtras()

    def read_context(self, fields: Mapping[str, object]) -> str:
        """The text of the context column; "" without one."""
        return ""

    def read_gold(self, row: Mapping[str, object], cell: object) -> Value | None:
        """A gold cell as a value of the task; None if it is missing.

        A word for a missing value is a value only if it is a name of the task or of an option.
        """
        text = read_cell(cell)
        if text is None or (isinstance(cell, MissingText) and not self.has_name(row, cell)):
            return None
        return self.parse_gold(row, cell, text)

    @property
    def blank_gold(self) -> str:
        """What a blank cell of gold means; "" if it can only mean that there is no gold."""
        return ""

    def parse_gold(self, row: Mapping[str, object], cell: object, text: str) -> Value:
        """A gold cell as a value of the task; ``text``, the cell's text, if it is not valid."""
        return text

    def read_gold_column(
        self, cells: Iterable[tuple[Mapping[str, object], object]]
    ) -> tuple[Task, list[str]]:
        """The task that reads a whole column of gold, and notes on how it reads it.

        ``cells`` are rows, which have the columns that the task uses, and their cells of gold.
        """
        return self.task, []

    def with_written_values(self) -> Task:
        """The task that reads values as medtask writes them."""
        return self.task

    def match_names(self, row: Mapping[str, object], cell: object) -> tuple[WrittenName, ...]:
        """The names in a gold cell as they are written, and what they stand for."""
        return ()

    def has_name(self, row: Mapping[str, object], word: str) -> bool:
        """Whether a word for a missing value is a name of the task or of the row's options."""
        matches = [written.match for written in self.match_names(row, word)]
        # Without regard to capital letters only for words: sodium is "Na", and R's missing
        # value "NA".
        return any(
            match.name is not None
            and (
                match.level in (MatchLevel.EXACT, MatchLevel.SPELLING)
                or match.name in MISSING_WORDS
                or len(match.name) >= _MIN_WORD_LENGTH
            )
            for match in matches
        )

    def find_invalid_gold(self, row: Mapping[str, object], gold: Value) -> tuple[str, ...]:
        """The invalid parts of a row's gold: names, a text, or fields."""
        return ()

    def describe_invalid_gold(self, value: str) -> str:
        """A warning about a result of `find_invalid_gold`, without record text."""
        return f"gold {quote(value, MAX_GOLD_CHARACTERS)} is not a label"

    # prompts

    def write_choices(self) -> list[str]:
        """The lines of a prompt after the instruction: the possible answers and their format."""
        return []

    @property
    def fenced_part(self) -> str:
        """The part of the row's question that is data and is enclosed in tags; "" for none."""
        return "text"

    def enclose(self, fence: Fence, text: str, extras: RowExtras) -> tuple[str, RowExtras]:
        """The inputs of `write_question`, with the tags around the part that is data."""
        return fence.enclose(text), extras

    def write_question(self, text: str, extras: RowExtras) -> str:
        """The row's part of the user turn."""
        return f"Text: {text}"

    def write_example_question(self, text: str, extras: RowExtras) -> str:
        """The same for a worked example, whose prompt has no branches."""
        return self.write_question(text, extras)

    def write_answer(self, answer: Value, options: Sequence[Option] = ()) -> str:
        """The model's turn of a worked example.

        Raises:
            KeyError, ValueError: The answer is not valid for the task.
        """
        return str(answer)

    def build_branches(self, options: Sequence[Option]) -> tuple[Branch, ...]:
        """The branches to score; empty if the model writes first."""
        return ()

    def find_gold_indices(self, options: Sequence[Option], gold: Value) -> list[int]:
        """For each branch of a prompt, the index of the correct candidate."""
        raise UsageError(
            f"a task of kind {self.task.kind} has no candidates", fix="name a task of another kind"
        )

    def get_length_scales(self, options: Sequence[Option]) -> tuple[float, ...] | None:
        """Factors of the candidates' log-likelihoods; None if these are not scaled."""
        return None

    @property
    def compares_likelihoods(self) -> bool:
        """Whether candidates are texts scored over the whole vocabulary."""
        return False

    # examples

    def read_example_answer(self, row: Mapping[str, object], cell: object) -> Value | None:
        """The answer of a worked example; None if the cell is blank."""
        return self.read_gold(row, cell)

    def describe_invalid_answer(self, invalid: str, answer: Value) -> str:
        """The problem of an example's answer, for a part returned by `find_invalid_gold`."""
        raise NotImplementedError

    def complete_answer(self, answer: Value, text: str | None) -> tuple[Value, list[str]]:
        """An example's answer with optional parts added, and its problems.

        ``text`` is the example's rendered input; None if it cannot be rendered.
        """
        return answer, []

    @property
    def always_answers(self) -> bool:
        """Whether every row gets at least one label."""
        return self.task.kind_spec.exclusive

    # thresholds

    @property
    def threshold_fit(self) -> tuple[Literal["f1", "recall"], float] | None:
        """Objective and minimum recall of thresholds fitted on gold; None without fitting."""
        return None

    @property
    def thresholds(self) -> Mapping[str, float]:
        """The thresholds that the task names, by label."""
        return {}

    def set_default_thresholds(self, thresholds: Mapping[str, float]) -> Task:
        """The task with these thresholds for the labels for which it names none."""
        return self.task

    def with_threshold_fit(self) -> Task | None:
        """The task with thresholds fitted on gold; None if it names some, or the kind has none."""
        return None

    def without_threshold_fit(self) -> Task:
        """The task without fitting of thresholds."""
        return self.task

    # passes

    def find_confidence_problem(self) -> str | None:
        """Why answers have no confidence; None if they have one."""
        return None

    def find_reasoning_conflict(self) -> str | None:
        """Why the task does not allow reasoning; None if it does."""
        return None

    def find_cascade_conflict(self) -> str | None:
        """Why no student can answer rows for the model; None if one can."""
        return (
            f"a cascade needs a task with labels, and this one is of the kind {self.task.kind}: "
            "its rows do not have the same answers to choose from"
        )

    def find_unknown_answers(self, names: Sequence[str]) -> list[str]:
        """The problems of the names under ``answer_in``."""
        return [
            f"answer_in is about labels and letters, and this task is of the kind {self.task.kind}"
        ]

    def select_labels(self, names: Sequence[str]) -> Task:
        """The task with some of its labels; only for kinds with labels."""
        raise NotImplementedError

    # outputs

    @property
    def written_schema(self) -> Mapping[str, Any] | None:
        """The JSON schema of generated text; None without one."""
        return None

    @property
    def answer_schema(self) -> Mapping[str, Any] | None:
        """The JSON schema of the answer's value; None if it is not an object."""
        return None

    @property
    def has_quotes(self) -> bool:
        """Whether fields have supporting quotes from the record."""
        return False

    @property
    def has_sections(self) -> bool:
        """Whether the model writes more than the answer's value."""
        return False

    # people

    def build_form(self, options: Sequence[Option]) -> AnswerForm:
        """What a person fills in to answer a row with these options."""
        raise NotImplementedError

    def format_gold(self, value: Value, options: Sequence[Option]) -> Value:
        """A value as a gold cell, in the form in which the task reads gold."""
        return value

    def list_reading_columns(self, *, wide: bool) -> tuple[str, ...]:
        """The columns beside the answer that people read in a spreadsheet.

        ``wide``: whether parts of an answer have columns of their own.
        """
        return ()

    def read_reading_cells(
        self, row: Mapping[str, object], value: object, quotes: Mapping[str, str]
    ) -> dict[str, object]:
        """The cells of these columns for the answer to a row; ``quotes`` are texts by field."""
        return {}

    # descriptions

    def describe_answers(self) -> str:
        """The possible answers: "3 labels", "options in the columns a, b", "6 fields"."""
        raise NotImplementedError
