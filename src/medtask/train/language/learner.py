"""A language model as Trainer trains it: a module whose forward pass takes passages and gives their
losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from medtask.engines.hf.head import read_head
from medtask.train.language.loss import Losses, measure_losses
from medtask.train.language.pack import lay_apart, lay_passages
from medtask.train.language.passage import Passage
from medtask.train.language.schedule import cut_packs
from medtask.train.loop import Tutor


class Learner(torch.nn.Module):
    """``model``: a causal language model of transformers, or PEFT's wrapper around one. ``packed``:
    its attention is ours, and passages that share a prefix are read as one sequence; else they are
    read side by side, padded, by the model's own. ``share`` False: packed, but every row reads its
    whole prompt.
    """

    def __init__(self, model: Any, base: Any, *, packed: bool, share: bool = True) -> None:
        super().__init__()
        self.model = model
        self.base = [base]  # in a list, so that torch does not count its weights twice
        self.packed, self.share = packed, share

    def forward(self, pack: Sequence[Passage]) -> Losses:
        base = self.base[0]
        decoder, device = base.get_decoder(), base.device
        if self.packed:
            read = lay_passages(pack, device, share=self.share)
            plan = read.plan
            assert plan is not None
            out = decoder(
                input_ids=plan.tokens[None],
                position_ids=plan.positions[None],
                use_cache=False,
                packed_pass=plan,
            )
            hidden: Tensor = out.last_hidden_state[0]
        else:
            read, tokens, mask = lay_apart(pack, device)
            hidden = decoder(
                input_ids=tokens, attention_mask=mask, use_cache=False
            ).last_hidden_state.flatten(0, 1)
        return measure_losses(read_head(base), hidden, read)


class LanguageTutor(Tutor):
    """Takes a step over one batch of passages, in packs of at most ``pack_tokens`` tokens."""

    def __init__(self, *, passages: Sequence[Passage], pack_tokens: int, **options: Any) -> None:
        super().__init__(count=self._count, **options)
        self.passages, self.pack_tokens = passages, pack_tokens

    def take_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Any:
        model.train()
        rows = [self.passages[row] for row in inputs["rows"]]
        packs = list(cut_packs(rows, self.pack_tokens))
        shown = 0.0
        for place, pack in enumerate(packs):
            # With several processes gradients are exchanged once, behind the last pack: processes
            # may have unlike numbers of them.
            with nullcontext() if place == len(packs) - 1 else self.accelerator.no_sync(model):
                losses = model(pack)
                self.accelerator.backward(losses.total / len(rows))
            shown += losses.shown / len(rows)
        return torch.tensor(shown, device=self.args.device)

    def _count(self, inputs: Any) -> tuple[int, int]:
        rows = [self.passages[row] for row in inputs["rows"]]
        return len(rows), sum(passage.longest for passage in rows)


class Batches(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The rows of every step, in order: Trainer takes one item a step."""

    def __init__(self, batches: Sequence[Sequence[int]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> dict[str, list[int]]:
        return {"rows": list(self.batches[step])}


def take_one(items: Sequence[dict[str, list[int]]]) -> dict[str, list[int]]:
    """An item is a batch already."""
    return items[0]


@torch.no_grad()
def measure_wording(learner: Learner, passages: Sequence[Passage], pack_tokens: int) -> float:
    """Mean loss of a row's answer, in nats a token, for kinds that are written."""
    learner.eval()
    losses = [learner(pack) for pack in cut_packs(passages, pack_tokens)]
    return sum(loss.wording for loss in losses) / max(1, sum(loss.rows for loss in losses))
