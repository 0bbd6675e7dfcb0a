"""Selects answers to accept without review, at the lowest threshold with a bounded error.

Learn-then-Test (Angelopoulos et al. 2021): for every threshold, the hypothesis "more than
``max_error`` of the rows at or above it are wrong" is tested on gold by the exact binomial tail, in
a fixed sequence from the most confident rows down, so that many thresholds need no correction. A
single sequence ends at one early error; therefore there are several starts, each with 1.7 times as
many rows as the one before, that share the risk (the fallback procedure of Wiens: a sequence that
reaches the next start adds its share).

Proof. Let t0 be the first threshold at which the hypothesis is true. The procedure errs only if it
rejects there, or at a later start. Given how many gold rows reach t0, their errors are binomial, so
the tail is a valid p-value there whatever happened before. A start above t0 (the k-th most
confident row) adds its share of the risk at t0, one below spends its own share: together they are
the total risk. The argument assumes that the hypothesis is true for all thresholds below t0, that
is, that the error of accepted rows grows as the threshold sinks. If a model is wrong most often
where it is most confident, only the tests at the starts hold; the risk curve shows this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medtask.display import format_percent
from medtask.errors import UsageError
from medtask.evaluation.calibration.reliability import RiskCurve, compute_risk_curve
from medtask.evaluation.statistics.intervals import (
    BoolArray,
    FloatArray,
    GroupCodes,
    Metric,
    estimate_proportion,
)
from medtask.evaluation.statistics.refusal import Refusal
from medtask.evaluation.statistics.resampling import sample_one_per_group

# Tried from 1.3 to 3 on the sets of benchmarks/guarantees.py, at 371 and 2,000 rows: all accept
# about as much from 1.5 on.
START_GROWTH = 1.7
ClassCodes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClassThreshold:
    """The threshold of one class (None: no answer is accepted), and its gold rows."""

    name: str
    threshold: float | None
    rows: int
    accepted: int
    errors: int


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A threshold that bounds the error of accepted answers.

    Answers with a confidence of at least ``threshold`` are wrong in at most ``max_error`` of the
    cases, with probability ``level`` over draws of the gold rows.

    Attributes:
        threshold: The threshold; None if there is one per class.
        class_thresholds: Thresholds by class number; the bound holds for all of them together.
        coverage: Share of the gold rows that is accepted.
        accepted: Number of accepted gold rows.
        errors: Number of wrong ones among them.
        rows: Number of gold rows used, one of each group if ``grouped``.
        rows_without_confidence: Number of rows without a confidence, which are never accepted.
        grouped: Whether rows have groups.
        max_error: The bound.
        level: The probability.
        risk_curve: Error at every coverage.
    """

    threshold: float | None
    class_thresholds: Mapping[int, ClassThreshold]
    coverage: Metric
    accepted: int
    errors: int
    rows: int
    rows_without_confidence: int
    grouped: bool
    max_error: float
    level: float
    risk_curve: RiskCurve

    def select_accepted(
        self, confidence: FloatArray, classes: ClassCodes | None = None
    ) -> BoolArray:
        """Mask of the accepted rows, [n]; NaN is never accepted.

        ``classes`` is required if there are class thresholds.
        """
        if self.class_thresholds and classes is None:
            raise UsageError(
                "these thresholds are by class, and the classes of the answers are not given",
                fix="pass the classes",
            )
        return _apply_thresholds(confidence, classes, self.threshold, self.class_thresholds)

    def to_json(self) -> dict[str, object]:
        """Returns a plain dict without record text; ``confidence`` is ``level``."""
        by_class = (
            {"by_class": {rule.name: asdict(rule) for rule in self.class_thresholds.values()}}
            if self.class_thresholds
            else {}
        )
        return {
            "threshold": self.threshold,
            "coverage": self.coverage.value,
            "coverage_interval": [self.coverage.low, self.coverage.high],
            "max_error": self.max_error,
            "confidence": self.level,
            "accepted": self.accepted,
            "errors": self.errors,
            "rows": self.rows,
            "without_confidence": self.rows_without_confidence,
            "grouped": self.grouped,
            **by_class,
        }


@dataclass(frozen=True, slots=True, eq=False)
class GoldConfidences:
    """Rows with gold, one entry each.

    Attributes:
        confidence: Confidence of each answer, [n]; NaN for none.
        right: Whether each answer is right, [n].
        groups: Group of each row, [n]; rows of one group, such as a patient, are not independent.
        classes: Class of each answer, [n], for one threshold per class; -1 for no class, which is
            never accepted.
        class_names: Names of the classes by number.
    """

    confidence: FloatArray
    right: BoolArray
    groups: GroupCodes | None = None
    classes: ClassCodes | None = None
    class_names: Sequence[str] = ()


def find_acceptance(
    gold: GoldConfidences, *, max_error: float = 0.05, level: float = 0.95, seed: int = 0
) -> Acceptance | Refusal:
    """Finds the lowest threshold at which the error of accepted answers is bounded.

    With classes, each class has a threshold, and the risk is divided (Bonferroni) among the
    classes with enough rows to be accepted at all, which depends only on their numbers of rows.
    With groups, one row of each group is drawn: the test is exact, and the guarantee is about a
    random row of a random group.

    Args:
        gold: Rows with gold.
        max_error: Share of accepted answers that may be wrong, between 0 and 1.
        level: Probability with which that holds over draws of the gold rows, between 0 and 1.
        seed: Seed of the draw of one row of each group.

    Returns:
        The acceptance, or a refusal if no threshold holds.

    Raises:
        UsageError: If max_error or level is not between 0 and 1.
    """
    for name, value in (("max_error", max_error), ("level", level)):
        if not 0 < value < 1:
            raise UsageError(
                f"{name} is {value:g}, and must lie between 0 and 1",
                fix=f"give {name} as a share, such as 0.05 or 0.95",
            )
    chosen = (
        np.arange(len(gold.confidence))
        if gold.groups is None
        else sample_one_per_group(gold.groups, seed)
    )
    sure = np.asarray(gold.confidence, dtype=np.float64)[chosen]
    correct = np.asarray(gold.right, dtype=bool)[chosen]
    given = None if gold.classes is None else np.asarray(gold.classes)[chosen]
    known = ~np.isnan(sure)
    risk = 1 - level
    if given is None:
        threshold = _find_threshold(sure[known], correct[known], max_error, risk)
        class_thresholds: dict[int, ClassThreshold] = {}
    else:
        threshold = None
        class_thresholds = _find_class_thresholds(
            sure, correct, given, gold.class_names, max_error, risk
        )
    if threshold is None and not any(
        rule.threshold is not None for rule in class_thresholds.values()
    ):
        most = max((rule.rows for rule in class_thresholds.values()), default=0)
        largest = most if class_thresholds else None
        refusal = _build_refusal(sure[known], correct[known], len(chosen), max_error, risk, largest)
        return replace(refusal, grouped=gold.groups is not None)
    taken = _apply_thresholds(sure, given, threshold, class_thresholds)
    coverage = estimate_proportion(int(taken.sum()), len(chosen))
    assert coverage is not None
    return Acceptance(
        threshold=threshold,
        class_thresholds=class_thresholds,
        coverage=coverage,
        accepted=int(taken.sum()),
        errors=int((~correct[taken]).sum()),
        rows=len(chosen),
        rows_without_confidence=int((~known).sum()),
        grouped=gold.groups is not None,
        max_error=max_error,
        level=level,
        risk_curve=compute_risk_curve(sure, correct),
    )


def compute_min_rows(max_error: float, risk: float) -> int:
    """The fewest gold rows that show an error of at most ``max_error`` if all of them are right."""
    return math.ceil(math.log(risk) / math.log1p(-max_error) - 1e-9)


def _apply_thresholds(
    confidence: FloatArray,
    classes: ClassCodes | None,
    threshold: float | None,
    class_thresholds: Mapping[int, ClassThreshold],
) -> BoolArray:
    limits = np.full(len(confidence), np.inf if threshold is None else threshold)
    for number, rule in class_thresholds.items() if classes is not None else ():
        limits[classes == number] = np.inf if rule.threshold is None else rule.threshold
    return np.asarray(confidence >= limits)  # NaN compares as False


def _find_threshold(
    confidence: FloatArray, right: BoolArray, max_error: float, risk: float
) -> float | None:
    """The threshold of rows with a confidence; None if no test rejects."""
    from scipy.stats import binom

    order = np.argsort(-confidence, kind="stable")
    sure, n = confidence[order], len(order)
    starts = _choose_start_sizes(n, max_error, risk)
    if not starts:
        return None
    # Equal confidences are accepted together, so a threshold is at the last of them.
    ends = np.flatnonzero(np.append(sure[1:] != sure[:-1], True))
    wrong = np.cumsum(~right[order])[ends]
    tails = binom.cdf(wrong, ends + 1, max_error)
    shares = np.zeros(len(ends))
    np.add.at(shares, np.searchsorted(ends, np.array(starts) - 1), risk / len(starts))
    best, carried = None, 0.0
    for place in range(int(np.flatnonzero(shares)[0]), len(ends)):
        carried += shares[place]
        if carried and tails[place] <= carried:
            best = place
        else:
            carried = 0.0
    if best is None:
        return None
    last = float(sure[ends[best]])
    if best + 1 == len(ends):
        # The tests give the same result for all lower thresholds. Rounded down to four
        # decimals, so that a recomputed confidence passes.
        return max(0.0, math.floor(last * 1e4) / 1e4)
    return (last + float(sure[ends[best + 1]])) / 2


def _choose_start_sizes(n: int, max_error: float, risk: float) -> list[int]:
    """Number of rows of each start; empty if no test could reject."""
    for walks in range(40, 0, -1):
        starts = [
            round(compute_min_rows(max_error, risk / walks) * START_GROWTH**walk)
            for walk in range(walks)
        ]
        if starts[-1] <= n:
            return starts
    return []


def _find_class_thresholds(
    confidence: FloatArray,
    right: BoolArray,
    classes: ClassCodes,
    names: Sequence[str],
    max_error: float,
    risk: float,
) -> dict[int, ClassThreshold]:
    known = ~np.isnan(confidence)
    numbers = np.unique(classes[classes >= 0]).tolist()
    sizes = {number: int((known & (classes == number)).sum()) for number in numbers}
    able: list[int] = []
    for count in range(len(numbers), 0, -1):
        able = [
            number
            for number in numbers
            if sizes[number] >= compute_min_rows(max_error, risk / count)
        ]
        if len(able) >= count:
            break
        able = []
    rules = {}
    for number in numbers:
        mine = known & (classes == number)
        threshold = (
            _find_threshold(confidence[mine], right[mine], max_error, risk / len(able))
            if number in able
            else None
        )
        taken = (
            mine & (confidence >= threshold)
            if threshold is not None
            else np.zeros(len(mine), dtype=bool)
        )
        name = names[number] if number < len(names) else str(number)
        rules[number] = ClassThreshold(
            name, threshold, sizes[number], int(taken.sum()), int((taken & ~right).sum())
        )
    return rules


def _build_refusal(
    confidence: FloatArray,
    right: BoolArray,
    rows: int,
    max_error: float,
    risk: float,
    largest_class_rows: int | None,
) -> Refusal:
    """With class thresholds, ``largest_class_rows`` are the gold rows of the largest class."""
    fewest = compute_min_rows(max_error, risk)
    promise = f"at most {100 * max_error:g} % error with {100 * (1 - risk):g} % confidence"
    if not rows:
        return Refusal(
            f"no row has gold; {promise} needs at least {fewest:,}, all of them right", 0, fewest
        )
    if not len(confidence):
        return Refusal("no answer has a confidence to set a threshold by", rows)
    needed = _estimate_rows_needed(confidence, right, rows, max_error, risk)
    if len(confidence) < fewest:
        counted = "gold rows" if len(confidence) == rows else "gold rows with a confidence"
        short = (
            f"{promise} cannot be shown with fewer than {fewest:,} {counted}, even if all are right"
        )
        return Refusal(short, rows, max(needed or 0, math.ceil(fewest * rows / len(confidence))))
    if largest_class_rows is not None:
        short = (
            f"no class has enough gold rows, or few enough errors, to show {promise}; the most "
            f"frequent has {largest_class_rows:,}"
        )
        return Refusal(
            short,
            rows,
            math.ceil(rows * fewest / largest_class_rows)
            if 0 < largest_class_rows < fewest
            else None,
        )
    if np.ptp(confidence) == 0:
        wrong = format_percent(float((~right).mean()))
        return Refusal(
            f"all answers have the same confidence, and {wrong} of them are wrong: no threshold "
            f"can promise {promise}{' on these rows' if needed else ''}",
            rows,
            needed,
        )
    hope = (
        ""
        if needed
        else (
            "; even the most confident answers are not right often enough, so more rows would "
            "hardly help"
        )
    )
    return Refusal(f"no threshold can promise {promise} on these rows{hope}", rows, needed)


def _estimate_rows_needed(
    confidence: FloatArray, right: BoolArray, rows: int, max_error: float, risk: float
) -> int | None:
    """The number of gold rows needed at the observed error rates; None if no number is enough."""
    from scipy.stats import binom

    order = np.argsort(-confidence, kind="stable")
    sure, wrong = confidence[order], np.cumsum(~right[order])
    # Equal confidences are accepted together.
    last = np.flatnonzero(np.append(sure[1:] != sure[:-1], True))
    tried = np.searchsorted(last + 1, np.geomspace(1, len(wrong), 60).astype(np.int64))
    found = []
    for share in (last[np.unique(tried)] + 1).tolist():
        # Half an error is added, so that a lucky start does not give a too small number.
        rate = (wrong[share - 1] + 0.5) / (share + 1)
        if rate >= max_error:
            continue
        sizes = np.unique(
            np.geomspace(compute_min_rows(max_error, risk / 2), 1e6, 400).astype(np.int64)
        )
        enough = sizes[binom.cdf(np.ceil(rate * sizes), sizes, max_error) <= risk / 2]
        if len(enough):
            found.append(math.ceil(int(enough[0]) * rows / share))
    return max(math.ceil(1.1 * rows), min(found)) if found else None
