"""Tiny random models of real architectures, with a real tokenizer trained on the spot, saved as
folders to load.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

# Between them they have all that attention has: windows, sinks, heads that share keys, and plain
# attention. The other families are tests of scale.
_QUICK_FAMILIES = ("llama", "gemma2", "gpt_oss")

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% "
        "endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ "
        "raise_exception('no system turn') }}{% endif %}<start_of_turn>{{ 'model' if m['role'] == "
        "'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}{% if "
        "add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "thinking": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ "
        "m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt "
        "%}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking "
        "%}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    "inst": (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
    ),
}
_SPECIALS = [
    "<pad>",
    "<bos>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<start_of_turn>",
    "<end_of_turn>",
]
_TEXT = [
    (
        "CT Brain without contrast for headache after a fall, CT Brain/Neck angiography, MRI knee, "
        "MRI knee joint, Ultrasound of the liver."
    ),
    (
        "Operations on the eye, Operations on the ear, Operations on the nose; mouth; and pharynx. "
        "Choose exactly one of these labels:"
    ),
    (
        "The patient was seen for pain in the left wrist. Text: Answer with the label alone. user "
        "assistant model system"
    ),
] * 8


def mark_families(*families: str) -> list[Any]:
    """Parameters for model families, with the mark `scale` for all but a few."""
    return [
        family if family in _QUICK_FAMILIES else pytest.param(family, marks=pytest.mark.scale)
        for family in families
    ]


def make_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=_SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(_TEXT, trainer)
    named = {
        "bos_token": "<bos>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "additional_special_tokens": _SPECIALS[3:],
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=512, **named)
    tokenizer.chat_template = TEMPLATES[template] if template else None
    return tokenizer


def make_text_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer like Gemma's: its tokens are text with bars for blanks, and bytes otherwise."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Replace(" ", "▁")
    specials = [*_SPECIALS, "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=specials, show_progress=False)
    core.train_from_iterator(_TEXT, trainer)
    model = json.loads(core.to_str())["model"]
    vocabulary = model["vocab"]
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    merges = [tuple(merge) for merge in model["merges"]]
    core.model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True)
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    named = {"bos_token": "<bos>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=512,
        additional_special_tokens=_SPECIALS[3:],
        **named,
    )
    tokenizer.chat_template = TEMPLATES["gemma"]
    return tokenizer


def _shape(**more: Any) -> dict[str, Any]:
    shape = {
        "vocab_size": 420,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        # Wide, so that a random model has opinions: at the usual 0.02 all labels would be equally
        # likely and a leak would not show.
        "initializer_range": 0.4,
    }
    return {**shape, **more}


def make_model(family: str) -> Any:
    import transformers as t

    torch.manual_seed(7)
    layers = ["sliding_attention", "full_attention"] * 2
    slide = {"sliding_window": 24, "layer_types": layers}
    configs = {
        "llama": lambda: t.LlamaConfig(**_shape()),
        "mistral": lambda: t.MistralConfig(**_shape(sliding_window=None)),
        "gemma": lambda: t.GemmaConfig(**_shape()),
        "qwen2": lambda: t.Qwen2Config(**_shape()),
        "qwen3": lambda: t.Qwen3Config(**_shape()),
        "gemma2": lambda: t.Gemma2Config(
            **_shape(
                **slide,
                attn_logit_softcapping=5.0,
                final_logit_softcapping=8.0,
                query_pre_attn_scalar=8,
            )
        ),
        "gemma3": lambda: t.Gemma3TextConfig(**_shape(**slide, query_pre_attn_scalar=8)),
        "gemma4": lambda: t.Gemma4TextConfig(
            **_shape(
                **slide,
                global_head_dim=16,
                hidden_size_per_layer_input=8,
                vocab_size_per_layer_input=420,
                num_kv_shared_layers=2,
                final_logit_softcapping=8.0,
            )
        ),
        "gpt_oss": lambda: t.GptOssConfig(
            **_shape(**slide, num_local_experts=4, num_experts_per_tok=2)
        ),
        "granite": lambda: t.GraniteConfig(**_shape(logits_scaling=4.0)),
        "bloom": lambda: t.BloomConfig(
            vocab_size=420, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.4
        ),
    }
    return t.AutoModelForCausalLM.from_config(configs[family](), dtype=torch.float32).eval()


def save_model(folder: Path, family: str, template: str | None = "chatml") -> Path:
    """A model folder as save_pretrained writes it."""
    make_model(family).save_pretrained(folder)
    make_tokenizer(template).save_pretrained(folder)
    return folder
