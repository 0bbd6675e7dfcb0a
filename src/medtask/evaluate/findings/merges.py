"""What the figures would be if two labels were one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median

import numpy as np

from medtask.evaluate.findings.confusion import count_confusions
from medtask.evaluate.findings.finding import Finding
from medtask.evaluate.findings.pairs import Cells, Flags
from medtask.evaluate.intervals import Counts, Estimate, Figures, bootstrap, estimate_share, mean_f1
from medtask.evaluate.words import isolate

TRIED = 10  # pairs, those that are confused most
COMPARED = 300  # pairs at most whose merge tells what any merge brings

Pair = tuple[int, int]
Sums = list[Figures]


@dataclass(frozen=True, slots=True)
class Merge:
    """Labels at two places as one. ``macro_f1``, ``accuracy``: the change, with intervals over the
    rows with gold.

    ``usual``: the median change of macro-F1 over all pairs: what merging brings without any reason.
    ``rows``: whose gold has either; ``told_apart`` of them have the right answer today, a
    difference that would be lost.
    """

    first: int
    second: int
    macro_f1: Estimate
    accuracy: Estimate
    usual: float
    rows: int
    told_apart: int


def weigh_merges(
    cells: Cells, pairs: Iterable[Pair], *, abstain: int | None = None, seed: int = 0
) -> list[Merge]:
    """Of ``pairs``, which there is a reason to merge, those whose merge raises macro-F1 more than
    merging any two does; best first.

    A reason is needed: a label that the model answers to everything would gain from being merged
    with any other. Both figures are computed from the same draws of rows, with and without the
    merge: the interval is one of their difference. Accuracy is over all rows with gold; macro-F1
    over the labels that gold has (see metrics.Quality).
    """
    labels = cells.gold.shape[1]
    if not cells.n or labels < 3:
        return []
    hits, _ = count_confusions(cells)
    both_ways = hits + hits.T
    confused = {(min(pair), max(pair)) for pair in pairs if both_ways[pair] and abstain not in pair}
    wanted = sorted(sorted(confused), key=lambda pair: -both_ways[pair])
    whole = _list_sums(cells.gold, cells.answer)
    usual = _find_usual(
        cells, [pair for pair in combinations(range(labels), 2) if abstain not in pair], whole, seed
    )
    merges = [_weigh(cells, pair, usual, whole, seed) for pair in wanted[:TRIED]]
    gains = [
        merge
        for merge in merges
        if merge.macro_f1.value > max(0.0, usual) and (merge.macro_f1.low or 0.0) >= 0
    ]
    return sorted(
        gains,
        key=lambda merge: (
            -(merge.macro_f1.low or 0.0),
            -merge.macro_f1.value,
            merge.first,
            merge.second,
        ),
    )


def tell_merges(merges: Sequence[Merge], labels: Sequence[str]) -> list[Finding]:
    return [_tell(merge, labels) for merge in merges[:TRIED]]


def _weigh(cells: Cells, pair: Pair, usual: float, whole: Sums, seed: int) -> Merge:
    change = _change(cells, pair, whole)
    before, after = (cells.gold, cells.answer), (_join(cells.gold, pair), _join(cells.answer, pair))
    value = float(change(cells.rows[None, :])[0])
    interval = bootstrap(cells.rows, change, width=cells.gold.shape[1], seed=seed) or (None, None)
    right, merged = (_match(gold, answer, cells) for gold, answer in (before, after))
    gained = estimate_share(int(cells.rows[merged & ~right].sum()), cells.n)
    assert gained is not None
    either = cells.gold[:, list(pair)].any(axis=1)
    kept = either & (cells.gold == cells.answer)[:, list(pair)].all(axis=1) & cells.answered
    return Merge(
        *pair,
        macro_f1=Estimate(value, cells.n, *interval),
        accuracy=gained,
        usual=usual,
        rows=int(cells.rows[either].sum()),
        told_apart=int(cells.rows[kept].sum()),
    )


def _change(cells: Cells, pair: Pair, whole: Sums) -> Callable[[Counts], Figures]:
    """Macro-F1 of each draw with the pair as one label, less macro-F1 as it is. ``whole``: of all
    labels as they are.
    """
    places = list(pair)
    joined = _list_sums(
        _join(cells.gold[:, places], (0, 1)), _join(cells.answer[:, places], (0, 1))
    )

    def change(drawn: Counts) -> Figures:
        rows = drawn.astype(np.float64)
        sums = [rows @ columns for columns in whole]
        was = mean_f1(*sums)
        for total, columns in zip(sums, joined, strict=True):
            total[:, places] = rows @ columns
        return np.asarray(mean_f1(*sums) - was, dtype=np.float64)

    return change


def _find_usual(cells: Cells, pairs: Sequence[Pair], whole: Sums, seed: int) -> float:
    """The median change of macro-F1 over pairs of labels, a sample of them where they are many."""
    if len(pairs) > COMPARED:
        places = np.random.default_rng(seed).choice(len(pairs), COMPARED, replace=False)
        pairs = [pairs[place] for place in places]
    return median(
        [float(_change(cells, pair, whole)(cells.rows[None])[0]) for pair in pairs] or [0.0]
    )


def _join(flags: Flags, pair: Pair) -> Flags:
    """The second label of the pair becomes the first; it stays as one that nobody has, which
    macro-F1 does not count.
    """
    joined = flags.copy()
    joined[:, pair[0]] |= flags[:, pair[1]]
    joined[:, pair[1]] = False
    return joined


def _match(gold: Flags, answer: Flags, cells: Cells) -> Flags:
    return np.asarray((gold == answer).all(axis=1) & cells.answered, dtype=np.bool_)


def _list_sums(gold: Flags, answer: Flags) -> Sums:
    """What macro-F1 is made of, [cells, labels] each: in both, in gold, in either (twice where in
    both). As floats, which multiply fast.
    """
    return [
        (gold & answer).astype(np.float64),
        gold.astype(np.float64),
        gold.astype(np.float64) + answer,
    ]


def _tell(merge: Merge, labels: Sequence[str]) -> Finding:
    first, second = labels[merge.first], labels[merge.second]
    f1, accuracy = merge.macro_f1, merge.accuracy
    interval = "no interval" if f1.low is None else f"{f1.low:+.3f} to {f1.high:+.3f}"
    seen = (
        f"with {isolate(first)} and {isolate(second)} as one label macro-F1 would change by "
        f"{f1.value:+.3f} ({interval}, n = {f1.n:,}; "
        f"merging any two: {merge.usual:+.3f}) and accuracy by {accuracy.value:+.3f} "
        f"({accuracy.low:+.3f} to {accuracy.high:+.3f})"
    )
    advice = (
        "merge them only if nobody needs the difference: today it is told rightly in "
        f"{merge.told_apart:,} of {merge.rows:,} rows, "
        "and that is lost; a merge raises these figures by itself, and the texts are no better "
        "understood"
    )
    figures = {
        "macro_f1_change": asdict(f1),
        "accuracy_change": asdict(accuracy),
        "usual_change": merge.usual,
        "rows": merge.rows,
        "told_apart": merge.told_apart,
    }
    return Finding("merge", "look", (first, second), seen, advice, figures, f1.low or 0.0)
