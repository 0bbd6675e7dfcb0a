"""Trained weights of a language model, an adapter or all of them, and their files."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtask.training.recipe import Recipe

WEIGHTS_FILE = "adapter_model.safetensors"


def add_adapter(model: Any, recipe: Recipe) -> Any:
    """Return a PeftModel with adapters on the linear layers but the head; the rest is frozen.

    LoRA: Hu et al. 2021 (arXiv 2106.09685); rsLoRA: Kalajdzievski 2023 (arXiv 2312.03732); DoRA:
    Liu et al. 2024 (arXiv 2402.09353); QLoRA: Dettmers et al. 2023 (arXiv 2305.14314). All
    implemented by PEFT.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.dropout,
        use_rslora=recipe.spec.scales_by_root,
        use_dora=recipe.method == "dora",
        target_modules=_choose_modules(model, recipe),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecations between libraries
        if recipe.spec.quantize:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return get_peft_model(model, config)


def _choose_modules(model: Any, recipe: Recipe) -> str | list[str]:
    """The modules that get an adapter: all linear ones, or those of the last layers."""
    if recipe.layers is None:
        return "all-linear"
    from torch import nn

    layers = model.get_decoder().layers
    last = {id(module) for layer in layers[-recipe.layers :] for module in layer.modules()}
    return [
        name
        for name, module in model.named_modules()
        if id(module) in last and isinstance(module, nn.Linear)
    ]


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """Saves and loads an adapter's matrices in checkpoints, in float32."""

    model: Any

    def save(self, folder: Path) -> None:
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        # Not "auto": PEFT would query the Hub to find out whether embeddings were trained too.
        found = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        state = {name: weight.detach().contiguous().cpu() for name, weight in found.items()}
        save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    def load(self, folder: Path) -> None:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(self.model, load_file(folder / WEIGHTS_FILE))


@dataclass(frozen=True, slots=True)
class FullWeights:
    """Saves and loads all weights of a model in checkpoints, in save_pretrained's format."""

    model: Any

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder, safe_serialization=True)

    def load(self, folder: Path) -> None:
        from safetensors.torch import load_file

        state = {
            name: weight
            for file in sorted(folder.glob("*.safetensors"))
            for name, weight in load_file(file).items()
        }
        missing, strange = self.model.load_state_dict(state, strict=False)
        tied = (
            set(self.model.all_tied_weights_keys)
            if hasattr(self.model, "all_tied_weights_keys")
            else set()
        )
        assert not strange and set(missing) <= tied, "a checkpoint does not match its model"


def write_adapter(model: Any, base: str, best_folder: Path, draft_folder: Path) -> None:
    """Write a PEFT folder of the best state.

    PEFT would store the base's local path, which for the built-in model is that of its dequantised
    copy; the folder must contain the user's reference.
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(draft_folder)
    shutil.copyfile(best_folder / WEIGHTS_FILE, draft_folder / WEIGHTS_FILE)


def write_full_model(best_folder: Path, draft_folder: Path, tokenizer: Any) -> None:
    """Write a model folder of the best state, with its tokenizer."""
    for file in best_folder.iterdir():
        if file.name != "best.json":
            shutil.copyfile(file, draft_folder / file.name)
    tokenizer.save_pretrained(draft_folder)
