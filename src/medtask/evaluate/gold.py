"""What gold says of a run's answers, gathered row by row in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np

from medtask.evaluate.cases import Case, Shortlist, cut_text, describe_case
from medtask.evaluate.intervals import Counts
from medtask.evaluate.metrics import Quality, grade_counts
from medtask.records import Answer, Status

ERRORS = 30
SAMPLE = 2000
UNKNOWN_VALUES = 100

Verdict = Literal["right", "wrong", "unknown"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Up to 2,000 random rows with gold, column by column, for baselines. An answer is None where there was none."""

    texts: tuple[str, ...]
    gold: tuple[str, ...]
    answers: tuple[str | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class GoldSummary:
    """``classes``: the labels, and the abstention where there is one; gold that is none of them is not used.

    ``confusion`` counts rows by gold and answer, [classes, classes + 1], the last column for "no answer". ``missing``
    and ``unknown`` count rows whose gold is empty, or no class; ``unknown_values`` are such values, the most frequent
    first. ``mean_confidence`` is over the rows with gold that got a label. ``errors``: the most confident wrong rows.
    """

    classes: tuple[str, ...]
    confusion: Counts
    quality: Quality | None
    mean_confidence: float | None
    missing: int
    unknown: int
    unknown_values: Mapping[str, int]
    errors: tuple[Case, ...]
    sample: Sample

    def to_json(self) -> dict[str, object]:
        """A plain dict without record text, and without gold values that are no label: they may be text."""
        cells = np.argwhere(self.confusion)
        return {
            "rows": int(self.confusion.sum()),
            "missing": self.missing,
            "unknown": self.unknown,
            "mean_confidence": self.mean_confidence,
            "quality": asdict(self.quality) if self.quality else None,
            "classes": [*self.classes, None],
            # [gold, answer, rows]: the first two are places in "classes", whose last stands for "no answer"
            "confusion": [[truth, given, int(self.confusion[truth, given])] for truth, given in cells.tolist()],
            "errors": [case.locate() for case in self.errors],
        }


class GoldGatherer:
    """The part of a Gatherer that compares answers with gold."""

    def __init__(self, labels: tuple[str, ...], abstain: str | None, seed: int) -> None:
        self._classes = labels if abstain is None else (*labels, abstain)
        self._index = {name: place for place, name in enumerate(self._classes)}
        self._abstain, self._seed = abstain, seed
        self._confusion = np.zeros((len(self._classes), len(self._classes) + 1), dtype=np.int64)
        self._missing = self._unknown = self._answered = 0
        self._confidence = 0.0
        self._unknown_values: Counter[str] = Counter()
        self._errors: Shortlist[Case] = Shortlist(ERRORS)
        self._sample: Shortlist[tuple[str, str, str | None]] = Shortlist(SAMPLE)

    def add(self, row: int, answer: Answer, text: str, gold: str | None) -> Verdict:
        """What gold says of this answer; "unknown" where gold is missing or no class."""
        if not gold:
            self._missing += 1
            return "unknown"
        if gold not in self._index:
            self._unknown += 1
            value = cut_text(gold, 80)
            if value in self._unknown_values or len(self._unknown_values) < UNKNOWN_VALUES:
                self._unknown_values[value] += 1
            return "unknown"
        given = self._abstain if answer.status is Status.ABSTAINED else answer.value
        column = len(self._classes) if given is None else self._index[given]
        self._confusion[self._index[gold], column] += 1
        # The rows with the smallest hashes are a random sample that does not depend on the order of arrival.
        chance = int.from_bytes(blake2b(f"{self._seed}:{row}".encode(), digest_size=6).digest(), "big")
        self._sample.offer((-float(chance), -float(row)), lambda: (cut_text(text, 20_000), gold, given))
        if answer.value is None:
            return "wrong"
        confidence = answer.confidence or 0.0
        self._answered += 1
        self._confidence += confidence
        if given == gold:
            return "right"
        self._errors.offer((confidence, -float(row)), lambda: describe_case(row, answer, text, gold))
        return "wrong"

    def finish(self) -> GoldSummary:
        columns = tuple(zip(*self._sample.ranked(), strict=True)) or ((), (), ())
        return GoldSummary(
            classes=self._classes,
            confusion=self._confusion,
            quality=grade_counts(self._confusion, self._classes, abstain=self._abstain, seed=self._seed),
            mean_confidence=self._confidence / self._answered if self._answered else None,
            missing=self._missing,
            unknown=self._unknown,
            unknown_values=dict(self._unknown_values.most_common(10)),
            errors=self._errors.ranked(),
            sample=Sample(*columns),
        )
