"""Pairs of labels that are confused more often than expected by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.display import isolate_name
from medtask.evaluation.labels.finding import LabelFinding, format_share
from medtask.evaluation.labels.pair_counts import PairCells
from medtask.evaluation.statistics.intervals import IntArray, Metric, estimate_proportion
from medtask.evaluation.statistics.significance import ALPHA

MAX_PAIRS_LISTED = 10


@dataclass(frozen=True, slots=True)
class LabelConfusion:
    """Two labels that are confused.

    Attributes:
        gold: Index of the label in gold.
        answer: Index of the label in the answer.
        share: Of the rows whose gold has the first label and not the second, the share whose answer
            has the second.
        reverse_share: The reverse; None if gold never has the second label without the first.
        p: The smaller p-value of both directions, adjusted for all tests.
    """

    gold: int
    answer: int
    share: Metric
    reverse_share: Metric | None
    p: float

    @property
    def rows(self) -> int:
        return _count_confused_rows(self.share) + _count_confused_rows(self.reverse_share)


def find_confused_pairs(cells: PairCells) -> list[LabelConfusion]:
    """Pairs that are confused more often than expected by chance, most rows first.

    For every ordered pair (A, B), Fisher's exact test (one-sided) tests whether, among rows whose
    gold lacks B, B is answered more often if gold has A. P-values are adjusted by the method of
    Benjamini and Yekutieli (2001), so that at most 5 % of the returned pairs are due to chance.
    Needs at least three labels.
    """
    from scipy.stats import false_discovery_control, hypergeom

    labels = cells.gold.shape[1]
    if not cells.n or labels < 3:
        return []
    hits, at_risk = count_confusions(cells)
    lacking, wrongly = _count_false_positives(cells)
    # A cell of the 2 x 2 table is hypergeometric given its margins. Counts below two are not
    # tested.
    p, seen = np.ones((labels, labels)), np.nonzero(hits > 1)
    p[seen] = hypergeom.sf(hits[seen] - 1, lacking[seen[1]], at_risk[seen], wrongly[seen[1]])
    off_diagonal = ~np.eye(labels, dtype=np.bool_)
    adjusted = np.ones((labels, labels))
    adjusted[off_diagonal] = false_discovery_control(
        np.clip(p[off_diagonal], 0.0, 1.0), method="by"
    )
    pairs = {
        tuple(sorted(pair))
        for pair in np.argwhere((adjusted <= ALPHA) & off_diagonal & (hits > 1)).tolist()
    }
    found = [
        _build_confusion(
            one, other, hits, at_risk, float(min(adjusted[one, other], adjusted[other, one]))
        )
        for one, other in pairs
    ]
    return sorted(found, key=lambda pair: (-pair.rows, pair.gold, pair.answer))


def count_confusions(cells: PairCells) -> tuple[IntArray, IntArray]:
    """[A, B]: rows with A and not B in gold and B in the answer; rows with A and not B in gold."""
    # Floats, because they multiply faster, and counts are exact.
    gold, answer = (cells.gold.astype(np.float64), cells.answer.astype(np.float64))
    weighed = (gold * cells.rows[:, None]).T
    return (weighed @ (answer * (1 - gold))).astype(np.int64), (weighed @ (1 - gold)).astype(
        np.int64
    )


def build_confusion_findings(
    pairs: Sequence[LabelConfusion], labels: Sequence[str], abstain: str | None
) -> list[LabelFinding]:
    """Findings for the pairs with the most confused rows, at most ten."""
    return [_build_finding(pair, labels, abstain) for pair in pairs[:MAX_PAIRS_LISTED]]


def _count_false_positives(cells: PairCells) -> tuple[IntArray, IntArray]:
    """[labels]: rows whose gold lacks the label, and the number of these whose answer has it."""
    without = ~cells.gold * cells.rows[:, None]
    return without.sum(axis=0), (without * cells.answer).sum(axis=0)


def _build_confusion(
    gold: int, answer: int, hits: NDArray[np.int64], at_risk: NDArray[np.int64], p: float
) -> LabelConfusion:
    if hits[answer, gold] > hits[gold, answer]:
        gold, answer = answer, gold
    share = estimate_proportion(int(hits[gold, answer]), int(at_risk[gold, answer]))
    assert share is not None  # there is at least one hit
    return LabelConfusion(
        gold,
        answer,
        share,
        estimate_proportion(int(hits[answer, gold]), int(at_risk[answer, gold])),
        p,
    )


def _build_finding(
    pair: LabelConfusion, labels: Sequence[str], abstain: str | None
) -> LabelFinding:
    gold, answer = labels[pair.gold], labels[pair.answer]
    one, other = isolate_name(gold), isolate_name(answer)
    rows = (
        f"{_count_confused_rows(pair.share):,} of {pair.share.n:,} rows "
        f"({format_share(pair.share)})"
    )
    seen = f"where gold is {one}, the answer is {other} in {rows}"
    seen += (
        (
            f"; the other way round in {_count_confused_rows(pair.reverse_share):,} of "
            f"{pair.reverse_share.n:,}"
        )
        if pair.reverse_share
        else ""
    )
    if abstain in (gold, answer):
        advice = (
            f"say in the definition of {other if gold == abstain else one} how little of it "
            "in a text is enough"
        )
    else:
        advice = (
            "say in both definitions what tells them apart, show an example of each, or merge them"
        )
    figures = {
        "gold": gold,
        "answer": answer,
        "share": asdict(pair.share),
        "back": asdict(pair.reverse_share) if pair.reverse_share else None,
        "p_adjusted": pair.p,
    }
    return LabelFinding("confused", "act", (gold, answer), seen, advice, figures, float(pair.rows))


def _count_confused_rows(share: Metric | None) -> int:
    return round(share.value * share.n) if share else 0
