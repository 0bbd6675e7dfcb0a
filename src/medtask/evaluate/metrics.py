"""How good the answers are, from a table of gold by answer. Scikit-learn does the arithmetic of
what is told, and the bootstrap does it again on every draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medtask.evaluate.intervals import (
    Counts,
    Estimate,
    Figures,
    Units,
    bootstrap_all,
    bound_shares,
    divide,
    estimate_rate,
    name_interval,
)
from medtask.evaluate.tally import Tally

TOPS = (3, 5)
NOT_IN_TOPS = len(
    TOPS
)  # the last part of a cell: the place in TOPS of the first that gold is among


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """One label's precision, recall and F1, None where undefined: of a label that was never
    answered, or is never in gold. ``gold`` and ``answered`` count its rows.
    """

    label: str
    gold: int
    answered: int
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None


@dataclass(frozen=True, slots=True)
class Quality:
    """What answers are worth against gold.

    All figures are over all rows with gold, and a row without an answer counts as wrong, but
    ``accuracy_answered``: that is over the rows that got a label, None where there is none.
    ``macro_f1``, ``weighted_f1`` and ``balanced_accuracy`` (the mean of recall) are over the labels
    that occur in gold; a row without an answer lowers its label's recall. For ``kappa`` (Cohen
    1960) and ``mcc`` (Matthews' correlation of many classes, Gorodkin 2004) no answer is one more
    thing to answer; they are None where gold has one label only, ``mcc`` also where the answers
    have: then nothing can be told from chance. ``top_3``, ``top_5``: rows whose gold is among the
    likeliest so many labels, None where that was not asked. ``labels``: those that occur in gold or
    in the answers. ``groups``: see Units.
    """

    accuracy: Estimate
    accuracy_answered: Estimate | None
    macro_f1: Estimate
    balanced_accuracy: Estimate
    weighted_f1: Estimate
    kappa: Estimate | None
    mcc: Estimate | None
    top_3: Estimate | None
    top_5: Estimate | None
    labels: tuple[LabelQuality, ...]
    groups: int | None


def grade_pairs(
    gold: Sequence[str],
    answers: Sequence[str | None],
    classes: Sequence[str],
    *,
    groups: Sequence[str | None] = (),
    abstain: str | None = None,
    seed: int = 0,
) -> Quality | None:
    """The quality of these very rows (see grade_cells); what is no class counts as no answer.
    ``groups``: the rows', if any has one.

    KeyError for gold that is none of the classes.
    """
    tally = Tally()
    places = _find_places(gold, answers, classes)
    for place, group in zip(places, groups or [None] * len(places), strict=True):
        tally.add(place, group)
    return grade_cells(*tally.finish(), classes, abstain=abstain, seed=seed)


def grade_cells(
    cells: Counts,
    units: Units,
    classes: Sequence[str],
    *,
    abstain: str | None = None,
    tops: Sequence[int] = (),
    seed: int = 0,
) -> Quality | None:
    """The quality of rows by gold and answer, ``cells`` [cells, 2] of places in ``classes`` (an
    answer's one further: no answer).

    ``units``: how many rows each cell has, and which belong together. ``abstain``: the class that
    means "the model gave no label". Where gold says the same it is right, but it is not among the
    answered rows. ``tops``: of TOPS, for which a third part of the cells tells where gold is. None
    without rows.
    """
    rows = units.count_rows()
    n = int(rows.sum())
    if n == 0:
        return None
    truth, given = cells[:, 0], cells[:, 1]
    spread = _Spread(truth, given, units, len(classes))
    bounds = bootstrap_all(units.counts, spread.measure, width=spread.width, seed=seed)
    values = _measure_with_sklearn(truth, given, rows, spread)
    answered = given < len(classes)
    if abstain is not None and abstain in classes:
        answered &= given != list(classes).index(abstain)
    hits, every = truth == given, np.ones(len(cells), dtype=bool)
    top = {
        size: estimate_rate(cells[:, 2] <= TOPS.index(size), every, units, seed=seed)
        for size in tops
    }
    accuracy = estimate_rate(hits, every, units, seed=seed)
    macro, balanced, weighted, kappa, mcc = (
        name_interval(value, n, bounds[:, place]) for place, value in enumerate(values)
    )
    assert accuracy is not None
    assert macro is not None
    assert balanced is not None
    assert weighted is not None
    return Quality(
        accuracy=accuracy,
        accuracy_answered=estimate_rate(hits, answered, units, seed=seed),
        macro_f1=macro,
        balanced_accuracy=balanced,
        weighted_f1=weighted,
        kappa=kappa,
        mcc=mcc,
        top_3=top.get(3),
        top_5=top.get(5),
        labels=_grade_labels(spread, classes, bounds[:, len(values) :], units),
        groups=units.groups,
    )


def grade_label(
    name: str, rows: Sequence[int], bounds: Figures, groups: tuple[int, int] | None = None
) -> LabelQuality:
    """One label by its rows in both gold and answer, in gold, in the answer. ``bounds`` [2, 3]: the
    bootstrap's, of precision, recall and F1; of the first two they are used where rows have
    ``groups``: how many of these have the label in an answer, and in gold.
    """
    both, gold, answered = rows
    shares = []
    for place, n in enumerate((answered, gold)):
        if groups is None:
            low, high = bound_shares(np.array([both]), np.array([n]))[:, 0]
        else:
            low, high = bounds[:, place]
            if np.isnan(low) and n:  # all groups are alike: see estimate_rate
                low, high = bound_shares(
                    np.array([round(both / n * groups[place])]), np.array([groups[place]])
                )[:, 0]
        shares.append(name_interval(both / n if n else None, n, np.array([low, high])))
    either = gold + answered - both
    f1 = name_interval(
        2 * both / (gold + answered) if gold + answered else None, either, bounds[:, 2]
    )
    return LabelQuality(name, gold, answered, shares[0], shares[1], f1)


class _Spread:
    """What a unit of each kind adds to the rows of each label in use: in gold, in the answer, in
    both.
    """

    def __init__(self, truth: Counts, given: Counts, units: Units, classes: int) -> None:
        from scipy.sparse import csr_array

        self.places = np.setdiff1d(np.union1d(truth, given), [classes])
        column = np.full(classes + 1, len(self.places))
        column[self.places] = np.arange(len(self.places))
        self.width = len(self.places) + 1  # the last column of the answers: none
        each, ones, shape = np.arange(len(truth)), np.ones(len(truth)), (len(truth), self.width)
        self.gold = units.lift(csr_array((ones, (each, column[truth])), shape=shape))
        self.given = units.lift(csr_array((ones, (each, column[given])), shape=shape))
        self.both = units.lift(
            csr_array(((truth == given).astype(float), (each, column[truth])), shape=shape)
        )
        self.units = units

    def measure(self, drawn: Any) -> Figures:
        """[draws, kinds] to [draws, 5 + 3 x labels]: macro-F1, balanced accuracy, weighted F1,
        kappa, MCC; then precision, recall and F1 of each label. NaN where undefined.
        """
        both, gold, given = (
            np.asarray(drawn @ one, dtype=np.float64) for one in (self.both, self.gold, self.given)
        )
        n = gold.sum(axis=1)
        recall, precision, f1 = (
            divide(both, gold),
            divide(both, given),
            divide(2 * both, gold + given),
        )
        occurs = gold > 0
        several = occurs.sum(axis=1)
        known = np.where(occurs, f1, 0)
        right, chance = both.sum(axis=1) * n, (gold * given).sum(axis=1)
        spread_gold, spread_given = n**2 - (gold**2).sum(axis=1), n**2 - (given**2).sum(axis=1)
        whole = [
            divide(known.sum(axis=1), several),
            divide(np.where(occurs, recall, 0).sum(axis=1), several),
            divide((known * gold).sum(axis=1), n),
            divide(right - chance, np.where(several > 1, n**2 - chance, 0)),
            divide(
                right - chance,
                np.sqrt(np.maximum(spread_gold, 0)) * np.sqrt(np.maximum(spread_given, 0)),
            ),
        ]
        return np.column_stack([*whole, precision[:, :-1], recall[:, :-1], f1[:, :-1]])


def _measure_with_sklearn(
    truth: Counts, given: Counts, rows: Counts, spread: _Spread
) -> list[float | None]:
    """The first five of _Spread.measure for all rows."""
    from sklearn.metrics import cohen_kappa_score, f1_score, matthews_corrcoef, recall_score

    in_gold, kept = np.unique(truth), rows > 0
    truth, given, weights = truth[kept], given[kept], {"sample_weight": rows[kept]}
    told: dict[str, Any] = {"labels": in_gold, "zero_division": 0.0, **weights}
    several = len(in_gold) > 1
    return [
        float(f1_score(truth, given, average="macro", **told)),
        # balanced_accuracy_score is the same, and warns where an answer is never in gold.
        float(recall_score(truth, given, average="macro", **told)),
        float(f1_score(truth, given, average="weighted", **told)),
        float(cohen_kappa_score(truth, given, **weights)) if several else None,
        float(matthews_corrcoef(truth, given, **weights))
        if several and len(np.unique(given)) > 1
        else None,
    ]


def _grade_labels(
    spread: _Spread, classes: Sequence[str], bounds: Figures, units: Units
) -> tuple[LabelQuality, ...]:
    sums = [
        np.asarray(units.counts @ one, dtype=np.int64)
        for one in (spread.both, spread.gold, spread.given)
    ]
    groups = None
    if units.groups is not None:
        groups = [
            (units.counts @ (one > 0)).astype(np.int64).tolist()
            for one in (spread.given, spread.gold)
        ]
    by_label = bounds.reshape(2, 3, -1)
    return tuple(
        grade_label(
            classes[place],
            [int(one[column]) for one in sums],
            by_label[:, :, column],
            (groups[0][column], groups[1][column]) if groups else None,
        )
        for column, place in enumerate(spread.places.tolist())
    )


def _find_places(
    gold: Sequence[str], answers: Sequence[str | None], classes: Sequence[str]
) -> list[tuple[int, int]]:
    index, none = {name: place for place, name in enumerate(classes)}, len(classes)
    return [
        (index[truth], none if given is None else index.get(given, none))
        for truth, given in zip(gold, answers, strict=True)
    ]
