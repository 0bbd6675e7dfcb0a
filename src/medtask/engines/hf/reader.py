"""Reads tokenised questions with the packed model: the shared prefix once, the rows together, then what the trie needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medtask.engines.hf.chat import Question
from medtask.engines.hf.head import Head
from medtask.engines.hf.pack import KeyValues, Segment, lay_out, run_pass
from medtask.engines.hf.search import Node, Tally, Visit, settle
from medtask.records import BranchScores

Chain = list[int]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A visit whose branching was read: ``hidden`` [rows, hidden size] there, and per row the chain of tokens that led to it."""

    tally: Tally
    visit: Visit
    hidden: Tensor
    chains: list[Chain]


class Reader:
    """A decoder with packed attention and its head. Keeps the last shared prefix's keys and values."""

    def __init__(self, decoder: Any, head: Head, device: torch.device) -> None:
        self.decoder = decoder
        self.head = head
        self.device = device
        self.prefix_tokens: tuple[int, ...] = ()
        self.prefix = KeyValues()

    def keep_prefix(self, tokens: tuple[int, ...]) -> int:
        """Have the keys and values of a shared prefix ready; returns how many tokens had to be read for it."""
        if self.prefix_tokens == tokens:
            return 0
        self.prefix_tokens, self.prefix = (), KeyValues()
        store = KeyValues()
        if tokens:
            run_pass(self.decoder, lay_out([Segment(tokens)], KeyValues(), store, self.device))
        self.prefix_tokens, self.prefix = tokens, store
        return len(tokens)

    def read(self, questions: Sequence[Question], budget: int) -> tuple[list[BranchScores], list[int]]:
        """Scores of questions that begin with the kept prefix, and the tokens read for each.

        One pass reads them all; further ones, of at most ``budget`` tokens, read the branchings that still matter, level
        by level, for all of them together.
        """
        own = KeyValues()
        plan = lay_out([Segment(question.base[self.prefix.tokens :]) for question in questions], self.prefix, own, self.device)
        hidden = run_pass(self.decoder, plan)
        chains = [plan.token_indices(row) for row in range(len(questions))]
        read = [len(chain) for chain in chains]

        off_set = np.zeros(len(questions))
        tallies: list[Tally | None] = [None] * len(questions)
        arrivals = []
        for trie, rows in _by_trie(questions):
            tally = Tally.blank(len(questions), len(trie.labels))
            last = plan.last[torch.tensor(rows, device=self.device)]
            back = torch.tensor([len(questions[row].base) - 1 - questions[row].ask for row in rows], device=self.device)
            off_set[rows] = self.head.mass_outside(hidden[last - back], questions[rows[0]].first).cpu().numpy()
            visit = Visit(trie, np.array(rows), np.zeros(len(rows)))
            arrivals.append(Arrival(tally, visit, hidden[last], [chains[row] for row in rows]))
            for row in rows:
                tallies[row] = tally
        while arrivals:
            arrivals = self._descend(arrivals, read, own, budget)
        return [
            BranchScores(tuple(tally.logprobs[row].tolist()), float(off_set[row]), float(tally.slack[row]))
            for row, tally in enumerate(tallies)
            if tally is not None
        ], read

    def _descend(self, arrivals: list[Arrival], read: list[int], own: KeyValues, budget: int) -> list[Arrival]:
        """Settle the branchings that were read and read the next ones below them."""
        ahead: list[tuple[Tally, Visit, list[Chain]]] = []
        for arrival in arrivals:
            branches = self.head.log_softmax_over(arrival.hidden, arrival.visit.node.tokens).cpu().numpy()
            chain_of = dict(zip(arrival.visit.rows.tolist(), arrival.chains, strict=True))
            further = settle(arrival.tally, arrival.visit, branches)
            ahead += [(arrival.tally, visit, [chain_of[row] for row in visit.rows.tolist()]) for visit in further]
        below = []
        for group in _cut(ahead, budget):
            segments = [Segment(visit.node.reads, chain) for _, visit, chains in group for chain in chains]
            plan = lay_out(segments, self.prefix, own, self.device)
            hidden = run_pass(self.decoder, plan)[plan.last]
            at = 0
            for tally, visit, chains in group:
                longer = [[*chain, *plan.token_indices(at + index)] for index, chain in enumerate(chains)]
                below.append(Arrival(tally, visit, hidden[at : at + len(chains)], longer))
                at += len(chains)
                for row in visit.rows.tolist():
                    read[row] += len(visit.node.reads)
        return below


def _by_trie(questions: Sequence[Question]) -> Iterator[tuple[Node, list[int]]]:
    """Rows grouped by their trie: one for all of them, unless the tokenizer merged some row's end with the labels."""
    rows: dict[int, list[int]] = {}
    for row, question in enumerate(questions):
        rows.setdefault(id(question.trie), []).append(row)
    for group in rows.values():
        yield questions[group[0]].trie, group


def _cut(ahead: list[tuple[Tally, Visit, list[Chain]]], budget: int) -> Iterator[list[tuple[Tally, Visit, list[Chain]]]]:
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
