"""Gemma 4 as llama.cpp stores it: heads of two sizes, shared keys, and embeddings of each layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from medtask.errors import UsageError

if TYPE_CHECKING:
    from gguf import GGUFWriter

_FULL, _SLIDING = "full_attention", "sliding_attention"
UPSTREAM = "convert it with convert_hf_to_gguf.py of llama.cpp"
# Divides the frequency of dimensions that are not rotated, as llama.cpp's own converter writes it.
_NOT_ROTATED = 1e30


def with_full_attention_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the head size of layers without a window, which the common metadata has."""
    return {**config, "head_dim": _read_size(config, _FULL, "head_dim")}


def add_gemma4(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    """Write the metadata that Gemma 4 has beside the common metadata."""
    _check_config(config)
    layers, kinds = config["num_hidden_layers"], config["layer_types"]
    writer.add_sliding_window(config["sliding_window"])
    writer.add_sliding_window_pattern([kind == _SLIDING for kind in kinds])
    writer.add_rope_freq_base_swa(config["rope_parameters"][_SLIDING]["rope_theta"])
    head = _read_size(config, _SLIDING, "head_dim")
    writer.add_key_length_swa(head)
    writer.add_value_length_swa(head)
    writer.add_rope_dimension_count_swa(head)
    writer.add_embedding_length_per_layer_input(config.get("hidden_size_per_layer_input") or 0)
    shared = config.get("num_kv_shared_layers") or 0
    writer.add_shared_kv_layers(shared)
    counts = [_read_size(config, kind, "num_key_value_heads") for kind in kinds]
    if len(set(counts)) > 1:
        writer.add_head_count_kv(counts)
    if config.get("use_double_wide_mlp"):
        size = config["intermediate_size"]
        writer.add_feed_forward_length(
            [size if layer < layers - shared else 2 * size for layer in range(layers)]
        )
    if (cap := config.get("final_logit_softcapping")) is not None:
        writer.add_final_logit_softcapping(cap)


def make_proportional_factors(config: Mapping[str, Any]) -> Iterator[float]:
    """The divisor of each rotary frequency of layers without a window."""
    size = _read_size(config, _FULL, "head_dim")
    rotated = int(config["rope_parameters"][_FULL].get("partial_rotary_factor", 1.0) * size // 2)
    for place in range(size // 2):
        yield 1.0 if place < rotated else _NOT_ROTATED


def _read_size(config: Mapping[str, Any], kind: str, name: str) -> int:
    """A size of the layers of one kind, which must all have it."""
    overrides = config.get("per_layer_config") or {}
    sizes = {
        int((overrides.get(str(layer)) or overrides.get(layer) or {}).get(name, config[name]))
        for layer, layer_type in enumerate(config["layer_types"])
        if layer_type == kind
    }
    if len(sizes) > 1:
        raise UsageError(f"layers of the same kind have several values of {name}", fix=UPSTREAM)
    return sizes.pop() if sizes else int(config[name])


def _check_config(config: Mapping[str, Any]) -> None:
    """Raise UsageError for settings that are not written."""
    ropes = config["rope_parameters"]
    found = [
        (ropes[_FULL].get("rope_type"), "proportional", "rotary embeddings without a window"),
        (ropes[_SLIDING].get("rope_type", "default"), "default", "rotary embeddings"),
        (ropes[_FULL].get("factor") or 1.0, 1.0, "rotary factor"),
        (bool(config.get("enable_moe_block")), False, "experts"),
        (bool(config.get("attention_bias")), False, "biases of attention"),
        (config.get("use_bidirectional_attention") == "all", False, "bidirectional attention"),
    ]
    for value, expected, name in found:
        if value != expected:
            raise UsageError(
                f"Gemma 4 with {name} {value!r} is not written as GGUF here", fix=UPSTREAM
            )
