"""What a judge's grades say of free text, and what people's grades say of the judge.

Every figure is over the rows that were judged, and the others are counted beside it: a failed
judgement is no grade, no verdict and no agreement. Without people's grades a judge's own error is
unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medtask.evaluate.corrected import FEWEST, FEWEST_GRADES, correct_mean, correct_share
from medtask.evaluate.intervals import Estimate, Units, estimate_rate, estimate_ratio
from medtask.evaluate.kappa import estimate_kappa
from medtask.evaluate.refusal import Refusal
from medtask.evaluate.tally import group_rows
from medtask.evaluate.words import count, count_rows, percent

# Landis and Koch 1977 call agreement up to 0.2 slight. What is corrected there is mostly the
# correction: with sensitivity 0.6 and specificity 0.6 the interval is five times as wide as that of
# a judge without errors.
LEAST_KAPPA = 0.2
_GROUPED = (
    "rows that belong together (of one patient, say) are not independent, as the "
    "correction takes them to be"
)
_UNFIT = (
    "no true share fits both the judge's error rates and its other grades: were the rows "
    "that people graded drawn at random?"
)


@dataclass(frozen=True, slots=True)
class Scale:
    """Grades from the worst to the best, with their numbers; ``passing``: the place, from 0, of the
    lowest acceptable one.
    """

    names: tuple[str, ...]
    points: tuple[float, ...]
    passing: int


@dataclass(frozen=True, slots=True)
class Graded:
    """One answer. ``grade`` and ``human``: places on the scale; None where the judgement failed, or
    no person graded it.

    ``expected``: the mean of the judge's grades weighed by their probabilities; None where there
    are none.
    """

    grade: int | None
    expected: float | None = None
    human: int | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Unjudged:
    """Rows without a judgement: no answer to judge, no reference to judge it by, a judgement that
    failed.
    """

    unanswered: int = 0
    unreferenced: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Against:
    """The judge against people, on the ``n`` rows that both graded; ``lost``: people's grades of
    rows that the judge did not grade.

    ``sensitivity``: of the answers that people accept, the share that the judge accepts;
    ``specificity`` the same of the others. ``kappa``: of the grades, with quadratic weights;
    ``kappa_acceptable``: of acceptable or not. ``human_share`` and ``human_mean``: what people
    alone say. ``share`` and ``mean``: corrected, or why they are not.
    """

    n: int
    lost: int
    sensitivity: Estimate | None
    specificity: Estimate | None
    kappa: Estimate | None
    kappa_acceptable: Estimate | None
    human_share: Estimate | None
    human_mean: Estimate | None
    share: Estimate | Refusal
    mean: Estimate | Refusal

    def to_json(self) -> dict[str, Any]:
        """A plain dict; the reason why a figure is not corrected is under ``no_share``,
        ``no_mean``.
        """
        corrected = {"share": self.share, "mean": self.mean}
        figures = {
            name: asdict(one) if isinstance(one, Estimate) else None
            for name, one in corrected.items()
        }
        reasons = {
            f"no_{name}": one.reason if isinstance(one, Refusal) else None
            for name, one in corrected.items()
        }
        return {**asdict(self), **figures, **reasons}


@dataclass(frozen=True, slots=True)
class Judged:
    """What the grades of a judge say. ``grades``: rows by grade. ``mean``: of the likeliest grades;
    ``expected``: of the expected ones, over the rows that have them. ``acceptable``: the share that
    passes. ``against``: None without people's grades.
    """

    scale: Scale
    n: int
    missing: Unjudged
    grades: Mapping[str, int]
    mean: Estimate | None
    expected: Estimate | None
    acceptable: Estimate | None
    against: Against | None

    @property
    def missing_rate(self) -> float | None:
        """The share of the rows that were put to the judge and got no judgement; None where none
        was.
        """
        asked = self.n + self.missing.failed
        return self.missing.failed / asked if asked else None

    def to_json(self) -> dict[str, Any]:
        """A plain dict without record text."""
        figures = {name: _plain(getattr(self, name)) for name in ("mean", "expected", "acceptable")}
        return {
            "n": self.n,
            "missing": asdict(self.missing),
            "missing_rate": self.missing_rate,
            "grades": dict(self.grades),
            "passing": self.scale.names[self.scale.passing],
            "metrics": {name: figure for name, figure in figures.items() if figure},
            "against_people": self.against.to_json() if self.against else None,
        }


def measure_grades(
    scale: Scale,
    rows: Sequence[Graded],
    *,
    unanswered: int = 0,
    unreferenced: int = 0,
    lost: int = 0,
    seed: int = 0,
) -> Judged:
    """What the grades say. ``rows``: every answer that was put to the judge; ``lost``: people's
    grades of other answers; ``seed``: of the bootstraps.
    """
    judged = [row for row in rows if row.grade is not None]
    units = _find_units(judged)
    points = np.array([scale.points[row.grade] for row in judged if row.grade is not None])
    passes = np.array(
        [row.grade is not None and row.grade >= scale.passing for row in judged], dtype=np.int64
    )
    told = [row for row in judged if row.expected is not None]
    people = lost + sum(row.human is not None for row in rows)
    return Judged(
        scale=scale,
        n=len(judged),
        missing=Unjudged(unanswered, unreferenced, len(rows) - len(judged)),
        grades={
            name: sum(row.grade == place for row in judged)
            for place, name in enumerate(scale.names)
        },
        mean=_estimate_mean(points, units, seed),
        expected=_estimate_mean(np.array([row.expected for row in told]), _find_units(told), seed),
        acceptable=estimate_rate(passes, np.ones(len(judged)), units, seed=seed),
        against=_hold_against(scale, judged, people, seed) if people else None,
    )


def _hold_against(scale: Scale, judged: Sequence[Graded], graded: int, seed: int) -> Against:
    both = [row for row in judged if row.human is not None]
    units = _find_units(both)
    truth = np.array([row.human for row in both], dtype=np.int64)
    grade = np.array([row.grade for row in both], dtype=np.int64)
    good, passes = truth >= scale.passing, grade >= scale.passing
    sensitivity, specificity = (
        estimate_rate(said, true, units, seed=seed)
        for said, true in ((passes, good), (~passes, ~good))
    )
    kappa = estimate_kappa(good.tolist(), passes.tolist(), units, seed=seed)
    share: Estimate | Refusal = Refusal(_GROUPED, len(both))
    mean: Estimate | Refusal = share
    if _find_units(judged).groups is None:
        others = [row for row in judged if row.human is None]
        share = _refuse_share(good, sensitivity, specificity, kappa) or _correct_share(
            scale, good, passes, others
        )
        mean = _correct_mean(scale, both, others)
    return Against(
        n=len(both),
        lost=graded - len(both),
        sensitivity=sensitivity,
        specificity=specificity,
        kappa=estimate_kappa(truth.tolist(), grade.tolist(), units, quadratic=True, seed=seed),
        kappa_acceptable=kappa,
        human_share=estimate_rate(good, np.ones(len(both)), units, seed=seed),
        human_mean=_estimate_mean(
            np.array([scale.points[place] for place in truth.tolist()]), units, seed
        ),
        share=share,
        mean=mean,
    )


def _refuse_share(
    good: np.ndarray,
    sensitivity: Estimate | None,
    specificity: Estimate | None,
    kappa: Estimate | None,
) -> Refusal | None:
    """Why a judge that errs so cannot be corrected; None where it can. ``good`` [rows]: which
    answers people accept.
    """
    n, accepted = len(good), int(good.sum())
    if min(accepted, n - accepted) < FEWEST:
        counted = f"{count(accepted)} acceptable and {count(n - accepted)} other answers"
        return Refusal(
            f"people have graded {counted}, and it takes {FEWEST} of each to know how the judge "
            "errs",
            n,
        )
    assert sensitivity and specificity
    if sensitivity.value + specificity.value <= 1:
        return Refusal(
            "the judge accepts bad answers at least as often as good ones: nothing can be "
            "concluded from its grades",
            n,
        )
    if kappa is None or kappa.value < LEAST_KAPPA:
        told = "unknown" if kappa is None else f"{kappa.value:.2f}"
        return Refusal(
            f"the judge hardly agrees with people (kappa {told}, it takes {LEAST_KAPPA}): a "
            "correction would be guesswork",
            n,
        )
    if kappa.low is not None and kappa.low <= 0:
        return Refusal(
            f"on {count_rows(n)} the judge's agreement with people (kappa {kappa}) cannot be "
            "told from chance",
            n,
        )
    return None


def _correct_share(
    scale: Scale, good: np.ndarray, passes: np.ndarray, others: Sequence[Graded]
) -> Estimate | Refusal:
    """The corrected share of acceptable answers. ``good``, ``passes`` [rows]: which of the answers
    that people graded they, and the judge, accept; ``others``: those that only the judge graded.
    """
    if not others:
        return Refusal(
            "people have graded every judged row: their own share is the answer", len(good)
        )
    found = (
        sum(row.grade is not None and row.grade >= scale.passing for row in others),
        len(others),
    )
    share = correct_share(
        found,
        (int(passes[good].sum()), int(good.sum())),
        (int((~passes[~good]).sum()), int((~good).sum())),
    )
    return share or Refusal(_UNFIT, len(good))


def _correct_mean(
    scale: Scale, both: Sequence[Graded], others: Sequence[Graded]
) -> Estimate | Refusal:
    """The corrected mean grade, or why there is none."""
    if len(both) < FEWEST_GRADES:
        reason = (
            f"{count_rows(len(both))} graded by people: it takes {FEWEST_GRADES} for an "
            "interval that holds"
        )
        return Refusal(reason, len(both), FEWEST_GRADES)
    if not others:
        return Refusal(
            "people have graded every judged row: their own mean is the answer", len(both)
        )
    human = [scale.points[row.human] for row in both if row.human is not None]
    mean = correct_mean(
        human,
        [_tell_points(scale, row) for row in both],
        [_tell_points(scale, row) for row in others],
    )
    assert mean is not None  # there are rows
    return mean


def _tell_points(scale: Scale, row: Graded) -> float:
    assert row.grade is not None
    return row.expected if row.expected is not None else scale.points[row.grade]


@dataclass(frozen=True, slots=True)
class Compared:
    """What a judge says of pairs of answers, each shown in both orders, on the ``n`` pairs for
    which it gave both verdicts.

    ``wins`` and ``losses``: pairs in which both orders agree. ``first`` and ``second``: ties
    because the answer shown in that place won both times. ``same``: ties because both answers are
    the same text, which the judge is not asked about. ``win_rate``: wins and half of the ties.
    ``by_place``: of the pairs that were asked about, the share that the place decided. ``p``: of
    the exact sign test of wins against losses; None without any.
    """

    n: int
    missing: Unjudged
    wins: int
    losses: int
    first: int
    second: int
    same: int
    win_rate: Estimate | None
    by_place: Estimate | None
    p: float | None

    @property
    def missing_rate(self) -> float | None:
        asked = self.n - self.same + self.missing.failed
        return self.missing.failed / asked if asked else None

    def to_json(self) -> dict[str, Any]:
        """A plain dict without record text."""
        figures = {name: _plain(getattr(self, name)) for name in ("win_rate", "by_place")}
        counts = {name: getattr(self, name) for name in ("wins", "losses", "same")}
        return {
            "n": self.n,
            "missing": asdict(self.missing),
            "missing_rate": self.missing_rate,
            **counts,
            "decided_by_place": {"first": self.first, "second": self.second},
            "metrics": {name: figure for name, figure in figures.items() if figure},
            "p": self.p,
        }


OUTCOMES = ("win", "loss", "first", "second", "same")


def measure_pairs(
    outcomes: Sequence[str | None],
    groups: Sequence[str | None] = (),
    *,
    unanswered: int = 0,
    unreferenced: int = 0,
    seed: int = 0,
) -> Compared:
    """What verdicts say: each one of OUTCOMES, or None where a judgement failed. ``groups``: one a
    pair, or none at all.
    """
    from scipy.stats import binomtest

    known = [place for place, outcome in enumerate(outcomes) if outcome is not None]
    units = group_rows([groups[place] for place in known] if groups else [], len(known))
    counts = {outcome: sum(one == outcome for one in outcomes) for outcome in OUTCOMES}
    worth = {"win": 1.0, "loss": 0.0}
    wins, losses = counts["win"], counts["loss"]
    found = [outcomes[place] for place in known]
    return Compared(
        n=len(known),
        missing=Unjudged(unanswered, unreferenced, len(outcomes) - len(known)),
        wins=wins,
        losses=losses,
        first=counts["first"],
        second=counts["second"],
        same=counts["same"],
        win_rate=_estimate_mean(
            np.array([worth.get(str(outcome), 0.5) for outcome in found]), units, seed
        ),
        by_place=estimate_rate(
            [one in ("first", "second") for one in found],
            [one != "same" for one in found],
            units,
            seed=seed,
        ),
        p=float(binomtest(wins, wins + losses).pvalue) if wins + losses else None,
    )


def _find_units(rows: Sequence[Graded]) -> Units:
    return group_rows([row.group for row in rows], len(rows))


def _estimate_mean(values: np.ndarray, units: Units, seed: int) -> Estimate | None:
    return estimate_ratio(values, np.ones(len(values)), units, seed=seed) if len(values) else None


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    return asdict(estimate) if estimate else None


UNKNOWN_ERROR = (
    "no person has graded any of these answers, so how often the judge errs is not known: quote "
    "none of these figures alone. "
    "Grade a random sample, 100 rows say, and name it with --human"
)


def judged_lines(judged: Judged) -> list[str]:
    """What a person should read of it, line by line."""
    lines = [_describe_missing(judged.missing, judged.missing_rate)]
    if not judged.n:
        return [line for line in [*lines, "no judgement: there are no figures"] if line]
    lines.append(
        "grades   " + "   ".join(f"{name}: {count(rows)}" for name, rows in judged.grades.items())
    )
    lines.append(_name_figure("mean grade", judged.mean))
    lines.append(_name_figure("mean of the expected grades", judged.expected))
    lines.append(
        _name_figure(
            f"acceptable (grade {judged.scale.names[judged.scale.passing]} or better)",
            judged.acceptable,
        )
    )
    lines += _list_against(judged.against) if judged.against else [UNKNOWN_ERROR]
    return [line for line in lines if line]


_RANDOM = "  corrected figures hold if the rows that people graded were drawn at random"


def _list_against(against: Against) -> list[str | None]:
    lost = f", {count(against.lost)} more without a judgement" if against.lost else ""
    unknown = "not known"
    return [
        f"against people, on {count_rows(against.n)} that they graded{lost}:",
        _list_rates(against),
        (
            f"  kappa of the grades (quadratic) {against.kappa or unknown}   of acceptable or not "
            f"{against.kappa_acceptable or unknown}"
        ),
        _name_figure("  people alone: acceptable", against.human_share),
        _name_corrected("share", "acceptable", against.share, against.n),
        _name_figure("  people alone: mean grade", against.human_mean),
        _name_corrected("mean grade", "mean grade", against.mean, against.n),
        _RANDOM
        if any(isinstance(one, Estimate) for one in (against.share, against.mean))
        else None,
    ]


def _list_rates(against: Against) -> str:
    rates = [
        ("sensitivity", "acceptable", against.sensitivity),
        ("specificity", "not acceptable", against.specificity),
    ]
    told = [
        f"{name} {rate}, n = {count(rate.n)} {those}" if rate else f"{name} not known"
        for name, those, rate in rates
    ]
    return f"  {'   '.join(told)}"


def compared_lines(compared: Compared, answers: str, rival: str) -> list[str]:
    """What a person should read of it, line by line; ``answers`` and ``rival`` are the names of the
    two.
    """
    ties = compared.first + compared.second
    lines = [_describe_missing(compared.missing, compared.missing_rate)]
    if not compared.n:
        return [line for line in [*lines, "no verdict: there are no figures"] if line]
    told = (
        f"{answers} is better in {count(compared.wins)} pairs, {rival} in {count(compared.losses)}"
    )
    p = f" (sign test p = {compared.p:.3g})" if compared.p is not None else ""
    lines.append(
        f"{told}{p}; {count(ties)} decided by the place alone, {count(compared.same)} with the "
        "same text"
    )
    lines.append(_name_figure(f"win rate of {answers} (a tie is half a win)", compared.win_rate))
    lines.append(_name_figure("decided by the place", compared.by_place))
    lines.append(
        "how often the judge errs is not known: people's verdicts on some of these pairs would tell"
    )
    return [line for line in lines if line]


def _name_corrected(figure: str, name: str, found: Estimate | Refusal, by_people: int) -> str:
    if isinstance(found, Refusal):
        return f"  no corrected {figure}: {found.reason}"
    return (
        f"  corrected: {name} {found}, {count(by_people)} graded by people too and "
        f"{count(found.n - by_people)} by the judge alone"
    )


def _name_figure(name: str, estimate: Estimate | None) -> str | None:
    return f"{name} {estimate}, n = {count(estimate.n)}" if estimate else None


def _describe_missing(missing: Unjudged, rate: float | None) -> str | None:
    """ "3 rows without an answer to judge; 12 judgements failed (5.0 % of those that were asked
    for)"; None where nothing is missing.
    """
    failed = f"{count(missing.failed)} judgement{'s' * (missing.failed != 1)} failed"
    parts = (
        f"{count_rows(missing.unanswered)} without an answer to judge"
        if missing.unanswered
        else None,
        f"{count_rows(missing.unreferenced)} without a reference to judge by"
        if missing.unreferenced
        else None,
        f"{failed} ({percent(rate)} of those that were asked for)"
        if missing.failed and rate is not None
        else None,
    )
    return "; ".join(part for part in parts if part) or None
