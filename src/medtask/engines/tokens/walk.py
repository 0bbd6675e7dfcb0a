"""Scores of tokenised questions from any model that can read token sequences and show its next-token logits.

The tries are read level by level, for all questions together, and only where a branching can still change a reported
probability (see trie.settle).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.engines.tokens.chat import Question
from medtask.engines.tokens.trie import Floats, Tally, Visit, settle
from medtask.records import BranchScores

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reading:
    """A sequence of tokens to be read. ``behind``: how many of its first tokens were read before, for this question; ``keep``:
    for how many of its last tokens the logits of the token that follows are wanted.
    """

    tokens: tuple[int, ...]
    behind: int
    keep: int


# Logits [keep, vocabulary] of each reading, in their order.
Read = Callable[[Sequence[Reading]], Sequence[Logits]]


def score_questions(questions: Sequence[Question], read: Read) -> list[tuple[BranchScores, int]]:
    """Scores of questions that are read together, each with how many tokens its trie took beyond its base.

    ``read`` is called once, and once more for each further level of the tries.
    """
    first: list[Reading] = []
    owners: list[int] = []
    for row, question in enumerate(questions):
        if question.trie is not None:
            first.append(Reading(question.base, 0, len(question.base) - question.ask))
        else:
            first += [Reading(path, 0, len(tail)) for path, tail in zip(question.paths[1:], question.tails, strict=True)]
        owners += [row] * (len(first) - len(owners))
    logits = read(first)
    of_row: list[list[Logits]] = [[] for _ in questions]
    for row, found in zip(owners, logits, strict=True):
        of_row[row].append(found)
    tallies, later = _settle_tries(questions, of_row, read)
    scores = []
    for row, (question, found) in enumerate(zip(questions, of_row, strict=True)):
        if question.trie is None:
            scores.append(_weigh_text(question, found))
            continue
        logprobs, slack = tallies[row].logprobs[0], tallies[row].slack[0]
        scores.append(BranchScores(tuple(logprobs.tolist()), _mass_outside(found[0][0], question.first), float(slack)))
    return list(zip(scores, later, strict=True))


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A branching that one question's reading has come to: the visit, the tokens read up to it, and the logits there."""

    row: int
    visit: Visit
    tokens: tuple[int, ...]
    logits: Logits


def _settle_tries(questions: Sequence[Question], found: Sequence[Sequence[Logits]], read: Read) -> tuple[dict[int, Tally], list[int]]:
    tallies: dict[int, Tally] = {}
    later = [0] * len(questions)
    arrivals: list[_Arrival] = []
    for row, question in enumerate(questions):
        if question.trie is not None:
            tallies[row] = Tally.blank(1, len(question.trie.labels))
            visit = Visit(question.trie, np.zeros(1, dtype=np.intp), np.zeros(1))
            arrivals.append(_Arrival(row, visit, question.base, found[row][0][-1]))
    while arrivals:
        ahead = [
            (arrival, visit)
            for arrival in arrivals
            for visit in settle(tallies[arrival.row], arrival.visit, _renormalise(arrival.logits, arrival.visit.node.tokens))
        ]
        if not ahead:
            break
        for arrival, visit in ahead:
            later[arrival.row] += len(visit.node.reads)
        paths = [arrival.tokens + visit.node.reads for arrival, visit in ahead]
        readings = [Reading(path, len(arrival.tokens), 1) for path, (arrival, _) in zip(paths, ahead, strict=True)]
        arrivals = [
            _Arrival(arrival.row, visit, path, logits[-1])
            for (arrival, visit), path, logits in zip(ahead, paths, read(readings), strict=True)
        ]
    return tallies, later


def _renormalise(logits: Logits, tokens: Sequence[int]) -> Floats:
    """Log-probabilities [1, tokens] among ``tokens`` alone."""
    allowed = logits[list(tokens)].astype(np.float64)
    return (allowed - _logsumexp(allowed))[None]


def _mass_outside(logits: Logits, tokens: Sequence[int]) -> float:
    inside = float(np.exp(_logsumexp(logits[list(tokens)].astype(np.float64)) - _logsumexp(logits)))
    return max(1.0 - inside, 0.0)  # in this order NaN stays NaN


def _weigh_text(question: Question, found: Sequence[Logits]) -> BranchScores:
    logprobs = []
    for tail, logits in zip(question.tails, found, strict=True):
        rows = zip(logits, tail, strict=True)
        logprobs.append(math.fsum(float(row[token]) - float(_logsumexp(row)) for row, token in rows))
    return BranchScores(tuple(logprobs), _mass_outside(found[0][0], question.first))


def _logsumexp(values: NDArray[np.floating]) -> float:
    """In float64 where it matters: the sum. Exponentials of a whole vocabulary stay in the logits' own format."""
    peak = values.max()
    return float(peak) + math.log(float(np.exp(values - peak).sum(dtype=np.float64)))
