"""Scores of tokenised questions from any model that can read token sequences and tell what follows
them.

The tries are read level by level, for all questions together, and only where a branching can still
change a reported probability (see trie.settle).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.engines.tokens.chat import Question
from medtask.engines.tokens.trie import Floats, Tally, Visit, settle
from medtask.records import BranchScores

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reading:
    """A sequence of tokens to be read. ``behind``: how many of its first tokens were read before,
    for this question.

    ``wanted``: by the place of a token in the sequence, the tokens whose log-probabilities behind
    it are asked for.
    """

    tokens: tuple[int, ...]
    behind: int
    wanted: Mapping[int, tuple[int, ...]]

    @property
    def keep(self) -> int:
        """For how many of its last tokens the logits of the token that follows are needed."""
        return len(self.tokens) - min(self.wanted)


# Logits [keep, vocabulary] of each reading, in their order.
Read = Callable[[Sequence[Reading]], Sequence[Logits]]

# Of each reading, by place and token, the log-probabilities over the whole vocabulary that it asks
# for.
Told = Mapping[int, Mapping[int, float]]
Tell = Callable[[Sequence[Reading]], Sequence[Told]]


def score_questions(questions: Sequence[Question], read: Read) -> list[BranchScores]:
    """Scores of questions that are read together; ``read`` is called once, and once more for each
    further level of the tries.
    """

    def tell(readings: Sequence[Reading]) -> list[Told]:
        return [
            look_up(reading, logits)
            for reading, logits in zip(readings, read(readings), strict=True)
        ]

    return score_told(questions, tell)


def look_up(reading: Reading, logits: Logits) -> Told:
    """What a reading asks for, from its logits [keep, vocabulary]."""
    told: dict[int, dict[int, float]] = {}
    for place, tokens in reading.wanted.items():
        row = logits[place - len(reading.tokens)]
        told[place] = dict(
            zip(
                tokens,
                (row[list(tokens)].astype(np.float64) - _logsumexp(row)).tolist(),
                strict=True,
            )
        )
    return told


def score_told(questions: Sequence[Question], tell: Tell) -> list[BranchScores]:
    """As score_questions, by a model that shows no logits but tells the log-probabilities that it
    is asked for.
    """
    first: list[Reading] = []
    owners: list[int] = []
    for row, question in enumerate(questions):
        if question.trie is not None:
            last = len(question.base) - 1
            first.append(
                Reading(
                    question.base,
                    0,
                    _merge((question.ask, question.first), (last, question.trie.tokens)),
                )
            )
        else:
            for path, tail in zip(question.paths[1:], question.tails, strict=True):
                start = len(path) - len(tail)
                steps = ((start + place, (token,)) for place, token in enumerate(tail))
                first.append(Reading(path, 0, _merge((question.ask, question.first), *steps)))
        owners += [row] * (len(first) - len(owners))
    of_row: list[list[Told]] = [[] for _ in questions]
    for row, told in zip(owners, tell(first), strict=True):
        of_row[row].append(told)
    tallies = _settle_tries(questions, of_row, tell)
    return [
        _weigh_text(question, found)
        if question.trie is None
        else BranchScores(
            tuple(tallies[row].logprobs[0].tolist()),
            _mass_outside(question, found),
            float(tallies[row].slack[0]),
        )
        for row, (question, found) in enumerate(zip(questions, of_row, strict=True))
    ]


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A branching that one question's reading has come to: the visit, the tokens read up to it, and
    what may follow them.
    """

    row: int
    visit: Visit
    tokens: tuple[int, ...]
    told: Mapping[int, float]


def _settle_tries(
    questions: Sequence[Question], found: Sequence[Sequence[Told]], tell: Tell
) -> dict[int, Tally]:
    tallies: dict[int, Tally] = {}
    arrivals: list[_Arrival] = []
    for row, question in enumerate(questions):
        if question.trie is not None:
            tallies[row] = Tally.blank(1, len(question.trie.labels))
            visit = Visit(question.trie, np.zeros(1, dtype=np.intp), np.zeros(1))
            arrivals.append(
                _Arrival(row, visit, question.base, found[row][0][len(question.base) - 1])
            )
    while arrivals:
        ahead = [
            (arrival, visit)
            for arrival in arrivals
            for visit in settle(
                tallies[arrival.row],
                arrival.visit,
                _renormalise(arrival.told, arrival.visit.node.tokens),
            )
        ]
        if not ahead:
            break
        paths = [arrival.tokens + visit.node.reads for arrival, visit in ahead]
        readings = [
            Reading(path, len(arrival.tokens), {len(path) - 1: visit.node.tokens})
            for path, (arrival, visit) in zip(paths, ahead, strict=True)
        ]
        arrivals = [
            _Arrival(arrival.row, visit, path, told[len(path) - 1])
            for (arrival, visit), path, told in zip(ahead, paths, tell(readings), strict=True)
        ]
    return tallies


def _merge(*asked: tuple[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """Tokens by place; each place once, and at each place each token once."""
    wanted: dict[int, tuple[int, ...]] = {}
    for place, tokens in asked:
        wanted[place] = tuple(dict.fromkeys((*wanted.get(place, ()), *tokens)))
    return wanted


def _renormalise(told: Mapping[int, float], tokens: Sequence[int]) -> Floats:
    """Log-probabilities [1, tokens] among ``tokens`` alone."""
    allowed = np.array([told[token] for token in tokens])
    return (allowed - _logsumexp(allowed))[None]


def _mass_outside(question: Question, found: Sequence[Told]) -> float:
    told = found[0][question.ask]
    inside = math.fsum(math.exp(told[token]) for token in question.first)
    return max(1.0 - inside, 0.0)  # in this order NaN stays NaN


def _weigh_text(question: Question, found: Sequence[Told]) -> BranchScores:
    logprobs = []
    for path, tail, told in zip(question.paths[1:], question.tails, found, strict=True):
        start = len(path) - len(tail)
        logprobs.append(math.fsum(told[start + place][token] for place, token in enumerate(tail)))
    return BranchScores(tuple(logprobs), _mass_outside(question, found))


def _logsumexp(values: NDArray[np.floating]) -> float:
    """In float64 where it matters: the sum. Exponentials of a whole vocabulary stay in the logits'
    own format.
    """
    peak = values.max()
    return float(peak) + math.log(float(np.exp(values - peak).sum(dtype=np.float64)))
