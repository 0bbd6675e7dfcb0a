"""A language model as a Trainer module: it maps tokenized examples to their losses."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from medtask.engines.hf.lm_head import get_lm_head
from medtask.training.language.batching import split_into_packs
from medtask.training.language.loss import PackLosses, compute_losses
from medtask.training.language.packing import pack_examples, pad_examples
from medtask.training.language.tokenized_example import TokenizedExample
from medtask.training.trainer import MedtaskTrainer
from medtask.training.training_plan import TrainingLoop


class LanguageLossModel(torch.nn.Module):
    """Computes the losses of a pack of examples.

    Args:
        model: A causal language model of transformers, or PEFT's wrapper around one.
        base: The causal language model itself.
        packed: Whether examples are read as one sequence by medtask's attention; otherwise they
            are padded and read by the model's own attention.
        share_prefix: Whether packed examples share one pass over their common prefix.
    """

    def __init__(self, model: Any, base: Any, *, packed: bool, share_prefix: bool = True) -> None:
        super().__init__()
        self.model = model
        self.base = [base]  # in a list, so that torch does not count its weights twice
        self.packed, self.share = packed, share_prefix

    def forward(self, pack: Sequence[TokenizedExample]) -> PackLosses:
        base = self.base[0]
        decoder, device = base.get_decoder(), base.device
        if self.packed:
            packed = pack_examples(pack, device, share_prefix=self.share)
            forward_pass = packed.forward_pass
            assert forward_pass is not None
            out = decoder(
                input_ids=forward_pass.tokens[None],
                position_ids=forward_pass.positions[None],
                use_cache=False,
                packed_pass=forward_pass,
            )
            hidden: Tensor = out.last_hidden_state[0]
        else:
            packed, tokens, mask = pad_examples(pack, device)
            hidden = decoder(
                input_ids=tokens, attention_mask=mask, use_cache=False
            ).last_hidden_state.flatten(0, 1)
        return compute_losses(get_lm_head(base), hidden, packed)


class LanguageTrainer(MedtaskTrainer):
    """Trains on one batch per step, in packs of at most ``pack_tokens`` tokens."""

    def __init__(
        self,
        loop: TrainingLoop,
        examples: Sequence[TokenizedExample],
        pack_tokens: int,
        **options: Any,
    ) -> None:
        super().__init__(loop, self._count_batch, **options)
        self.examples, self.pack_tokens = examples, pack_tokens

    def forward_backward(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Any:
        model.train()
        rows = [self.examples[row] for row in inputs["rows"]]
        packs = list(split_into_packs(rows, self.pack_tokens))
        loss = 0.0
        for index, pack in enumerate(packs):
            # With several processes, gradients are synchronised once, after the last pack:
            # processes may have different numbers of packs.
            with nullcontext() if index == len(packs) - 1 else self.accelerator.no_sync(model):
                losses = model(pack)
                self.accelerator.backward(losses.total / len(rows))
            loss += losses.reported_loss / len(rows)
        return torch.tensor(loss, device=self.args.device)

    def _count_batch(self, inputs: Any) -> tuple[int, int]:
        rows = [self.examples[row] for row in inputs["rows"]]
        return len(rows), sum(example.max_length for example in rows)


class BatchDataset(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The rows of each step, in order: Trainer takes one item per step."""

    def __init__(self, batches: Sequence[Sequence[int]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> dict[str, list[int]]:
        return {"rows": list(self.batches[step])}


def unwrap_batch(items: Sequence[dict[str, list[int]]]) -> dict[str, list[int]]:
    """Return the only item, which is a batch."""
    return items[0]


@torch.no_grad()
def compute_mean_answer_loss(
    loss_model: LanguageLossModel, examples: Sequence[TokenizedExample], pack_tokens: int
) -> float:
    """Mean loss of the answers, in nats per token, for kinds that are generated."""
    loss_model.eval()
    losses = [loss_model(pack) for pack in split_into_packs(examples, pack_tokens)]
    return sum(loss.answer_loss for loss in losses) / max(1, sum(loss.rows for loss in losses))
