"""Figures as sums over rows, so that what two systems reach can be drawn again together, by rows or
by whole groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from medtask.evaluate.agreement import agree_wholly, weigh_objects
from medtask.evaluate.intervals import (
    Counts,
    Estimate,
    Figures,
    Units,
    bootstrap,
    divide,
    estimate_rate,
    mean_f1,
)
from medtask.evaluate.kinds.answer import weigh_texts
from medtask.evaluate.kinds.choice import read_letters
from medtask.evaluate.kinds.kind import Kind
from medtask.evaluate.overlap import rouge_l
from medtask.evaluate.sets import Names, weigh_sets


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """One figure of one system. ``sums``: what each row adds, sparse, [rows, columns]; ``figure``
    makes [draws, columns] of their totals into [draws] figures.
    """

    sums: Any
    figure: Callable[[Figures], Figures]

    def first(self, rows: int) -> Weighed:
        """The same of the first rows alone."""
        return self if self.sums.shape[0] == rows else Weighed(self.sums[:rows], self.figure)

    def value(self) -> float:
        return float(
            self.figure(np.asarray(self.sums.sum(axis=0), dtype=np.float64).reshape(1, -1))[0]
        )


def weigh_answers(
    kind: Kind, labels: Sequence[str], gold: Sequence[Any], answers: Sequence[Any]
) -> dict[str, Weighed]:
    """The figures of these rows, by measure (see words.MEASURES); the first is the headline, which
    is a ratio of sums.

    ``labels``: every class of kinds ``label`` and ``labels``. An answer is None where there is
    none.
    """
    match kind:
        case "label":
            right = [given == truth for truth, given in zip(gold, answers, strict=True)]
            pairs = [
                ((truth,), () if given is None else (given,))
                for truth, given in zip(gold, answers, strict=True)
            ]
            return {"accuracy": _mean(right), "macro_f1": _weigh_macro_f1(labels, pairs)}
        case "labels":
            pairs = [(truth, given or ()) for truth, given in zip(gold, answers, strict=True)]
            sets = _weigh_alike(gold, answers)
            return {
                "micro_f1": _ratio(*weigh_sets(gold, answers)),
                "macro_f1": _weigh_macro_f1(labels, pairs),
                **sets,
            }
        case "choice":
            if not any(isinstance(value, tuple) for value in (*gold, *answers)):
                return {
                    "accuracy": _mean(
                        [given == truth for truth, given in zip(gold, answers, strict=True)]
                    )
                }
            truths, letters = (
                [read_letters(truth) or () for truth in gold],
                [read_letters(given) for given in answers],
            )
            return {
                **_weigh_alike(truths, letters),
                "micro_f1": _ratio(*weigh_sets(truths, letters)),
            }
        case "answer":
            order = [
                0.0 if given is None else rouge_l(truth, given)
                for truth, given in zip(gold, answers, strict=True)
            ]
            return {"token_f1": _ratio(*weigh_texts(gold, answers)), "rouge_l": _mean(order)}
        case "fields":
            return {
                "fields_right": _ratio(*weigh_objects(gold, answers)),
                "rows_right": _mean(list(map(agree_wholly, gold, answers))),
            }


def estimate(weighed: Weighed, units: Units, *, seed: int = 0) -> Estimate:
    """The figure and its interval by a bootstrap of ``units`` (see tally.group_rows)."""
    return _estimate(weighed.sums, weighed.figure, units, seed)


def estimate_share_of(weighed: Weighed, units: Units, *, seed: int = 0) -> Estimate:
    """A share of rows, such as accuracy: its interval is Wilson's where rows are independent (see
    intervals.estimate_rate).
    """
    hits = weighed.sums.toarray()[:, 0] > 0
    found = estimate_rate(hits, np.ones(len(hits), dtype=bool), units, seed=seed)
    return found or estimate(weighed, units, seed=seed)


def estimate_difference(
    first: Weighed, second: Weighed, units: Units, *, seed: int = 0
) -> Estimate:
    """By how much the first is ahead, and the paired bootstrap's interval: both are drawn again on
    the same rows, or groups.
    """
    from scipy.sparse import hstack

    split = first.sums.shape[1]

    def gap(totals: Figures) -> Figures:
        return first.figure(totals[:, :split]) - second.figure(totals[:, split:])

    return _estimate(hstack([first.sums, second.sums]).tocsr(), gap, units, seed)


def _estimate(sums: Any, figure: Callable[[Figures], Figures], units: Units, seed: int) -> Estimate:
    each, counts = _merge_alike(units.lift(sums).tocsr(copy=True), units.counts)

    def draw(drawn: Counts | Figures) -> Figures:
        return figure(np.asarray(drawn @ each, dtype=np.float64))

    interval = bootstrap(counts, draw, width=each.shape[1], seed=seed) or (None, None)
    return Estimate(float(draw(counts[None])[0]), sums.shape[0], *interval)


def _merge_alike(sums: Any, counts: Counts) -> tuple[Any, Counts]:
    """Units that add the same are one cell of the bootstrap: its time depends on how many different
    ones there are.
    """
    sums.sum_duplicates()
    sums.eliminate_zeros()
    cells: dict[tuple[bytes, bytes], int] = {}
    place = np.array(
        [
            cells.setdefault(
                (sums.indices[start:end].tobytes(), sums.data[start:end].tobytes()), len(cells)
            )
            for start, end in pairwise(sums.indptr.tolist())
        ],
        dtype=np.int64,
    )
    merged = np.zeros(len(cells), dtype=np.int64)
    np.add.at(merged, place, counts)
    return sums[np.unique(place, return_index=True)[1]], merged


def _mean(values: Sequence[float]) -> Weighed:
    return _ratio(np.array(values, dtype=np.float64), np.ones(len(values)))


def _ratio(over: Figures, under: Figures) -> Weighed:
    from scipy.sparse import csr_array

    return Weighed(
        csr_array(np.stack([over, under], axis=1)),
        lambda totals: divide(totals[:, 0], totals[:, 1]),
    )


def _weigh_alike(gold: Sequence[Names], answers: Sequence[Names | None]) -> dict[str, Weighed]:
    exact, jaccard = [], []
    for truth, given in zip(gold, answers, strict=True):
        one, other = frozenset(truth), frozenset(given or ())
        exact.append(float(given is not None and one == other))
        jaccard.append(exact[-1] if exact[-1] else len(one & other) / max(1, len(one | other)))
    return {"exact_match": _mean(exact), "jaccard": _mean(jaccard)}


def _weigh_macro_f1(labels: Sequence[str], pairs: Sequence[tuple[Names, Names]]) -> Weighed:
    """Three columns a label: in gold and answer, in gold, and both numbers added up (see
    intervals.mean_f1).
    """
    from scipy.sparse import coo_array

    index, width = {name: place for place, name in enumerate(labels)}, len(labels)
    cells: list[tuple[int, int]] = []
    for row, (truth, given) in enumerate(pairs):
        both = set(truth) & set(given)
        cells += [(row, index[name]) for name in both]
        cells += [(row, block * width + index[name]) for name in truth for block in (1, 2)]
        cells += [(row, 2 * width + index[name]) for name in given]
    rows, columns = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    sums = coo_array((np.ones(len(cells)), (rows, columns)), shape=(len(pairs), 3 * width)).tocsr()
    return Weighed(
        sums,
        lambda totals: mean_f1(
            *(totals[:, block * width : (block + 1) * width] for block in range(3))
        ),
    )
