"""`TaskKind`: everything about tasks and their files that differs between kinds of question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from medtask.display import quote
from medtask.errors import UsageError
from medtask.records import Branch, Option, Value
from medtask.tables.cell_values import read_cell
from medtask.tasks.config import ConfigModel
from medtask.tasks.reader import TaskReader
from medtask.tasks.task import AnswerSpec, Task

MAX_GOLD_CHARACTERS = 40  # shown in a warning

SpecT = TypeVar("SpecT", bound=AnswerSpec)


@dataclass(frozen=True, slots=True)
class RowExtras:
    """What a row shows besides its input."""

    context: str = ""
    options: tuple[Option, ...] = ()


class TaskKind(Generic[SpecT]):
    """A kind of question, for one task.

    The methods of this class are those of a kind without columns, labels or candidates; a kind
    overrides what differs.

    Attributes:
        config_type: The keys of ``answer:``.
        spec_type: What the keys are read into.
        columns_key: The key of ``answer:`` that names further columns.
        columns_use: How a fault describes what such a column is for, after "which".
    """

    config_type: ClassVar[type[ConfigModel]]
    spec_type: ClassVar[type[AnswerSpec]]
    columns_key: ClassVar[str] = ""
    columns_use: ClassVar[str] = ""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.spec: SpecT = task.answer_spec  # type: ignore[assignment]  # its kind is this class's

    # task files and manifests

    @classmethod
    def read_spec(cls, reader: TaskReader, config: Any, label_names: Sequence[str]) -> AnswerSpec:
        """The answer section of a task file; ``label_names`` is empty where they are not known."""
        raise NotImplementedError

    @classmethod
    def make_minimal_spec(cls) -> AnswerSpec:
        """The spec of answers about which nothing but their kind is known."""
        return cls.spec_type()  # type: ignore[call-arg]  # kinds without defaults override this

    @classmethod
    def spec_from_dict(cls, content: Mapping[str, Any]) -> AnswerSpec:
        """The spec from its JSON object, in which tuples are lists."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
        }
        return cls.spec_type(**values)

    @classmethod
    def get_readout(cls, spec: SpecT) -> Literal["name", "code"]:
        """Whether the model writes the names of labels, or codes for them."""
        return "name"

    # rows

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a prompt shows besides its input."""
        return ()

    def read_extras(self, fields: Mapping[str, object]) -> RowExtras | str:
        """What a row shows besides its input, or why the row cannot be asked about."""
        return RowExtras()

    def read_context(self, fields: Mapping[str, object]) -> str:
        """The text of the context column as it stands in the row; "" without one."""
        return ""

    def parse_gold(self, row: Mapping[str, object], cell: object, text: str) -> Value:
        """A gold cell as a value of the task; ``text``, the cell's text, where it is not one."""
        return text

    def find_invalid_gold(self, row: Mapping[str, object], gold: Value) -> tuple[str, ...]:
        """The parts of a row's gold that the task cannot answer: names, a text, or fields."""
        return ()

    def describe_invalid_gold(self, value: str) -> str:
        """A warning about gold found by `find_invalid_gold`, without a record's own words."""
        return f"gold {quote(value, MAX_GOLD_CHARACTERS)} is not a label"

    # prompts

    def write_choices(self) -> list[str]:
        """The lines of a prompt after the instruction: what can be answered, and how."""
        return []

    def write_question(self, text: str, extras: RowExtras) -> str:
        """The row's part of the user's turn."""
        return f"Text: {text}"

    def write_example_question(self, text: str, extras: RowExtras) -> str:
        """The same of a worked example, whose prompt has no branches."""
        return self.write_question(text, extras)

    def write_answer(self, answer: Value, options: Sequence[Option] = ()) -> str:
        """The model's turn of a worked example.

        Raises:
            KeyError, ValueError: The task has no such answer.
        """
        return str(answer)

    def build_branches(self, options: Sequence[Option]) -> tuple[Branch, ...]:
        """The candidates that are scored; none where the model writes first."""
        return ()

    def find_gold_indices(self, options: Sequence[Option], gold: Value) -> list[int]:
        """For each branch of a prompt the index of the candidate that is right."""
        raise UsageError(
            f"a task of kind {self.task.kind} has no candidates", fix="name a task of another kind"
        )

    def get_length_scales(self, options: Sequence[Option]) -> tuple[float, ...] | None:
        """Factors of the candidates' log-likelihoods; None where these are not scaled."""
        return None

    @property
    def compares_likelihoods(self) -> bool:
        """Whether candidates are texts that are scored over the whole vocabulary."""
        return False

    # examples

    def read_example_answer(self, row: Mapping[str, object], cell: object) -> Value | None:
        """The answer of a worked example; None where the cell is blank."""
        text = read_cell(cell)
        return None if text is None else self.parse_gold(row, cell, text)

    def describe_invalid_answer(self, invalid: str, answer: Value) -> str:
        """What is wrong with an example's answer, by a part that `find_invalid_gold` returned."""
        raise NotImplementedError

    def complete_answer(self, answer: Value, text: str | None) -> tuple[Value, list[str]]:
        """An example's answer with what may be left out, and what is wrong with it.

        ``text`` is the example's input as shown; None where it cannot be shown.
        """
        return answer, []

    @property
    def always_answers(self) -> bool:
        """Whether every row gets at least one label."""
        return self.task.kind_spec.exclusive

    # thresholds

    @property
    def threshold_fit(self) -> tuple[Literal["f1", "recall"], float] | None:
        """The objective, and the least recall, of thresholds fitted on gold; None without these."""
        return None

    def without_threshold_fit(self) -> Task:
        """The task with thresholds that are not fitted."""
        return self.task

    # passes

    def find_confidence_problem(self) -> str | None:
        """Why answers have no confidence; None where they have one."""
        return None

    def find_reasoning_conflict(self) -> str | None:
        """Why the model cannot think before it answers; None where it can."""
        return None

    def find_unknown_answers(self, names: Sequence[str]) -> list[str]:
        """What is wrong with the names of answers under ``answer_in``."""
        return [
            f"answer_in is about labels and letters, and this task is of the kind {self.task.kind}"
        ]

    def select_labels(self, names: Sequence[str]) -> Task:
        """The task with some of its labels; only for kinds with labels."""
        raise NotImplementedError

    # outputs

    @property
    def written_schema(self) -> Mapping[str, Any] | None:
        """The JSON schema under which the model writes; None where there is none."""
        return None

    @property
    def answer_schema(self) -> Mapping[str, Any] | None:
        """The JSON schema of the answer's value; None where it is not an object."""
        return None

    @property
    def has_quotes(self) -> bool:
        """Whether fields are answered with spans of the record."""
        return False

    @property
    def has_sections(self) -> bool:
        """Whether the model writes more than the answer's value."""
        return False

    # descriptions

    def describe_answers(self) -> str:
        """What there is to answer: "3 labels", "options in the columns a, b", "6 fields"."""
        raise NotImplementedError
