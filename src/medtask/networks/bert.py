"""The BERT encoder (Devlin et al. 2019, arXiv 1810.04805), for inference.

Computes what transformers' BertModel computes, in the same order of operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from medtask.networks.loading import BlankParameters, fill_network, read_config

_KNOWN = frozenset(
    {
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "hidden_dropout_prob",
        "hidden_size",
        "intermediate_size",
        "layer_norm_eps",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "tie_word_embeddings",
        "type_vocab_size",
        "vocab_size",
    }
)
_FIXED = {
    "add_cross_attention": False,
    "hidden_act": "gelu",
    "is_decoder": False,
    "model_type": "bert",
    "position_embedding_type": "absolute",
}
_IGNORED = ("pooler.", "embeddings.position_ids")


@dataclass(frozen=True, slots=True)
class BertSettings:
    """The settings of a BERT encoder, with the names of its config."""

    hidden_size: int
    intermediate_size: int
    layer_norm_eps: float
    max_position_embeddings: int
    num_attention_heads: int
    num_hidden_layers: int
    type_vocab_size: int
    vocab_size: int
    pad_token_id: int | None
    model_type: str = "bert"


class BertNetwork(nn.Module):
    """A BERT encoder without a pooler, with the interface of transformers' models."""

    def __init__(self, config: BertSettings) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))

    @property
    def device(self) -> torch.device:
        return self.embeddings.word_embeddings.weight.device

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """``last_hidden_state`` [texts, tokens, hidden size] of padded texts [texts, tokens]."""
        hidden = self.embeddings(input_ids)
        # Without padding no mask is needed, and a faster kernel can be used.
        visible = None if bool(attention_mask.all()) else attention_mask[:, None, None, :].bool()
        if visible is not None:
            visible = visible.expand(-1, 1, input_ids.shape[1], -1)
        for layer in cast("nn.ModuleList", self.encoder.layer):
            hidden = layer(hidden, visible)
        return SimpleNamespace(last_hidden_state=hidden)


class _Embeddings(nn.Module):
    def __init__(self, config: BertSettings) -> None:
        super().__init__()
        size = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        types = torch.zeros_like(input_ids)
        hidden = self.word_embeddings(input_ids) + self.token_type_embeddings(types)
        normalized: Tensor = self.LayerNorm(hidden + self.position_embeddings(positions[None]))
        return normalized


class _Layer(nn.Module):
    def __init__(self, config: BertSettings) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads
        attention = {name: nn.Linear(size, size) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict(
            {"self": nn.ModuleDict(attention), "output": _Output(size, size, config)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(size, inner)})
        self.output = _Output(inner, size, config)

    def forward(self, hidden: Tensor, visible: Tensor | None) -> Tensor:
        projections = cast("nn.ModuleDict", self.attention["self"])
        query, key, value = (
            projections[name](hidden).view(*hidden.shape[:2], self.heads, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        attended = attended.transpose(1, 2).reshape(hidden.shape)
        hidden = self.attention["output"](attended, hidden)
        inner = functional.gelu(self.intermediate["dense"](hidden))
        result: Tensor = self.output(inner, hidden)
        return result


class _Output(nn.Module):
    """A linear layer, the residual connection and the norm."""

    def __init__(self, inputs: int, outputs: int, config: BertSettings) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)
        self.LayerNorm = nn.LayerNorm(outputs, eps=config.layer_norm_eps)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        normalized: Tensor = self.LayerNorm(self.dense(inner) + residual)
        return normalized


def load_bert(folder: Path, device: str, dtype: str) -> BertNetwork | None:
    """Load a BERT encoder; None for a model that is not known to be one."""
    config = read_config(folder, _KNOWN, _FIXED)
    if not config or config.get("model_type") != "bert":
        return None
    config.setdefault("layer_norm_eps", 1e-12)
    config.setdefault("pad_token_id", 0)
    names = [name for name in BertSettings.__dataclass_fields__ if name in config]
    try:
        settings = BertSettings(**{name: config[name] for name in names})
    except TypeError:  # a missing key, for which transformers knows a default
        return None
    with BlankParameters():
        network = BertNetwork(settings)
    if not fill_network(network, folder, getattr(torch, dtype), _IGNORED):
        return None
    return network.to(device).eval()
