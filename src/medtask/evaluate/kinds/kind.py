"""What each kind of question brings to a report: how its answers are counted, held against gold,
and told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from medtask.evaluate.blocks import Block
from medtask.evaluate.intervals import Estimate
from medtask.records import Answer, Option, Status, Value

Kind = Literal["label", "labels", "choice", "answer", "fields"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Up to 2,000 random rows with gold, column by column, for baselines. An answer is None where
    there was none, a group where the row has none; without groups the column may be empty.
    """

    texts: tuple[str, ...] = ()
    gold: tuple[Any, ...] = ()
    answers: tuple[Any, ...] = ()
    options: tuple[tuple[Option, ...], ...] = ()
    groups: tuple[str | None, ...] = ()


class RowGrade(NamedTuple):
    """Whether an answer is right (see Grader.is_right), and the larger ``weight``, the sooner a
    person should see that it is not.
    """

    right: bool | None
    weight: float


class Shape(Protocol):
    """What a run's answers look like."""

    def to_json(self) -> Mapping[str, object]:
        """A plain dict without record text."""

    def tell(self, manifest: Mapping[str, object]) -> list[Block]: ...

    def say(self) -> str | None:
        """One line for a terminal, where there is something that changes what the user does
        next.
        """


class Quality(Protocol):
    """What a run's answers are worth against gold."""

    @property
    def figures(self) -> Mapping[str, Estimate | None]:
        """All of them by measure (see words.MEASURES), the headline first. Each names the rows that
        it is over; None where these leave it undefined.
        """

    @property
    def headlines(self) -> tuple[str, ...]:
        """The few measures that stand in the lead, the headline first."""

    @property
    def right(self) -> Estimate | None:
        """The share of answered rows that are right, which their confidence should be; None where
        there is no such thing.
        """

    def to_json(self) -> dict[str, object]:
        """A plain dict without record text."""

    def tell(self) -> list[str]:
        """The headline in sentences."""

    def caveats(self) -> list[str]:
        """What the figures do not say, in sentences."""

    def explain(self) -> str:
        """How the figures and the comparison with baselines were made."""

    def detail(self) -> list[Block]:
        """Whatever else a report shows."""


class Shaper(Protocol):
    """Counts answers."""

    def add(self, answer: Answer, options: Sequence[Option]) -> None: ...

    def finish(self) -> Shape: ...


class Grader(Protocol):
    """Holds answers against gold."""

    def read(self, gold: Value, options: Sequence[Option]) -> Value | None:
        """Gold as a truth of this kind; None where it is none."""

    def settle(self, status: Status, value: Value | None) -> Value | None:
        """What stands for an answer where it is compared; None where it is none."""

    def is_right(self, given: Value | None, truth: Value) -> bool | None:
        """None where right and wrong are not all there is."""

    def add(
        self,
        given: Value | None,
        truth: Value,
        answer: Answer,
        group: str | None = None,
        options: Sequence[Option] = (),
    ) -> RowGrade:
        """``given``: what settle made of the answer. Rows of one ``group`` (a patient, say) are not
        independent.
        """

    def finish(self, sample: Sample) -> Quality | None:
        """None where no row could be graded."""


def open_kind(
    kind: Kind, labels: Sequence[str], abstain: str | None, seed: int
) -> tuple[Shaper, Grader]:
    """What counts and grades the answers of one run."""
    # Each kind is a room of its own, and only the one that is used is loaded.
    match kind:
        case "label":
            from medtask.evaluate.kinds.label import LabelGrader, LabelShaper

            return LabelShaper(labels), LabelGrader(labels, abstain, seed)
        case "labels":
            from medtask.evaluate.kinds.labels import LabelsGrader, LabelsShaper

            return LabelsShaper(labels), LabelsGrader(labels, seed)
        case "choice":
            from medtask.evaluate.kinds.choice import ChoiceGrader, ChoiceShaper

            return ChoiceShaper(), ChoiceGrader(seed)
        case "answer":
            from medtask.evaluate.kinds.answer import AnswerGrader, AnswerShaper

            return AnswerShaper(), AnswerGrader(seed)
        case "fields":
            from medtask.evaluate.kinds.fields import FieldsGrader, FieldsShaper

            return FieldsShaper(), FieldsGrader(seed)
