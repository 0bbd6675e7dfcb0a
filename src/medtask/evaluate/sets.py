"""How well sets of names agree with gold's: exact match, Jaccard, micro- and macro-F1, label by label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medtask.evaluate.intervals import Counts, Estimate, Figures, bootstrap, estimate_ratio, estimate_share, mean_f1
from medtask.evaluate.metrics import LabelQuality

Names = Collection[str]


@dataclass(frozen=True, slots=True)
class SetQuality:
    """What answers that are sets of names are worth against gold, over all rows with gold.

    A row without an answer is never an exact match, has a Jaccard of 0 and misses all that gold has. ``exact_answered`` is
    over the rows that got an answer. ``micro_f1`` is that of all decisions together, ``macro_f1`` the plain mean over the
    labels that occur in gold. Jaccard: what both have, of what either has; two empty sets agree wholly.
    """

    exact_match: Estimate
    exact_answered: Estimate | None
    jaccard: Estimate
    micro_f1: Estimate
    macro_f1: Estimate
    labels: tuple[LabelQuality, ...]
    gold_mean: float
    answered_mean: float | None


class SetCounts:
    """Sums up pairs of sets, row by row; memory grows with the names and with how large the sets get, not with the rows."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._index = {name: place for place, name in enumerate(self._classes)}
        self._table = np.zeros((3, len(self._classes)), dtype=np.int64)  # in both, in gold, in the answer
        self._cells: Counter[tuple[int, int, int | None]] = Counter()  # the same by row; None where there is no answer

    def add(self, gold: Names, given: Names | None) -> None:
        """``given`` is None where there is no answer. All names must be classes (else KeyError)."""
        truth, said = frozenset(gold), frozenset(given or ())
        for line, names in zip(self._table, (truth & said, truth, said), strict=True):
            for name in names:
                line[self._index[name]] += 1
        self._cells[len(truth & said), len(truth), None if given is None else len(said)] += 1

    def grade(self, gold: Sequence[Names], answers: Sequence[Names | None], *, seed: int = 0) -> SetQuality | None:
        """The quality of all rows that were added; ``gold`` and ``answers`` are a random sample of them (or all), in a fixed order,
        from which macro-F1's interval is drawn. None without rows."""
        cells = sorted(self._cells.items(), key=str)
        rows = np.array([count for _, count in cells], dtype=np.int64)
        n = int(rows.sum())
        exact = estimate_share(sum(count for (both, truth, said), count in cells if both == truth == said), n)
        if exact is None:
            return None
        answered = sum(count for (_, _, said), count in cells if said is not None)
        both = np.array([both for (both, _, _), _ in cells])
        sizes = np.array([truth + (said or 0) for (_, truth, said), _ in cells])
        alike = np.array([both == truth == said for (both, truth, said), _ in cells])
        jaccard = np.where(alike, 1.0, both / np.maximum(1, sizes - both))
        ratios = [estimate_ratio(over, under, rows, seed=seed) for over, under in ((jaccard, np.ones(len(rows))), (2 * both, sizes))]
        mean, micro = (ratio for ratio in ratios if ratio)
        return SetQuality(
            exact_match=exact,
            exact_answered=estimate_share(round(exact.value * n), answered),
            jaccard=mean,
            micro_f1=micro,
            macro_f1=self._estimate_macro_f1(gold, answers, n, seed),
            labels=self._grade_labels(),
            gold_mean=float(self._table[1].sum() / n),
            answered_mean=float(self._table[2].sum() / answered) if answered else None,
        )

    def _grade_labels(self) -> tuple[LabelQuality, ...]:
        lines = zip(self._classes, self._table.T.tolist(), strict=True)
        return tuple(
            LabelQuality(name, truth, said, both / max(1, said), both / max(1, truth), 2 * both / max(1, truth + said))
            for name, (both, truth, said) in lines
            if truth or said
        )

    def _estimate_macro_f1(self, gold: Sequence[Names], answers: Sequence[Names | None], n: int, seed: int) -> Estimate:
        """Of all rows; its interval is that of draws of so many rows from the sample, moved to where all rows have their figure."""
        both, truth, said = self._table
        whole = Estimate(float(mean_f1(both[None], truth[None], (truth + said)[None])[0]), n)
        truth_of, said_of = self._spread(gold), self._spread([names or () for names in answers])
        both_of, either_of = truth_of.multiply(said_of), truth_of + said_of

        def figure(drawn: Counts | Figures) -> Figures:
            return mean_f1(drawn @ both_of, drawn @ truth_of, drawn @ either_of)

        rows = np.ones(len(gold))
        interval = bootstrap(rows, figure, n=n, width=len(self._classes), seed=seed)
        if interval is None:
            return whole
        shift = whole.value - float(figure(rows[None])[0])
        low, high = (min(1.0, max(0.0, end + shift)) for end in interval)
        return replace(whole, low=low, high=high)

    def _spread(self, rows: Sequence[Names]) -> Any:
        """[rows, classes], 1 where the row has the name; sparse."""
        from scipy.sparse import csr_array

        places = [(row, self._index[name]) for row, names in enumerate(rows) for name in names]
        row, column = np.array(places, dtype=np.int64).reshape(-1, 2).T
        return csr_array((np.ones(len(places)), (row, column)), shape=(len(rows), len(self._classes)))


def weigh_sets(gold: Sequence[Names], answers: Sequence[Names | None]) -> tuple[Figures, Figures]:
    """Each row's part in micro-F1, as comparison.compare_ratios wants it."""
    pairs = [(frozenset(truth), frozenset(given or ())) for truth, given in zip(gold, answers, strict=True)]
    return np.array([2.0 * len(truth & said) for truth, said in pairs]), np.array([float(len(truth) + len(said)) for truth, said in pairs])


def grade_sets(classes: Sequence[str], gold: Sequence[Names], answers: Sequence[Names | None], *, seed: int = 0) -> SetQuality | None:
    """The quality of these very rows."""
    counts = SetCounts(classes)
    for truth, given in zip(gold, answers, strict=True):
        counts.add(truth, given)
    return counts.grade(gold, answers, seed=seed)
