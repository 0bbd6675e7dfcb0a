"""The numbers of a run's report, ``report.json``, that other commands read back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, model_validator

from medtask.json_content import JsonContent, load_checked
from medtask.json_files import InvalidJsonFile

REPORT_NUMBERS_FILE = "report.json"
_MAX_CLASSES = 5_001  # the table of counts has the square of this number of cells

_Count = Annotated[
    tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt],
    Field(strict=False),  # JSON has lists only
]


class GoldNumbers(JsonContent):
    """Gold by answer.

    Attributes:
        classes: The classes of gold, and None at the end for rows without an answer.
        confusion: Index of the gold class, index of the answer, and number of rows.
    """

    classes: list[str | None] = Field(default_factory=list, max_length=_MAX_CLASSES)
    confusion: list[_Count] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check_places(self) -> Self:
        count = len(self.classes)
        if any(truth >= count - 1 or given >= count for truth, given, _ in self.confusion):
            raise ValueError("a count of a class that is not listed")
        return self


class OffSetNumbers(JsonContent):
    """The off-set mass of the answers: a histogram, and the mean."""

    bins: list[NonNegativeInt]
    mean: float | None


class ReportNumbers(JsonContent):
    """What is read back; other numbers are not checked."""

    gold: GoldNumbers | None = None
    off_set: OffSetNumbers | None = None


def read_report_numbers(folder: Path) -> ReportNumbers:
    """The numbers of a run's report; none if it has no report, or one that is not valid."""
    try:
        return load_checked(folder / REPORT_NUMBERS_FILE, ReportNumbers)
    except (FileNotFoundError, InvalidJsonFile):
        return ReportNumbers()
