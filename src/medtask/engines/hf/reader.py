"""Reads tokenised questions with the packed model: the shared prefix once, the rows together, then
what the tries need.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medtask.engines.hf.head import Head
from medtask.engines.hf.pack import KeyValues, Segment, lay_out, run_pass
from medtask.engines.tokens.chat import Question
from medtask.engines.tokens.tree import Tree, grow_tree
from medtask.engines.tokens.trie import Tally, Visit, settle
from medtask.records import BranchScores

Chain = list[int]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A visit whose branching was read: ``hidden`` [rows, hidden size] there, and per row the chain
    of tokens that led to it.
    """

    tally: Tally
    visit: Visit
    hidden: Tensor
    chains: list[Chain]


@dataclass(slots=True)
class Reading:
    """A question whose paths were read. ``chains``: of each path, the indices of its tokens behind
    the prefix in what was read, in order. ``later``: tokens that its trie took beyond them.
    """

    question: Question
    chains: list[Chain]
    scores: BranchScores | None = None
    later: int = 0


class Reader:
    """A decoder with packed attention and its head. Keeps the last shared prefix's keys and
    values.
    """

    def __init__(self, decoder: Any, head: Head, device: torch.device) -> None:
        self.decoder = decoder
        self.head = head
        self.device = device
        self.prefix_tokens: tuple[int, ...] = ()
        self.prefix = KeyValues()

    def keep_prefix(self, tokens: tuple[int, ...]) -> int:
        """Have the keys and values of a shared prefix ready; returns how many tokens had to be read
        for it.
        """
        if self.prefix_tokens == tokens:
            return 0
        self.prefix_tokens, self.prefix = (), KeyValues()
        store = KeyValues()
        if tokens:
            run_pass(self.decoder, lay_out([Segment(tokens)], KeyValues(), store, self.device))
        self.prefix_tokens, self.prefix = tokens, store
        return len(tokens)

    def read(
        self, units: Sequence[Sequence[Question]], budget: int
    ) -> list[tuple[tuple[BranchScores, ...], int]]:
        """Scores of units of questions that begin with the kept prefix, and the tokens read for
        each unit.

        What the questions of a unit have in common is read once. One pass reads all units; what a
        unit has above ``budget`` tokens is left to further ones. So are the branchings of the tries
        that still matter, which are read level by level, for all units together.
        """
        own = KeyValues()
        hidden, readings, tokens = self._read_trees(units, own, budget)
        every = [reading for unit in readings for reading in unit]
        self._weigh_sets(
            [reading for reading in every if reading.question.trie is not None], hidden, own, budget
        )
        self._weigh_texts([reading for reading in every if reading.question.trie is None], hidden)
        return [
            (
                tuple(reading.scores for reading in unit if reading.scores),
                size + sum(reading.later for reading in unit),
            )
            for unit, size in zip(readings, tokens, strict=True)
        ]

    def _read_trees(
        self, units: Sequence[Sequence[Question]], own: KeyValues, budget: int
    ) -> tuple[Tensor, list[list[Reading]], list[int]]:
        """Hidden states of all tokens of the units' trees, where each question's tokens stand among
        them, and the trees' sizes.
        """
        trees = [
            grow_tree(
                [path for question in unit for path in question.paths], self.prefix.tokens, budget
            )
            for unit in units
        ]
        indices: list[Chain] = [[] for _ in trees]
        hidden = []
        for piece in range(max(len(tree.starts) for tree in trees)):
            left = [row for row, tree in enumerate(trees) if piece < len(tree.starts)]
            plan = lay_out(
                [_cut_segment(trees[row], piece, indices[row]) for row in left],
                self.prefix,
                own,
                self.device,
            )
            hidden.append(run_pass(self.decoder, plan))
            for segment, row in enumerate(left):
                indices[row] += plan.token_indices(segment)
        readings = []
        for unit, tree, index in zip(units, trees, indices, strict=True):
            chains = ([index[place] for place in tree.chain(end)] for end in tree.ends)
            readings.append(
                [
                    Reading(question, list(itertools.islice(chains, len(question.paths))))
                    for question in unit
                ]
            )
        return torch.cat(hidden), readings, [len(tree.tokens) for tree in trees]

    def _weigh_sets(
        self, readings: Sequence[Reading], hidden: Tensor, own: KeyValues, budget: int
    ) -> None:
        off_set = np.zeros(len(readings))
        for rows in _group(readings, lambda reading: reading.question.first):
            asks = [
                readings[row].chains[0][readings[row].question.ask - self.prefix.tokens]
                for row in rows
            ]
            off_set[rows] = (
                self.head.mass_outside(hidden[asks], readings[rows[0]].question.first).cpu().numpy()
            )
        tallies: dict[int, Tally] = {}
        arrivals = []
        # One trie for all prompts with the same branch, unless the tokenizer merged some row's end
        # with the labels.
        for rows in _group(readings, lambda reading: id(reading.question.trie)):
            trie = readings[rows[0]].question.trie
            if trie is not None:
                chains = [readings[row].chains[0] for row in rows]
                tally = Tally.blank(len(readings), len(trie.labels))
                visit = Visit(trie, np.array(rows), np.zeros(len(rows)))
                arrivals.append(
                    Arrival(tally, visit, hidden[[chain[-1] for chain in chains]], chains)
                )
                tallies.update(dict.fromkeys(rows, tally))
        while arrivals:
            arrivals = self._descend(arrivals, readings, own, budget)
        for row, tally in tallies.items():
            scores = BranchScores(
                tuple(tally.logprobs[row].tolist()), float(off_set[row]), float(tally.slack[row])
            )
            readings[row].scores = scores

    def _weigh_texts(self, readings: Sequence[Reading], hidden: Tensor) -> None:
        """Log-likelihoods of tails: the probability of each of their tokens, over the whole
        vocabulary, behind all before it.
        """
        wanted: dict[
            int, dict[int, float]
        ] = {}  # by the index of a token, tokens that may follow it
        for reading in readings:
            for index, token in (step for steps in _steps(reading) for step in steps):
                wanted.setdefault(index, {})[token] = math.nan
        if not wanted:
            return
        tokens = torch.zeros(len(wanted), max(map(len, wanted.values())), dtype=torch.long)
        for row, following in enumerate(wanted.values()):
            tokens[row, : len(following)] = torch.tensor(list(following))
        found = self.head.log_softmax_at(hidden[list(wanted)], tokens.to(self.device)).cpu()
        for row, following in enumerate(wanted.values()):
            following.update(zip(following, found[row].tolist(), strict=False))
        for reading in readings:
            logprobs = tuple(
                math.fsum(wanted[index][token] for index, token in steps)
                for steps in _steps(reading)
            )
            following = wanted[reading.chains[0][-1]]
            inside = math.fsum(math.exp(following[token]) for token in reading.question.first)
            reading.scores = BranchScores(
                logprobs, max(1.0 - inside, 0.0)
            )  # in this order NaN stays NaN

    def _descend(
        self, arrivals: list[Arrival], readings: Sequence[Reading], own: KeyValues, budget: int
    ) -> list[Arrival]:
        """Settle the branchings that were read and read the next ones below them."""
        ahead: list[tuple[Tally, Visit, list[Chain]]] = []
        for arrival in arrivals:
            branches = (
                self.head.log_softmax_over(arrival.hidden, arrival.visit.node.tokens).cpu().numpy()
            )
            chain_of = dict(zip(arrival.visit.rows.tolist(), arrival.chains, strict=True))
            further = settle(arrival.tally, arrival.visit, branches)
            ahead += [
                (arrival.tally, visit, [chain_of[row] for row in visit.rows.tolist()])
                for visit in further
            ]
        below = []
        for group in _cut(ahead, budget):
            segments = [
                Segment(visit.node.reads, chain) for _, visit, chains in group for chain in chains
            ]
            plan = lay_out(segments, self.prefix, own, self.device)
            hidden = run_pass(self.decoder, plan)[plan.last]
            at = 0
            for tally, visit, chains in group:
                longer = [
                    [*chain, *plan.token_indices(at + index)] for index, chain in enumerate(chains)
                ]
                below.append(Arrival(tally, visit, hidden[at : at + len(chains)], longer))
                at += len(chains)
                for row in visit.rows.tolist():
                    readings[row].later += len(visit.node.reads)
        return below


def _cut_segment(tree: Tree, piece: int, indices: Chain) -> Segment:
    """A tree's piece as a segment of a pass; ``indices``: of the tokens of earlier pieces, in the
    pack's keys and values.
    """
    start, stop = tree.starts[piece], (*tree.starts, len(tree.tokens))[piece + 1]
    ancestors = [indices[place] for place in tree.chain(tree.parents[start])]
    parents = [parent - start if parent >= start else -1 for parent in tree.parents[start:stop]]
    # A chain is told as one: passes without any fork need no map of who sees whom.
    forks = any(parent != place for place, parent in enumerate(parents, -1))
    return Segment(tree.tokens[start:stop], ancestors, parents if forks else None)


def _steps(reading: Reading) -> Iterator[list[tuple[int, int]]]:
    """For each tail: its tokens, each behind the index of the token that it follows."""
    for tail, chain in zip(reading.question.tails, reading.chains[1:], strict=True):
        yield list(zip(chain[len(chain) - len(tail) :], tail, strict=True))


def _group(readings: Sequence[Reading], key: Callable[[Reading], Hashable]) -> Iterable[list[int]]:
    """Rows that have the same key, the first seen first."""
    rows: dict[Hashable, list[int]] = {}
    for row, reading in enumerate(readings):
        rows.setdefault(key(reading), []).append(row)
    return rows.values()


def _cut(
    ahead: list[tuple[Tally, Visit, list[Chain]]], budget: int
) -> Iterator[list[tuple[Tally, Visit, list[Chain]]]]:
    """Cut visits into groups that read at most ``budget`` tokens (a single visit may be more)."""
    group: list[tuple[Tally, Visit, list[Chain]]] = []
    tokens = 0
    for item in ahead:
        size = len(item[1].node.reads) * len(item[2])
        if group and tokens + size > budget:
            yield group
            group, tokens = [], 0
        group.append(item)
        tokens += size
    if group:
        yield group
