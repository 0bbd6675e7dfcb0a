"""Metrics of a judge's comparisons of answers, each judged in both orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from medtask.evaluation.statistics.intervals import (
    Metric,
    ResamplingUnits,
    estimate_clustered_proportion,
)
from medtask.evaluation.statistics.judge_metrics import MissingJudgements, estimate_group_mean
from medtask.evaluation.statistics.resampling import build_resampling_units
from medtask.evaluation.statistics.significance import compare_wins
from medtask.records import LeftOut


@dataclass(frozen=True, slots=True)
class PairwiseJudgeMetrics:
    """Metrics of pairs of answers, each judged in both orders.

    Attributes:
        n: Number of pairs with both verdicts.
        missing: Pairs without verdicts.
        wins: Pairs that the first system wins in both orders.
        losses: Pairs that it loses in both orders.
        first_position_ties: Ties because the answer shown first won in both orders.
        second_position_ties: Ties because the answer shown second won in both orders.
        same: Ties because both answers are equal, which are not judged.
        win_rate: Share of wins, with ties as half.
        by_place: Share of the judged pairs that were decided by position.
        p: p-value of wins against losses; None if there are none.
        test: The test: the exact sign test, or the randomisation of whole groups of rows.
        left_out: Judged pairs that are not new to one of the systems, by reason: no metric is based
            on them.
    """

    n: int
    missing: MissingJudgements
    wins: int
    losses: int
    first_position_ties: int
    second_position_ties: int
    same: int
    win_rate: Metric | None
    by_place: Metric | None
    p: float | None
    test: str
    left_out: Mapping[LeftOut, int] = field(default_factory=dict)

    @property
    def missing_rate(self) -> float | None:
        asked = self.n - self.same + self.missing.failed
        return self.missing.failed / asked if asked else None

    def to_json(self) -> dict[str, Any]:
        """Returns a plain dict without record text."""
        metrics = {"win_rate": self.win_rate, "by_place": self.by_place}
        return {
            "n": self.n,
            "missing": asdict(self.missing),
            "missing_rate": self.missing_rate,
            "left_out": {str(reason): rows for reason, rows in self.left_out.items()},
            "wins": self.wins,
            "losses": self.losses,
            "same": self.same,
            "decided_by_place": {
                "first": self.first_position_ties,
                "second": self.second_position_ties,
            },
            "metrics": {name: asdict(metric) for name, metric in metrics.items() if metric},
            "p": self.p,
            "test": self.test,
        }


PAIR_OUTCOMES = ("win", "loss", "first", "second", "same")


def compute_pairwise_judge_metrics(
    outcomes: Sequence[str | None],
    groups: Sequence[str | None] = (),
    *,
    unanswered: int = 0,
    unreferenced: int = 0,
) -> PairwiseJudgeMetrics:
    """Computes the metrics of outcomes: members of `PAIR_OUTCOMES`, None for failed judgements."""
    known = [place for place, outcome in enumerate(outcomes) if outcome is not None]
    units = build_resampling_units([groups[place] for place in known] if groups else [], len(known))
    counts = {outcome: sum(one == outcome for one in outcomes) for outcome in PAIR_OUTCOMES}
    worth = {"win": 1.0, "loss": 0.0}
    wins, losses = counts["win"], counts["loss"]
    found = [outcomes[place] for place in known]
    test, p = _test_wins(found, units)
    return PairwiseJudgeMetrics(
        n=len(known),
        missing=MissingJudgements(unanswered, unreferenced, len(outcomes) - len(known)),
        wins=wins,
        losses=losses,
        first_position_ties=counts["first"],
        second_position_ties=counts["second"],
        same=counts["same"],
        win_rate=estimate_group_mean(
            np.array([worth.get(str(outcome), 0.5) for outcome in found]), units
        ),
        by_place=estimate_clustered_proportion(
            [one in ("first", "second") for one in found],
            [one != "same" for one in found],
            units,
        ),
        p=p,
        test=test,
    )


def _test_wins(outcomes: Sequence[str | None], units: ResamplingUnits) -> tuple[str, float | None]:
    """The test of wins against losses, and its p-value; None if there are none."""
    won, lost = (np.array([one == name for one in outcomes]) for name in ("win", "loss"))
    test, p = compare_wins(won, lost, units)
    return test, p if won.any() or lost.any() else None
