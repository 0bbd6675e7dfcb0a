"""What is learnt: to say gold's answer, and to prefer it to the other answers of the set.

Two losses, in nats. *Of the set*: minus the log-probability of gold within the allowed answers, the
very number that scoring reports (at every branching of the label trie the model's probabilities are
renormalised over the allowed tokens). *Of the answer*: minus the mean log-probability of the
answer's tokens over the whole vocabulary. The prompt is never learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from medtask.engines.hf.head import LOGITS_AT_ONCE, Head
from medtask.train.language.pack import Read

# What an answer's wording counts beside the choice, where there is one. Without any the model would
# forget how to say an answer by itself, which servers without exact scoring rely on.
WORDING = 0.2


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums over the rows of a pack. ``total`` carries gradients. ``choice``: of the set, None for
    kinds that are written.
    """

    total: Tensor
    choice: float | None
    wording: float
    rows: int

    @property
    def shown(self) -> float:
        """What a validation measures too: of the set, or of the wording where nothing is chosen."""
        return self.wording if self.choice is None else self.choice


def measure_losses(head: Head, hidden: Tensor, read: Read) -> Losses:
    """The losses of a pack whose last hidden states [tokens, hidden size] were read."""
    wording = _weigh_wording(head, hidden, read)
    choice = _weigh_choice(head, hidden, read)
    total = wording.sum() if choice is None else choice.sum() + WORDING * wording.sum()
    return Losses(
        total,
        None if choice is None else float(choice.detach().sum()),
        float(wording.detach().sum()),
        len(read.passages),
    )


def _weigh_wording(head: Head, hidden: Tensor, read: Read) -> Tensor:
    """[passages]: mean loss of the tokens of gold's lines."""
    places: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    weights: list[float] = []
    for owner, (passage, lines) in enumerate(zip(read.passages, read.places, strict=True)):
        steps = [
            (lines[line][at - 1], passage.lines[line].tokens[at])
            for line in passage.answers
            for at in range(passage.lines[line].said, len(passage.lines[line].tokens))
        ]
        places += [place for place, _ in steps]
        targets += [target for _, target in steps]
        owners += [owner] * len(steps)
        weights += [1 / len(steps)] * len(steps)
    said = _log_softmax_at(head, hidden[places], torch.tensor(targets, device=hidden.device))
    shares = -said * torch.tensor(weights, device=hidden.device)
    return shares.new_zeros(len(read.passages)).index_add(
        0, torch.tensor(owners, device=hidden.device), shares
    )


def _weigh_choice(head: Head, hidden: Tensor, read: Read) -> Tensor | None:
    """[passages]: the mean loss over a passage's branches of the choice within the set; None where
    nothing is chosen.
    """
    contests = any(passage.contests for passage in read.passages)
    forks = [
        (owner, lines[line][fork.place], fork.tokens, fork.gold, 1 / len(passage.answers))
        for owner, (passage, lines) in enumerate(zip(read.passages, read.places, strict=True))
        for line in passage.answers
        for fork in passage.lines[line].forks
    ]
    if not forks and not contests:
        return None
    total = hidden.new_zeros(len(read.passages), dtype=torch.float32)
    for tokens in dict.fromkeys(fork[2] for fork in forks):
        alike = [fork for fork in forks if fork[2] == tokens]
        index = torch.tensor(tokens, device=hidden.device)
        bias = None if head.bias is None else head.bias[index].float()
        states = hidden[[fork[1] for fork in alike]]
        logits = head.finish(linear(states.float(), head.weight[index].float(), bias))
        chosen = torch.log_softmax(logits, dim=-1).gather(
            1, torch.tensor([[fork[3]] for fork in alike], device=hidden.device)
        )[:, 0]
        weights = torch.tensor([fork[4] for fork in alike], device=hidden.device)
        total = total.index_add(
            0, torch.tensor([fork[0] for fork in alike], device=hidden.device), -chosen * weights
        )
    return total + _weigh_contests(head, hidden, read) if contests else total


def _weigh_contests(head: Head, hidden: Tensor, read: Read) -> Tensor:
    """[passages]: minus the log-share of gold among candidates that are weighed by their text."""
    rows = []
    for passage, lines in zip(read.passages, read.places, strict=True):
        row = hidden.new_zeros((), dtype=torch.float32)
        for contest in passage.contests:
            sums = [
                _weigh_line(
                    head, hidden, passage.lines[line].tokens, passage.lines[line].said, lines[line]
                )
                for line in contest.lines
            ]
            scores = torch.stack(sums) * torch.tensor(contest.scales, device=hidden.device)
            row = row - torch.log_softmax(scores, dim=0)[contest.gold] / len(passage.contests)
        rows.append(row)
    return torch.stack(rows)


def _weigh_line(
    head: Head, hidden: Tensor, tokens: Sequence[int], said: int, places: Sequence[int]
) -> Tensor:
    steps = list(range(said, len(tokens)))
    targets = torch.tensor([tokens[at] for at in steps], device=hidden.device)
    return _log_softmax_at(head, hidden[[places[at - 1] for at in steps]], targets).sum()


def _log_softmax_at(head: Head, states: Tensor, targets: Tensor) -> Tensor:
    """[rows]: log-probability of each target over the whole vocabulary, in float32. Many rows are
    read in pieces, whose logits are computed again in the backward pass: over a large vocabulary
    they are the widest thing there is.
    """

    def weigh(rows: Tensor, wanted: Tensor) -> Tensor:
        logits = head.finish(linear(rows, head.weight, head.bias).float())
        return torch.log_softmax(logits, dim=-1).gather(1, wanted[:, None])[:, 0]

    count = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    if len(states) <= count:
        return weigh(states, targets)
    pieces = zip(states.split(count), targets.split(count), strict=True)
    return torch.cat(
        [checkpoint(weigh, rows, wanted, use_reentrant=False) for rows, wanted in pieces]
    )
