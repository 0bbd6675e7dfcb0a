"""The Llama decoder (Touvron et al. 2023, arXiv 2307.09288), for inference.

Computes what transformers' LlamaForCausalLM computes, in the same order of operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medtask.json_files import find_json_object
from medtask.networks.loading import BlankParameters, fill_network, read_config

_KNOWN = frozenset(
    {
        "attention_dropout",
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_parameters",
        "rope_theta",
        "tie_word_embeddings",
        "vocab_size",
    }
)
_FIXED = {
    "attention_bias": False,
    "hidden_act": "silu",
    "mlp_bias": False,
    "model_type": "llama",
    "pretraining_tp": 1,
    "rope_scaling": None,
}
# Computes the attention of a layer: (layer, query, key, value, scale) -> [1, tokens, heads, size].
# Query, key and value: [1, heads, tokens, size].
AttentionFunction = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """The settings of a Llama decoder, with the names of its config."""

    head_dim: int
    hidden_size: int
    intermediate_size: int
    max_position_embeddings: int
    num_attention_heads: int
    num_hidden_layers: int
    num_key_value_heads: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    vocab_size: int

    def get_text_config(self) -> LlamaSettings:
        """These settings, as models of transformers return their text part."""
        return self


class LlamaNetwork(nn.Module):
    """A Llama decoder with its head, with the interface of transformers' models.

    Attributes:
        generation_config: Has ``eos_token_id``, as the model's settings of generation.
    """

    def __init__(self, config: LlamaSettings) -> None:
        super().__init__()
        self.config = config
        self.generation_config = SimpleNamespace(eos_token_id=None)
        self.model = LlamaDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    def forward(self, input_ids: Tensor, **unused: Any) -> SimpleNamespace:
        """``logits`` [1, tokens, vocabulary] of a plain pass over one text."""
        hidden = self.model(input_ids).last_hidden_state
        return SimpleNamespace(logits=self.lm_head(hidden))

    def get_decoder(self) -> LlamaDecoder:
        return self.model

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_attn_implementation(self, name: str) -> None:
        """Does nothing: the attention of a packed pass is an argument of the pass."""

    def get_memory_footprint(self) -> int:
        """Bytes of the parameters; tied ones count once."""
        return sum(one.numel() * one.element_size() for one in self.parameters())


class LlamaDecoder(nn.Module):
    """The layers of a Llama model."""

    def __init__(self, config: LlamaSettings) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            _DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = RmsNorm(config)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        compute_attention: AttentionFunction | None = None,
        **unused: Any,
    ) -> SimpleNamespace:
        """``last_hidden_state`` [1, tokens, hidden size] of one sequence [1, tokens].

        Without ``compute_attention`` each token attends to itself and those before it.
        """
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        hidden = self.embed_tokens(input_ids)
        rotation = self._compute_rotation(position_ids, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, rotation, compute_attention or compute_causal_attention)
        return SimpleNamespace(last_hidden_state=self.norm(hidden))

    def _compute_rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary embedding, [1, 1, tokens, head size]."""
        size = self.config.head_dim
        exponents = torch.arange(0, size, 2, dtype=torch.float, device=positions.device) / size
        angles = positions[..., None].float() * (1.0 / (self.config.rope_theta**exponents))
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)


class RmsNorm(nn.Module):
    """Root mean square normalisation, computed in float32."""

    def __init__(self, config: LlamaSettings) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.hidden_size))
        self.eps = config.rms_norm_eps

    def forward(self, hidden: Tensor) -> Tensor:
        full = hidden.float()
        variance = full.pow(2).mean(-1, keepdim=True)
        return self.weight * (full * torch.rsqrt(variance + self.eps)).to(hidden.dtype)


class _DecoderLayer(nn.Module):
    def __init__(self, config: LlamaSettings, layer: int) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.self_attn = _Attention(config, layer)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(size, inner, bias=False),
                "up_proj": nn.Linear(size, inner, bias=False),
                "down_proj": nn.Linear(inner, size, bias=False),
            }
        )
        self.input_layernorm = RmsNorm(config)
        self.post_attention_layernorm = RmsNorm(config)

    def forward(
        self, hidden: Tensor, rotation: tuple[Tensor, Tensor], compute_attention: AttentionFunction
    ) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotation, compute_attention)
        normalized = self.post_attention_layernorm(hidden)
        gate = functional.silu(self.mlp["gate_proj"](normalized))
        result: Tensor = hidden + self.mlp["down_proj"](gate * self.mlp["up_proj"](normalized))
        return result


class _Attention(nn.Module):
    def __init__(self, config: LlamaSettings, layer: int) -> None:
        super().__init__()
        size = config.hidden_size
        width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.layer, self.head_dim = layer, config.head_dim
        self.q_proj = nn.Linear(size, width, bias=False)
        self.k_proj = nn.Linear(size, kv_width, bias=False)
        self.v_proj = nn.Linear(size, kv_width, bias=False)
        self.o_proj = nn.Linear(width, size, bias=False)

    def forward(
        self, hidden: Tensor, rotation: tuple[Tensor, Tensor], compute_attention: AttentionFunction
    ) -> Tensor:
        query, key, value = (
            projection(hidden).view(*hidden.shape[:2], -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = compute_attention(
            self.layer, _rotate(query, rotation), _rotate(key, rotation), value, self.head_dim**-0.5
        )
        result: Tensor = self.o_proj(attended.reshape(*hidden.shape[:2], -1).contiguous())
        return result


def _rotate(side: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    first, second = side.chunk(2, dim=-1)
    return (side * cos) + (torch.cat((-second, first), dim=-1) * sin)


def compute_causal_attention(
    layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
) -> Tensor:
    """Attention of each token to itself and those before it; see AttentionFunction."""
    group = query.shape[1] // key.shape[1]
    key, value = (side.repeat_interleave(group, dim=1) for side in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous()


def is_known_llama(folder: Path) -> bool:
    """Whether the config in a folder is one of a Llama model that this module computes."""
    return _read_settings(folder) is not None


def load_llama(folder: Path, device: str, dtype: str) -> LlamaNetwork | None:
    """Load a Llama model; None for a model that is not known to be one."""
    settings = _read_settings(folder)
    if settings is None:
        return None
    with BlankParameters():
        network = LlamaNetwork(settings)
    if not fill_network(network, folder, getattr(torch, dtype)):
        return None
    generation = find_json_object(folder / "generation_config.json")
    network.generation_config.eos_token_id = generation.get("eos_token_id")
    return network.to(device).eval()


def _read_settings(folder: Path) -> LlamaSettings | None:
    config = read_config(folder, _KNOWN, _FIXED)
    if config.get("model_type") != "llama" or config.get("architectures") != ["LlamaForCausalLM"]:
        return None
    try:
        heads = config["num_attention_heads"]
        rope = dict(config.get("rope_parameters") or {"rope_type": "default"})
        theta = rope.pop("rope_theta", config.get("rope_theta", 10_000.0))
        if rope != {"rope_type": "default"}:
            return None
        return LlamaSettings(
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            max_position_embeddings=config["max_position_embeddings"],
            num_attention_heads=heads,
            num_hidden_layers=config["num_hidden_layers"],
            num_key_value_heads=config.get("num_key_value_heads") or heads,
            rms_norm_eps=config["rms_norm_eps"],
            rope_theta=theta,
            tie_word_embeddings=config.get("tie_word_embeddings", False),
            vocab_size=config["vocab_size"],
        )
    except (KeyError, TypeError, ValueError):
        return None
