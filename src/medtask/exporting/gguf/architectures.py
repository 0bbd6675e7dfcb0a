"""The architectures that can be written as GGUF: how llama.cpp names and stores their parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medtask.display import format_list
from medtask.errors import UsageError
from medtask.exporting.gguf.gemma4 import (
    UPSTREAM,
    add_gemma4,
    make_proportional_factors,
    with_full_attention_sizes,
)

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from torch import Tensor

_GELU = ("gelu_pytorch_tanh", "gelu")
_ATTENTION_WEIGHTS = ("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")


@dataclass(frozen=True, slots=True)
class Architecture:
    """How a family of models is stored.

    Attributes:
        name: The name of a member of ``gguf.MODEL_ARCH``.
        add_metadata: Writes what the family has beside the common metadata.
        interleaves_rotary: Whether llama.cpp rotates neighbouring dimensions: the rows of queries
            and keys are then stored in another order.
        shifts_norms: Whether transformers adds 1 to the weights of norms; they are stored with it.
        is_tied: Whether llama.cpp has no output layer beside the embeddings.
        tokenizer_model: llama.cpp's name of a tokenizer whose tokens are text, with bytes as the
            fallback.
        choose_common: The config from which the common metadata is written.
        activations: Names of the only activation that llama.cpp computes in the family.
    """

    name: str
    add_metadata: Callable[[GGUFWriter, Mapping[str, Any]], None] = lambda writer, config: None
    interleaves_rotary: bool = False
    shifts_norms: bool = False
    is_tied: bool = False
    tokenizer_model: str = "llama"
    choose_common: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda config: config
    activations: tuple[str, ...] = ("silu", "swish")

    def check_activation(self, config: Mapping[str, Any]) -> None:
        """Raise UsageError for a model with another activation."""
        for name in ("hidden_act", "hidden_activation"):
            if (found := config.get(name)) is not None and found not in self.activations:
                raise UsageError(
                    f"llama.cpp computes {self.activations[0]} in such a model, not {found}",
                    fix=UPSTREAM,
                )

    def convert(self, name: str, weight: Tensor, config: Mapping[str, Any]) -> Tensor:
        """A weight as llama.cpp stores it."""
        if self.interleaves_rotary and name.endswith(_ATTENTION_WEIGHTS):
            is_query = name.endswith(_ATTENTION_WEIGHTS[::2])
            heads = config["num_attention_heads" if is_query else "num_key_value_heads"]
            halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
            return halves.swapaxes(1, 2).reshape(weight.shape)
        if self.shifts_norms and name.endswith("norm.weight"):
            return weight.float() + 1
        return weight


def _add_windows(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_sliding_window(config["sliding_window"])
    writer.add_sliding_window_pattern(
        [layer == "sliding_attention" for layer in config["layer_types"]]
    )


def _add_gemma2(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    _check_attention_scale(config, wide_layers=46)
    _add_windows(writer, config)
    if (cap := config.get("attn_logit_softcapping")) is not None:
        writer.add_attn_logit_softcapping(cap)
    if (cap := config.get("final_logit_softcapping")) is not None:
        writer.add_final_logit_softcapping(cap)


def _add_gemma3(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    _check_attention_scale(config, wide_layers=62)
    if config.get("attn_logit_softcapping") is not None:
        raise UsageError("llama.cpp does not cap the attention of Gemma 3", fix=UPSTREAM)
    _add_windows(writer, config)
    sliding = read_rope(config, "sliding_attention")
    if (kind := sliding.get("rope_type", "default")) != "default":
        raise UsageError(
            f"rotary embeddings of the type {kind!r} in layers with a window are not written",
            fix=UPSTREAM,
        )
    writer.add_rope_freq_base_swa(sliding["rope_theta"])
    if (cap := config.get("final_logit_softcapping")) is not None:
        writer.add_final_logit_softcapping(cap)


def _check_attention_scale(config: Mapping[str, Any], wide_layers: int) -> None:
    """llama.cpp derives the scale of attention from the number of layers, not from the file."""
    is_wide = config["num_hidden_layers"] == wide_layers
    expected = (
        config["hidden_size"] // config["num_attention_heads"] if is_wide else config["head_dim"]
    )
    if config["query_pre_attn_scalar"] != expected:
        raise UsageError(
            f"llama.cpp scales the attention of such a model by {expected}, not by "
            f"{config['query_pre_attn_scalar']}",
            fix=UPSTREAM,
        )


def with_window_as_context(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the window of its attention as the longest context.

    llama.cpp gives such a model no window: beyond it, it would compute another model.
    """
    window, kinds = config.get("sliding_window"), config.get("layer_types")
    if not window or (kinds and "sliding_attention" not in kinds):
        return dict(config)
    return {**config, "max_position_embeddings": min(config["max_position_embeddings"], window)}


_LLAMA = Architecture("LLAMA", interleaves_rotary=True, choose_common=with_window_as_context)

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture("QWEN2", choose_common=with_window_as_context),
    "qwen3": Architecture("QWEN3", choose_common=with_window_as_context),
    "gemma": Architecture("GEMMA", shifts_norms=True, is_tied=True, activations=_GELU),
    "gemma2": Architecture(
        "GEMMA2", _add_gemma2, shifts_norms=True, is_tied=True, activations=_GELU
    ),
    "gemma3_text": Architecture("GEMMA3", _add_gemma3, shifts_norms=True, activations=_GELU),
    "gemma4_text": Architecture(
        "GEMMA4",
        add_gemma4,
        tokenizer_model="gemma4",
        choose_common=with_full_attention_sizes,
        activations=_GELU,
    ),
}


def find_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a model's config. Raises UsageError if it is not known."""
    model_type = str(config.get("model_type"))
    if model_type not in ARCHITECTURES:
        raise UsageError(
            f"models of the type {model_type!r} cannot be written as GGUF here; known: "
            f"{format_list(list(ARCHITECTURES))}",
            fix=UPSTREAM,
        )
    return ARCHITECTURES[model_type]


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the language model with all defaults of transformers, as a dictionary."""
    from transformers import CONFIG_MAPPING

    text_config = dict(config.get("text_config", config))
    model_type = str(text_config.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        return text_config
    complete: dict[str, Any] = CONFIG_MAPPING[model_type].from_dict(text_config).to_dict()
    if complete.get("head_dim") is None:
        complete["head_dim"] = complete["hidden_size"] // complete["num_attention_heads"]
    return complete


def count_context_tokens(config: Mapping[str, Any]) -> int:
    """The longest context of a model in llama.cpp, from its config."""
    complete = complete_config(config)
    common = find_architecture(complete).choose_common(complete)
    return int(common["max_position_embeddings"])


def add_common_metadata(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    """What all architectures store. ``config`` is complete."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    _add_rope(writer, read_rope(config))


def read_rope(config: Mapping[str, Any], layer_type: str = "full_attention") -> dict[str, Any]:
    """The rotary settings of a layer type."""
    rope = config.get("rope_parameters") or {}
    settings: dict[str, Any] = rope.get(layer_type, rope)
    return settings


def _add_rope(writer: GGUFWriter, rope: Mapping[str, Any]) -> None:
    from gguf import RopeScalingType

    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind in ("default", "llama3", "proportional"):  # the factors of the others are a tensor
        return
    if kind not in ("linear", "yarn"):
        raise UsageError(f"rotary embeddings of the type {kind!r} are not written", fix=UPSTREAM)
    writer.add_rope_scaling_type(RopeScalingType(kind))
    writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        unknown = {"beta_fast", "beta_slow", "attention_factor", "mscale"} & {
            name for name, value in rope.items() if value is not None
        }
        if unknown:
            raise UsageError(
                f"the rotary settings {format_list(sorted(unknown))} are not written", fix=UPSTREAM
            )
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def make_rotary_factors(config: Mapping[str, Any]) -> Iterator[float]:
    """The divisor of each rotary frequency in models of Llama 3 and Gemma 4; none for others."""
    rope = read_rope(config)
    if rope.get("rope_type") == "proportional":
        yield from make_proportional_factors(config)
    if rope.get("rope_type") != "llama3":
        return
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    trained = rope["original_max_position_embeddings"]
    for place in range(0, config["head_dim"], 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (place / config["head_dim"])
        share = min(max((trained / wavelength - low) / (high - low), 0.0), 1.0)
        yield 1 / ((1 - share) / factor + share)
