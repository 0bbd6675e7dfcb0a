"""Probabilities of outcomes: from log-probabilities, and combined over parts of a record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medtask.records import BranchScores

OutcomeProbabilities = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Probabilities:
    """The probability of each outcome (see `Answer.probabilities`).

    ``off_set`` and ``slack`` (see `BranchScores`) are the mean and the maximum over branches.
    """

    by_outcome: OutcomeProbabilities
    off_set: float | None
    slack: float


def combine_probabilities(
    parts: Sequence[Probabilities], rule: str, exclusive: bool
) -> Probabilities:
    """Combine the probabilities of a record's parts by a rule of `Gate.combine`.

    ``exclusive`` states whether the outcomes' probabilities sum to 1.
    """
    names = list(parts[0].by_outcome)
    columns = [[part.by_outcome[name] for part in parts] for name in names]
    match rule:
        case "max":
            merged = [max(column) for column in columns]
        case "vote" if exclusive:
            winners = [max(names, key=part.by_outcome.__getitem__) for part in parts]
            merged = [winners.count(name) / len(parts) for name in names]
        case "vote":
            merged = [
                sum(probability >= 0.5 for probability in column) / len(parts) for column in columns
            ]
        case _:
            merged = [math.fsum(column) / len(parts) for column in columns]
    total = math.fsum(merged) if exclusive else 1.0
    off_sets = [part.off_set for part in parts if part.off_set is not None]
    return Probabilities(
        {name: value / total for name, value in zip(names, merged, strict=True)},
        math.fsum(off_sets) / len(off_sets) if off_sets else None,
        max(part.slack for part in parts),
    )


def normalise_logprobs(
    logprobs: Sequence[float], scales: Sequence[float] | None = None
) -> list[float] | None:
    """Probabilities that sum to 1; None if a logarithm is NaN or all are infinite.

    ``scales`` are factors of the logarithms; see `TaskKind.get_length_scales`.
    """
    if scales is not None:
        logprobs = [logprob * scale for logprob, scale in zip(logprobs, scales, strict=True)]
    peak = max(logprobs)
    if not math.isfinite(peak) or any(map(math.isnan, logprobs)):
        return None
    weights = [math.exp(logprob - peak) for logprob in logprobs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def summarize_branches(branches: Sequence[BranchScores]) -> tuple[float | None, float]:
    """The mean off-set mass over branches where it is known, and the largest slack."""
    off_sets = [branch.off_set for branch in branches if branch.off_set is not None]
    return (math.fsum(off_sets) / len(off_sets) if off_sets else None), max(
        (branch.slack for branch in branches), default=0.0
    )
