"""PEFT adapters with random weights on the tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch

from support.tiny_models import make_model

LORA_SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": "all-linear"},
    "rslora": {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 6},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "dora of embeddings": {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {r"layers\.[01]\.mlp.*": 32},
    },
    "embeddings": {"target_modules": ["embed_tokens", "v_proj"]},
    "stored": {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "biases": {"target_modules": ["q_proj"], "bias": "all"},
}


def save_adapter(folder: Path, base: Path, family: str = "llama", **config: Any) -> Path:
    """An adapter with random weights on the tiny model in ``base``."""
    torch.manual_seed(3)
    settings = peft.LoraConfig(r=4, init_lora_weights=False, **config)
    model = peft.get_peft_model(make_model(family), settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "modules_to_save" in name or "magnitude" in name:
                weight.add_(0.1 * torch.rand_like(weight))
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder)
    return folder
