"""A sentence encoder with a layer on top that gives one number per label: its tokens' vectors are
pooled as they always were.

transformers' own heads for BERT read the first token alone, which a sentence encoder was not
trained to put its meaning into.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from medtask.engines.encoder.classifier import HEAD_FILE
from medtask.similarity import load_pretrained, pool_tokens


class PooledClassifier(nn.Module):
    """``body``: a model of transformers' AutoModel. ``pooling``: how its tokens' vectors become
    one. Called like a model for sequence classification: with ``labels`` (places, or of several
    labels a table of 0 and 1) it tells the loss too.
    """

    def __init__(
        self,
        body: Any,
        pooling: str,
        label_count: int,
        *,
        multi_label: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.body = body
        body.config.num_labels = label_count
        self.pooling = pooling
        self.several = multi_label
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(body.config.hidden_size, label_count, dtype=body.dtype)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @property
    def config(self) -> Any:
        return self.body.config

    @property
    def device(self) -> Any:
        return self.body.device

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.head(self.dropout(pool_tokens(hidden, attention_mask, self.pooling)))
        if labels is None:
            return SequenceClassifierOutput(logits=logits)
        compute_loss = (
            nn.functional.binary_cross_entropy_with_logits
            if self.several
            else nn.functional.cross_entropy
        )
        return SequenceClassifierOutput(loss=compute_loss(logits.float(), labels), logits=logits)

    def save_pretrained(self, folder: Path) -> None:
        """Write it into a folder, for load_pooled."""
        self.body.save_pretrained(folder, safe_serialization=True)
        state = {
            name: weight.detach().contiguous().cpu()
            for name, weight in self.head.state_dict().items()
        }
        save_file(state, folder / HEAD_FILE, metadata={"format": "pt", "pooling": self.pooling})


def load_pooled_classifier(folder: Path, device: str, dtype: str) -> tuple[PooledClassifier, Any]:
    """What save_pretrained wrote, and the tokenizer beside it. EngineError where weights are
    missing.
    """
    from transformers import AutoModel

    body, tokenizer = load_pretrained(AutoModel, folder, device, dtype)
    with safe_open(folder / HEAD_FILE, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in ("weight", "bias")}
        pooling = (file.metadata() or {}).get("pooling", "mean")
    model = PooledClassifier(body, pooling, len(weights["bias"]))
    model.head.load_state_dict(weights)
    return model.to(body.device).eval(), tokenizer
