"""What gold says of a run's answers, gathered row by row in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from medtask.evaluate.cases import Case, Shortlist, cut_text, describe_case
from medtask.evaluate.kinds.kind import Grader, Kind, Quality, Sample
from medtask.evaluate.marks import MarkGatherer, Marks
from medtask.evaluate.reliability import Reliability
from medtask.evaluate.words import read_value
from medtask.records import Answer, Option, Status, Value

ERRORS = 30
SAMPLE = 2000
UNKNOWN_VALUES = 100
KEPT = 20_000  # characters of one text in the sample

Verdict = Literal["right", "wrong", "unknown"]
_VERDICTS: Mapping[bool | None, Verdict] = {True: "right", False: "wrong", None: "unknown"}


@dataclass(frozen=True, slots=True, eq=False)
class GoldSummary:
    """``quality``: see the kind's own room; None where no row could be graded.

    ``missing`` and ``unknown`` count rows whose gold is empty, or no truth of the kind;
    ``unknown_values`` are such values, the most frequent first. ``mean_confidence`` is over the
    rows with gold that got an answer that has one. ``errors``: the wrong rows that a person should
    see, such as the most confident ones. ``marks``: all rows with gold, as columns.
    ``reliability``: whether confidence can be believed; None where there is none.
    """

    quality: Quality | None
    mean_confidence: float | None
    missing: int
    unknown: int
    unknown_values: Mapping[str, int]
    errors: tuple[Case, ...]
    sample: Sample
    marks: Marks
    reliability: Reliability | None

    @property
    def rows(self) -> int:
        """Rows whose gold counts."""
        return (
            max((figure.n for figure in self.quality.figures.values() if figure), default=0)
            if self.quality
            else 0
        )

    def to_json(self) -> dict[str, object]:
        """A plain dict without record text, and without gold values that are no truth: they may be
        text.
        """
        return {
            "rows": self.rows,
            "missing": self.missing,
            "unknown": self.unknown,
            "mean_confidence": self.mean_confidence,
            **(self.quality.to_json() if self.quality else {"quality": None}),
            "reliability": self.reliability.to_json() if self.reliability else None,
            "errors": [case.locate() for case in self.errors],
        }


class GoldGatherer:
    """The part of a Gatherer that compares answers with gold."""

    def __init__(self, kind: Kind, grader: Grader, seed: int) -> None:
        self._kind, self._grader, self._seed = kind, grader, seed
        self._missing = self._unknown = self._sure = 0
        self._confidence = 0.0
        self._unknown_values: Counter[str] = Counter()
        self._errors: Shortlist[Case] = Shortlist(ERRORS)
        self._marks = MarkGatherer()
        self._sample: Shortlist[tuple[str, Any, Any, tuple[Option, ...], str | None]] = Shortlist(
            SAMPLE
        )

    def read(self, gold: Value | None, options: Sequence[Option]) -> Value | None:
        """Gold as a truth that answers are held against; None, and counted, where it is missing or
        none.
        """
        if gold is None or gold in ("", {}):
            self._missing += 1
            return None
        truth = self._grader.read(gold, options)
        if truth is None:
            self._unknown += 1
            value = cut_text(read_value(gold), 80)
            if value in self._unknown_values or len(self._unknown_values) < UNKNOWN_VALUES:
                self._unknown_values[value] += 1
        return truth

    def is_right(self, status: Status, value: Value | None, truth: Value) -> bool | None:
        return self._grader.is_right(self._grader.settle(status, value), truth)

    def add(
        self,
        row: int,
        answer: Answer,
        text: str,
        truth: Value,
        options: Sequence[Option],
        group: str | None = None,
    ) -> Verdict:
        """What gold says of this answer; "unknown" where the kind knows no right and wrong."""
        given = self._grader.settle(answer.status, answer.value)
        judged = self._grader.add(given, truth, answer, group, options)
        self._marks.add(row, answer, bool(judged.right), truth, group)
        # The rows with the smallest hashes are a random sample that does not depend on the order of
        # arrival.
        chance = int.from_bytes(
            blake2b(f"{self._seed}:{row}".encode(), digest_size=6).digest(), "big"
        )
        self._sample.offer(
            (-float(chance), -float(row)),
            lambda: (
                cut_text(text, KEPT),
                _keep(truth),
                _keep(given),
                tuple(options),
                group or None,
            ),
        )
        if answer.value is None:
            return "wrong"
        if answer.confidence is not None:
            self._sure += 1
            self._confidence += answer.confidence
        if not judged.right:
            self._errors.offer(
                (judged.weight, -float(row)),
                lambda: describe_case(row, answer, text, truth, kind=self._kind, options=options),
            )
        return _VERDICTS[judged.right]

    def finish(self) -> GoldSummary:
        columns = tuple(zip(*self._sample.ranked(), strict=True))
        sample = Sample(*columns) if columns else Sample()
        marks = self._marks.finish()
        return GoldSummary(
            quality=self._grader.finish(sample),
            mean_confidence=self._confidence / self._sure if self._sure else None,
            missing=self._missing,
            unknown=self._unknown,
            unknown_values=dict(self._unknown_values.most_common(10)),
            errors=self._errors.ranked(),
            sample=sample,
            marks=marks,
            reliability=marks.measure(seed=self._seed) if self._kind != "answer" else None,
        )


def _keep(value: Value | None) -> Value | None:
    """A value for the sample: long text is cut, as the row's own is."""
    return cut_text(value, KEPT) if isinstance(value, str) and len(value) > KEPT else value
