"""Training losses: of the choice among the allowed answers, and of the answer's tokens.

Both are in nats. The *choice loss* is minus the log-probability of gold among the allowed answers,
as reported by scoring: at each node of the label trie, the model's probabilities are renormalised
over the allowed tokens. The *answer loss* is minus the mean log-probability of the answer's tokens
over the whole vocabulary. Tokens of the prompt have no loss.
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
from medtask.training.language.tokenized_example import ANSWER_LOSS_WEIGHT


@dataclass(frozen=True, slots=True)
class PackLosses:
    """Sums over the rows of a pack.

    Attributes:
        total: The loss that is minimised, with gradients.
        choice_loss: The sum of the choice losses; None for kinds that are generated.
    """

    total: Tensor
    choice_loss: float | None
    answer_loss: float
    rows: int

    @property
    def reported_loss(self) -> float:
        """The loss that validations report: of the choice, or of the answer without a choice."""
        return self.answer_loss if self.choice_loss is None else self.choice_loss


def compute_losses(head: LmHead, hidden: Tensor, packed: PackedExamples) -> PackLosses:
    """Compute the losses of a pack from its last hidden states [tokens, hidden size]."""
    answer = _compute_answer_loss(head, hidden, packed)
    choice = _compute_choice_loss(head, hidden, packed)
    total = answer.sum() if choice is None else choice.sum() + ANSWER_LOSS_WEIGHT * answer.sum()
    return PackLosses(
        total,
        None if choice is None else float(choice.detach().sum()),
        float(answer.detach().sum()),
        len(packed.examples),
    )


def _compute_answer_loss(head: LmHead, hidden: Tensor, packed: PackedExamples) -> Tensor:
    """Mean loss of the tokens on gold's paths [examples]."""
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
    """Mean choice loss over an example's branches [examples]; None without a choice."""
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
    """Minus gold's log-probability among candidates scored by their whole text [examples]."""
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
    """Log-probability of each target over the whole vocabulary, in float32 [rows].

    Many rows are computed in chunks whose logits are recomputed in the backward pass: with a large
    vocabulary, logits are the largest tensors.
    """

    def compute(rows: Tensor, row_targets: Tensor) -> Tensor:
        logits = head.scale_logits(linear(rows, head.weight, head.bias).float())
        return torch.log_softmax(logits, dim=-1).gather(1, row_targets[:, None])[:, 0]

    count = max(1, MAX_LOGIT_ELEMENTS // head.weight.shape[0])
    if len(states) <= count:
        return compute(states, targets)
    chunks = zip(states.split(count), targets.split(count), strict=True)
    return torch.cat([checkpoint(compute, *chunk, use_reentrant=False) for chunk in chunks])
