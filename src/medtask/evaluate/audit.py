"""Accuracy and frequencies of a whole table from some hundred looks, and all of its answers.

The table is cut into strata by the class of the answer and its confidence, and more rows are drawn
where the model is likely to be wrong. What the answers say of all rows is then corrected by what
the looked-at rows say of the answers: prediction-powered inference (Angelopoulos et al. 2023;
power-tuned, 2024; stratified, Fisch et al. 2024), which on a finite table is the survey
statistician's difference estimator. The answers may be as wrong as they like: the estimate is right
on average whatever they are, and only as narrow as they are good.

Intervals hold for this table, not for others like it. Normal intervals fail where errors are few,
since a stratum without an error seen looks as if it had none; here variances are shrunk towards the
one of all strata, by one event, and the interval is Wilson's for as many rows as the variance is
worth (Korn and Graubard 1998). Measured in docs/guarantees.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.errors import UsageError
from medtask.evaluate.blocks import Align, Block, Table, Text
from medtask.evaluate.intervals import Estimate, Figures, bound_shares
from medtask.evaluate.refusal import Refusal
from medtask.evaluate.reliability import Truths
from medtask.evaluate.words import count_rows, shorten

MIN_LOOKS = 30
MIN_DRAWN = 5  # rows of a stratum
# however sure a model is, its error is not believed to be below this when looks are shared out
_FLOOR = 0.1
_PRIOR_ROWS = (
    5  # rows' worth of belief in untuned inference, so that few rows do not tune it by chance
)
_HEAD: tuple[tuple[str, Align], ...] = (
    ("Label", "l"),
    ("Of the answers", "n"),
    ("In truth (95 %)", "n"),
    ("The looks alone", "n"),
)
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stratum:
    """Rows of one answer class (None: of all the rarer classes), between two confidences, and how
    many of them are drawn.
    """

    answer: int | None
    low: float
    high: float
    rows: int
    drawn: int


@dataclass(frozen=True, slots=True, eq=False)
class AuditPlan:
    """Which rows of a table to look at. ``stratum`` [rows]: of every row; ``drawn``: places of the
    rows to look at, rising.
    """

    budget: int
    seed: int
    strata: tuple[Stratum, ...]
    stratum: Places
    drawn: Places

    @property
    def rows(self) -> int:
        return len(self.stratum)

    def to_json(self) -> dict[str, object]:
        return {
            "budget": self.budget,
            "seed": self.seed,
            "rows": self.rows,
            "strata": [asdict(one) for one in self.strata],
            "drawn": self.drawn.tolist(),
        }


@dataclass(frozen=True, slots=True)
class Prevalence:
    """How frequent one label is in truth. ``answered``: its share among the answers; ``alone``:
    from the looked-at rows only.
    """

    label: str
    answered: float
    estimate: Estimate
    alone: Estimate


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What ``looks`` looks at a table of ``rows`` rows tell; ``missing`` rows were drawn and have
    no label yet. ``power``: how much of the confidences the estimate of accuracy makes use of, from
    0 to 1.
    """

    rows: int
    looks: int
    missing: int
    accuracy: Estimate
    alone: Estimate
    power: float
    prevalences: tuple[Prevalence, ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def describe(self) -> list[str]:
        """For a terminal, line by line."""
        lines = [
            (
                f"accuracy {self.accuracy} of all {count_rows(self.rows)}, from {self.looks:,} "
                "looks "
                f"  the looks alone: {self.alone}"
            ),
        ]
        if self.missing:
            left = f"{count_rows(self.missing)} of the sample have no label and are left out"
            lines.append(
                f"{left}: no harm if chance chose them, but not if they were the hard ones"
            )
        width = max((len(one.label) for one in self.prevalences), default=0)
        for one in self.prevalences:
            said = f"{shorten(one.label, 40):<{min(width, 40)}}"
            lines.append(
                f"  {said}  {one.estimate}   of the answers {one.answered:.3f}   the looks "
                f"alone: {one.alone}"
            )
        return lines

    def tell(self) -> list[Block]:
        """For a report."""
        blocks: list[Block] = [
            Text(
                f"Accuracy {self.accuracy} over all {count_rows(self.rows)}, estimated from "
                f"{self.looks:,} blind looks and all answers "
                f"of the model; the looks alone say {self.alone}. It holds for this table."
            )
        ]
        if self.missing:
            blocks.append(
                Text(
                    f"{count_rows(self.missing)} of the sample have no label yet and are left out.",
                    "caution",
                )
            )
        if self.prevalences:
            lines = [
                (one.label, f"{one.answered:.3f}", str(one.estimate), str(one.alone))
                for one in self.prevalences
            ]
            blocks.append(
                Table(
                    "Labels",
                    _HEAD,
                    lines,
                    "How frequent the labels are in truth: shares of all rows",
                )
            )
        return blocks


def plan_audit(classes: Places, confidence: Figures, budget: int, seed: int = 0) -> AuditPlan:
    """Draws ``budget`` rows to look at, or all where there are fewer: the same rows for the same
    answers and seed.

    ``classes`` [n]: the class of each answer, -1 for none; ``confidence`` [n]: NaN where it is not
    known. At least five rows are drawn of every stratum, the others by Neyman's rule as if an
    answer were right with its confidence, which is held between 0.1 and 0.9. UsageError for a
    budget below 30 and for a table without rows.
    """
    if budget < MIN_LOOKS:
        raise UsageError(
            f"{budget:,} looks are too few for any interval",
            fix=f"give a budget of {MIN_LOOKS} or more, such as 120",
        )
    if not len(classes):
        raise UsageError("there are no answers to look at", fix="audit a run that has answers")
    sure = np.clip(np.nan_to_num(confidence, nan=0.5), 0.0, 1.0)
    spread = np.sqrt((held := np.clip(sure, _FLOOR, 1 - _FLOOR)) * (1 - held))
    stratum, answers = _cut(classes, sure, spread, budget)
    rows = np.bincount(stratum).astype(np.int64)
    drawn = _allocate(rows, np.bincount(stratum, spread).astype(np.float64), budget)
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(stratum == at) for at in range(len(rows))]
    chosen = [
        random.choice(mine, count, replace=False)
        for mine, count in zip(members, drawn.tolist(), strict=True)
    ]
    strata = tuple(
        Stratum(
            answers[at], float(sure[mine].min()), float(sure[mine].max()), len(mine), int(drawn[at])
        )
        for at, mine in enumerate(members)
    )
    return AuditPlan(
        budget, seed, strata, stratum, np.sort(np.concatenate(chosen)).astype(np.int64)
    )


def estimate_audit(
    plan: AuditPlan,
    looked_at: Places,
    right: Truths,
    confidence: Figures,
    *,
    truths: Truths | None = None,
    answers: Figures | Truths | None = None,
    labels: Sequence[str] = (),
) -> AuditResult | Refusal:
    """Accuracy, and the share of rows to which each label applies, from labels that people gave to
    rows of the plan.

    ``looked_at`` [m]: places of the rows with a label, all of them drawn by the plan; ``right``
    [m]: whether the answer is; ``confidence`` [n]: of all answers, NaN where not known (a row
    without an answer: 0). ``truths`` [m, k]: whether a label applies; ``answers`` [n, k]: whether
    the answer has it, or with what probability. Refusal with fewer than 30 looks, or fewer than two
    in a stratum.
    """
    strange = np.setdiff1d(looked_at, plan.drawn)
    if len(strange):
        raise UsageError(
            f"{count_rows(len(strange))} with a label were not drawn",
            fix="label the rows of the sample, and no others",
        )
    survey = _Survey.open(plan, looked_at)
    if isinstance(survey, Refusal):
        return survey
    accuracy, power = survey.estimate(right.astype(np.float64), np.nan_to_num(confidence, nan=0.5))
    prevalences = []
    for place, label in enumerate(labels if truths is not None and answers is not None else ()):
        assert truths is not None
        assert answers is not None
        truth, said = truths[:, place].astype(np.float64), answers[:, place].astype(np.float64)
        estimate, _ = survey.estimate(truth, said)
        prevalences.append(
            Prevalence(label, float(said.mean()), estimate, survey.estimate_alone(truth))
        )
    return AuditResult(
        rows=plan.rows,
        looks=len(looked_at),
        missing=len(plan.drawn) - len(looked_at),
        accuracy=accuracy,
        alone=survey.estimate_alone(right.astype(np.float64)),
        power=power,
        prevalences=tuple(prevalences),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Survey:
    """Looked-at rows in their strata. ``place``: of the looked-at rows; ``stratum`` [n]: of all
    rows; ``size``, ``looks``: by stratum.
    """

    place: Places
    stratum: Places
    size: Figures
    looks: Figures

    @classmethod
    def open(cls, plan: AuditPlan, looked_at: Places) -> _Survey | Refusal:
        looks = np.bincount(plan.stratum[looked_at], minlength=len(plan.strata))
        size = np.bincount(plan.stratum, minlength=len(plan.strata))
        short = int((looks < np.minimum(2, size)).sum())
        if len(looked_at) < min(MIN_LOOKS, plan.rows):
            return Refusal(
                "too few rows of the sample have a label for any interval",
                len(looked_at),
                min(MIN_LOOKS, plan.rows),
            )
        if short:
            told = (
                f"{short:,} of the {len(size):,} parts of the table have fewer than two "
                "labelled rows: label more of the sample"
            )
            return Refusal(told, len(looked_at), len(plan.drawn))
        return cls(looked_at, plan.stratum, size.astype(np.float64), looks.astype(np.float64))

    def estimate(
        self, truth: Figures, believed: Figures, power: float | None = None
    ) -> tuple[Estimate, float]:
        """The mean of what is true [m], helped by what is believed of all rows [n], and the power
        with which that was done.
        """
        weight, at = self.size / self.size.sum(), self.stratum[self.place]
        # The variance of a stratum's part per unit variance of its rows; nothing is uncertain where
        # all were looked at.
        part = weight**2 / self.looks * (1 - self.looks / self.size)
        means = self._average(truth)
        all_means = np.bincount(self.stratum, believed, minlength=len(self.size)) / self.size
        off_truth, off_belief = (
            truth - means[at],
            (believed[self.place] - self._average(believed[self.place])[at]),
        )
        if power is None:
            power = self._tune(part, off_truth, off_belief, believed - all_means[self.stratum])
        value = float(
            (weight * (means + power * (all_means - self._average(believed[self.place])))).sum()
        )
        variance = float((part * self._spread(off_truth - power * off_belief)).sum())
        return self._bound(min(1.0, max(0.0, value)), variance), power

    def estimate_alone(self, truth: Figures) -> Estimate:
        """The same from the looked-at rows only: their weighted mean, for as many rows as unequal
        weights leave (Kish 1965).
        """
        weight = (self.size / self.size.sum() / self.looks)[self.stratum[self.place]]
        value, worth = float(np.clip((weight * truth).sum(), 0, 1)), 1 / float((weight**2).sum())
        low, high = bound_shares(np.array([value * worth]), np.array([worth]))[:, 0].tolist()
        return Estimate(value, len(truth), low, high)

    def _average(self, values: Figures) -> Figures:
        return np.asarray(
            np.bincount(self.stratum[self.place], values, minlength=len(self.size)) / self.looks
        )

    def _tune(
        self, part: Figures, truth: Figures, belief: Figures, belief_of_all: Figures
    ) -> float:
        """The power of least variance (Angelopoulos et al. 2024), pulled towards 1 as if by five
        more rows.
        """
        each = (part / np.maximum(self.looks - 1, 1))[self.stratum[self.place]]
        spread = np.bincount(self.stratum, belief_of_all**2, minlength=len(self.size)) / np.maximum(
            self.size - 1, 1
        )
        prior = float((part * spread).sum()) * _PRIOR_ROWS / len(self.place)
        shared, own = float((each * truth * belief).sum()), float((each * belief**2).sum())
        return (
            float(np.clip((shared + prior) / (own + prior), 0, 1)) if own + prior > 1e-15 else 1.0
        )

    def _spread(self, off: Figures) -> Figures:
        """Each stratum's variance, shrunk by one event towards that of all rows, which itself
        counts one event more than was seen.
        """
        seen = (
            np.bincount(self.stratum[self.place], off**2, minlength=len(self.size))
            * self.looks
            / np.maximum(self.looks - 1, 1)
        )
        pooled = (seen.sum() + 1) / (len(off) + 1)
        return np.asarray(pooled * (seen + 1) / (self.looks * pooled + 1))

    def _bound(self, value: float, variance: float) -> Estimate:
        from scipy.stats import norm, t

        n = len(self.place)
        if variance <= 0:
            return Estimate(value, n, value, value)  # every row was looked at
        held = (value * n + 1) / (n + 2)
        freedom = max(1, n - len(self.size))
        worth = held * (1 - held) / variance * float(norm.ppf(0.975) / t.ppf(0.975, freedom)) ** 2
        low, high = bound_shares(np.array([value * worth]), np.array([worth]))[:, 0].tolist()
        return Estimate(value, n, low, high)


def _cut(
    classes: Places, sure: Figures, spread: Figures, budget: int
) -> tuple[Places, list[int | None]]:
    """The stratum of each row [n], and each stratum's class: frequent classes for themselves, then
    parts of equal expected error along the confidence.
    """
    most = budget // (2 * MIN_DRAWN)
    names, at, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    at = at.ravel()
    frequent = np.argsort(-sizes, kind="stable")[: max(1, most // 2)]
    own = [int(place) for place in frequent if sizes[place] * budget >= MIN_DRAWN * len(classes)]
    cell = np.full(len(names), len(own))
    cell[own] = np.arange(len(own))
    stratum, answers = np.zeros(len(classes), dtype=np.int64), list[int | None]()
    for number in range(len(own) + 1):
        mine = np.flatnonzero(cell[at] == number)
        if not len(mine):
            continue
        parts = int(
            np.clip(
                round(most * spread[mine].sum() / spread.sum()),
                1,
                min(6, max(1, len(mine) // MIN_DRAWN)),
            )
        )
        order = mine[np.argsort(sure[mine], kind="stable")]
        reached = np.cumsum(spread[order]) / spread[order].sum()
        _, place = np.unique(
            np.minimum((reached * parts - 1e-9).astype(np.int64), parts - 1), return_inverse=True
        )
        stratum[order] = len(answers) + place.ravel()
        answers += [int(names[own[number]]) if number < len(own) else None] * (int(place.max()) + 1)
    return stratum, answers


def _allocate(rows: Places, spread: Figures, budget: int) -> Places:
    """Looks by stratum: at least five or all of it, then one by one to where it helps most;
    ``spread`` is summed over a stratum's rows.
    """
    looks = np.minimum(rows, MIN_DRAWN)
    while looks.sum() < min(budget, rows.sum()):
        looks[np.argmax(np.where(looks < rows, spread / (looks + 0.5), -1.0))] += 1
    return looks
