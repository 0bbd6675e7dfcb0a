"""A sentence encoder with a classification head on its pooled token vectors.

The classification heads of transformers for BERT read only the first token, for which sentence
encoders are not trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from medtask.engines.encoder.classifier import HEAD_FILE
from medtask.model_weights import load_pretrained
from medtask.similarity import pool_tokens


class PooledClassifier(nn.Module):
    """Has the interface of a transformers model for sequence classification.

    ``body`` is a model of transformers' AutoModel, ``pooling`` the way its token vectors are
    pooled. With ``labels`` (indices, or [rows, labels] of 0 and 1 with ``multi_label``) the output
    includes a loss.
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
        """Save a folder that load_pooled_classifier reads."""
        self.body.save_pretrained(folder, safe_serialization=True)
        state = {
            name: weight.detach().contiguous().cpu()
            for name, weight in self.head.state_dict().items()
        }
        save_file(state, folder / HEAD_FILE, metadata={"format": "pt", "pooling": self.pooling})


def load_pooled_classifier(folder: Path, device: str, dtype: str) -> tuple[PooledClassifier, Any]:
    """Load model and tokenizer from a folder saved by save_pretrained; raises EngineError for
    missing weights.
    """
    from transformers import AutoModel

    body, tokenizer = load_pretrained(AutoModel, folder, device, dtype)
    with safe_open(folder / HEAD_FILE, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in ("weight", "bias")}
        pooling = (file.metadata() or {}).get("pooling", "mean")
    model = PooledClassifier(body, pooling, len(weights["bias"]))
    model.head.load_state_dict(weights)
    return model.to(body.device).eval(), tokenizer
