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

from medtask.engines.hf.lm_head import MAX_LOGIT_ELEMENTS, LmHead
from medtask.training.language.packing import PackedExamples

# What an answer's wording counts beside the choice, where there is one. Without any the model would
# forget how to say an answer by itself, which servers without exact scoring rely on.
ANSWER_LOSS_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class PackLosses:
    """Sums over the rows of a pack. ``total`` carries gradients. ``choice_loss``: of the set,
    None for kinds that are written.
    """

    total: Tensor
    choice_loss: float | None
    answer_loss: float
    rows: int

    @property
    def reported_loss(self) -> float:
        """What a validation measures too: of the set, or of the wording where nothing is chosen."""
        return self.answer_loss if self.choice_loss is None else self.choice_loss


def compute_losses(head: LmHead, hidden: Tensor, packed: PackedExamples) -> PackLosses:
    """The losses of a pack whose last hidden states [tokens, hidden size] were read."""
    wording = _compute_answer_loss(head, hidden, packed)
    choice = _compute_choice_loss(head, hidden, packed)
    total = wording.sum() if choice is None else choice.sum() + ANSWER_LOSS_WEIGHT * wording.sum()
    return PackLosses(
        total,
        None if choice is None else float(choice.detach().sum()),
        float(wording.detach().sum()),
        len(packed.examples),
    )


def _compute_answer_loss(head: LmHead, hidden: Tensor, packed: PackedExamples) -> Tensor:
    """[passages]: mean loss of the tokens of gold's lines."""
    indices: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    weights: list[float] = []
    for owner, (example, paths) in enumerate(
        zip(packed.examples, packed.path_positions, strict=True)
    ):
        steps = [
            (paths[path][at - 1], example.paths[path].tokens[at])
            for path in example.gold_paths
            for at in range(example.paths[path].answer_start, len(example.paths[path].tokens))
        ]
        indices += [index for index, _ in steps]
        targets += [target for _, target in steps]
        owners += [owner] * len(steps)
        weights += [1 / len(steps)] * len(steps)
    log_probabilities = _log_softmax_at(
        head, hidden[indices], torch.tensor(targets, device=hidden.device)
    )
    probabilities = -log_probabilities * torch.tensor(weights, device=hidden.device)
    return probabilities.new_zeros(len(packed.examples)).index_add(
        0, torch.tensor(owners, device=hidden.device), probabilities
    )


def _compute_choice_loss(head: LmHead, hidden: Tensor, packed: PackedExamples) -> Tensor | None:
    """[passages]: the mean loss over a passage's branches of the choice within the set; None where
    nothing is chosen.
    """
    sequence_choices = any(example.sequence_choices for example in packed.examples)
    forks = [
        (
            owner,
            paths[path][fork.position],
            fork.allowed_tokens,
            fork.gold_index,
            1 / len(example.gold_paths),
        )
        for owner, (example, paths) in enumerate(
            zip(packed.examples, packed.path_positions, strict=True)
        )
        for path in example.gold_paths
        for fork in example.paths[path].token_choices
    ]
    if not forks and not sequence_choices:
        return None
    total = hidden.new_zeros(len(packed.examples), dtype=torch.float32)
    for tokens in dict.fromkeys(fork[2] for fork in forks):
        alike = [fork for fork in forks if fork[2] == tokens]
        index = torch.tensor(tokens, device=hidden.device)
        bias = None if head.bias is None else head.bias[index].float()
        states = hidden[[fork[1] for fork in alike]]
        logits = head.scale_logits(linear(states.float(), head.weight[index].float(), bias))
        chosen = torch.log_softmax(logits, dim=-1).gather(
            1, torch.tensor([[fork[3]] for fork in alike], device=hidden.device)
        )[:, 0]
        weights = torch.tensor([fork[4] for fork in alike], device=hidden.device)
        total = total.index_add(
            0, torch.tensor([fork[0] for fork in alike], device=hidden.device), -chosen * weights
        )
    return (
        total + _compute_sequence_choice_loss(head, hidden, packed) if sequence_choices else total
    )


def _compute_sequence_choice_loss(head: LmHead, hidden: Tensor, packed: PackedExamples) -> Tensor:
    """[passages]: minus the log-share of gold among candidates that are weighed by their text."""
    rows = []
    for example, paths in zip(packed.examples, packed.path_positions, strict=True):
        row = hidden.new_zeros((), dtype=torch.float32)
        for choice in example.sequence_choices:
            sums = [
                _score_path(
                    head,
                    hidden,
                    example.paths[path].tokens,
                    example.paths[path].answer_start,
                    paths[path],
                )
                for path in choice.path_indices
            ]
            scores = torch.stack(sums) * torch.tensor(choice.scales, device=hidden.device)
            row = row - torch.log_softmax(scores, dim=0)[choice.gold_index] / len(
                example.sequence_choices
            )
        rows.append(row)
    return torch.stack(rows)


def _score_path(
    head: LmHead, hidden: Tensor, tokens: Sequence[int], answer_start: int, positions: Sequence[int]
) -> Tensor:
    steps = list(range(answer_start, len(tokens)))
    targets = torch.tensor([tokens[at] for at in steps], device=hidden.device)
    return _log_softmax_at(head, hidden[[positions[at - 1] for at in steps]], targets).sum()


def _log_softmax_at(head: LmHead, states: Tensor, targets: Tensor) -> Tensor:
    """[rows]: log-probability of each target over the whole vocabulary, in float32. Many rows are
    read in pieces, whose logits are computed again in the backward pass: over a large vocabulary
    they are the widest thing there is.
    """

    def compute(rows: Tensor, row_targets: Tensor) -> Tensor:
        logits = head.scale_logits(linear(rows, head.weight, head.bias).float())
        return torch.log_softmax(logits, dim=-1).gather(1, row_targets[:, None])[:, 0]

    count = max(1, MAX_LOGIT_ELEMENTS // head.weight.shape[0])
    if len(states) <= count:
        return compute(states, targets)
    pieces = zip(states.split(count), targets.split(count), strict=True)
    return torch.cat(
        [checkpoint(compute, rows, wanted, use_reentrant=False) for rows, wanted in pieces]
    )
