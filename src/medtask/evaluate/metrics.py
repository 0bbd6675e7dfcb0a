"""How good the answers are, from a table of gold by answer. Scikit-learn does the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medtask.evaluate.intervals import Counts, Estimate, bootstrap_macro_f1, estimate_share


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """One label's precision, recall and F1 (0 where undefined). ``gold`` and ``answered`` count its rows."""

    label: str
    gold: int
    answered: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Quality:
    """What answers are worth against gold.

    ``accuracy`` is over all rows with gold, and a row without an answer counts as wrong. ``accuracy_answered`` is over
    the rows that got a label, None where there is none. ``macro_f1`` is the plain mean of F1 over the labels that occur
    in gold; a row without an answer lowers its label's recall. ``labels``: those that occur in gold or in the answers.
    """

    accuracy: Estimate
    accuracy_answered: Estimate | None
    macro_f1: Estimate
    labels: tuple[LabelQuality, ...]


def count_pairs(gold: Sequence[str], answers: Sequence[str | None], classes: Sequence[str]) -> Counts:
    """Rows by gold and answer, [classes, classes + 1]; what is no class counts as "no answer", the last column.

    Every gold value must be one of the classes (else KeyError).
    """
    from sklearn.metrics import confusion_matrix

    index = {name: place for place, name in enumerate(classes)}
    none = len(classes)
    if not gold:
        return np.zeros((none, none + 1), dtype=np.int64)
    truth = [index[name] for name in gold]
    given = [index.get(name, none) if name is not None else none for name in answers]
    table: Counts = confusion_matrix(truth, given, labels=range(none + 1))
    return table[:-1]


def grade_counts(counts: Counts, classes: Sequence[str], *, abstain: str | None = None, seed: int = 0) -> Quality | None:
    """The quality that a table of gold by answer (see count_pairs) shows; None where it is empty.

    ``abstain``: the class that means "the model gave no label". Where gold says the same it is right, but it is not
    among the answered rows.
    """
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    n = int(counts.sum())
    if n == 0:
        return None
    truth, given = np.nonzero(counts)
    rows = {"sample_weight": counts[truth, given], "zero_division": 0.0}
    in_gold = np.unique(truth)
    in_use = np.setdiff1d(np.union1d(truth, given), [len(classes)])
    labels = [place for place, name in enumerate(classes) if name != abstain]
    interval = bootstrap_macro_f1(counts, seed=seed) or (None, None)
    precision, recall, f1, _ = precision_recall_fscore_support(truth, given, labels=in_use, **rows)
    accuracy = estimate_share(int(np.trace(counts)), n)
    assert accuracy is not None
    return Quality(
        accuracy=accuracy,
        accuracy_answered=estimate_share(int(np.diagonal(counts)[labels].sum()), int(counts[:, labels].sum())),
        macro_f1=Estimate(float(f1_score(truth, given, labels=in_gold, average="macro", **rows)), n, *interval),
        labels=tuple(
            LabelQuality(classes[place], int(counts[place].sum()), int(counts[:, place].sum()), *map(float, figures))
            for place, *figures in zip(in_use.tolist(), precision, recall, f1, strict=True)
        ),
    )
