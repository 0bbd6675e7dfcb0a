"""The losses of `medtask.training.language.loss`, for models of mlx-lm and padded batches."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from medtask.training.language.tokenized_example import ANSWER_LOSS_WEIGHT


def compute_loss(
    model: Any,
    tokens: mx.array,
    answer_weights: mx.array,
    positions: mx.array,
    *choices: mx.array,
) -> tuple[mx.array, mx.array]:
    """The loss of a batch, and the number of tokens with a loss, as mlx-lm's trainer expects them.

    Its value is that of the reported loss: of the choice among the allowed answers if there is one,
    otherwise of the answer's tokens. Its gradient is that of the sum of both.

    Args:
        model: The model.
        tokens: Tokens of each path, padded on the right [paths, length].
        answer_weights: The weight of the loss of each token but the first [paths, length - 1].
        positions: Path and position of each choice [choices, 2].
        choices: Allowed tokens [choices, candidates], whether each is one, the index of gold
            [choices], and the weight of each choice.
    """
    logits = model(tokens[:, :-1]).astype(mx.float32)
    chosen = mx.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
    answer = ((mx.logsumexp(logits, axis=-1) - chosen) * answer_weights).sum()
    count = (answer_weights > 0).sum()
    if not positions.size:
        return answer, count
    choice = _compute_choice_loss(logits[positions[:, 0], positions[:, 1]], *choices)
    return choice + ANSWER_LOSS_WEIGHT * (answer - mx.stop_gradient(answer)), count


def _compute_choice_loss(
    logits: mx.array, allowed: mx.array, is_allowed: mx.array, gold: mx.array, weights: mx.array
) -> mx.array:
    found = mx.where(is_allowed, mx.take_along_axis(logits, allowed, axis=-1), -mx.inf)
    chosen = mx.take_along_axis(found, gold[:, None], axis=-1)[:, 0]
    return ((mx.logsumexp(found, axis=-1) - chosen) * weights).sum()
