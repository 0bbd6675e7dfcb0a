"""What of a language model is trained: small matrices beside its own (an adapter), or all of its
weights; and both as files.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtask.training.recipe import Recipe

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def choose_lora_alpha(recipe: Recipe) -> float:
    """LoRA's alpha: what was given, else 16 where it is divided by the rank's root (rsLoRA), twice
    the rank where by the rank (LoRA).

    Behind AdamW, whose steps are all of one size, what an adapter adds grows with alpha times the
    root of the rank (rsLoRA): with an alpha as large as the rank, small ranks would hardly learn,
    and large ones run away.
    """
    if recipe.alpha is not None:
        return recipe.alpha
    return 16.0 if recipe.method in ("rslora", "qlora") else 2.0 * recipe.rank


def add_adapter(model: Any, recipe: Recipe) -> Any:
    """A PeftModel around a causal language model, whose linear layers (but not its head) get
    adapters; the rest is frozen.

    LoRA: Hu et al. 2021 (arXiv 2106.09685); rsLoRA: Kalajdzievski 2023 (arXiv 2312.03732); DoRA:
    Liu et al. 2024 (arXiv 2402.09353); QLoRA: Dettmers et al. 2023 (arXiv 2305.14314). By PEFT.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=choose_lora_alpha(recipe),
        lora_dropout=recipe.dropout,
        use_rslora=recipe.method in ("rslora", "qlora"),
        use_dora=recipe.method == "dora",
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what libraries announce to each other
        if recipe.method == "qlora":
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return get_peft_model(model, config)


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """An adapter's matrices in checkpoints: float32, by themselves."""

    model: Any

    def save(self, folder: Path) -> None:
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        # Not "auto": to find out whether embeddings were trained too, PEFT would look the base up
        # on the Hub.
        found = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        state = {name: weight.detach().contiguous().cpu() for name, weight in found.items()}
        save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    def load(self, folder: Path) -> None:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(self.model, load_file(folder / WEIGHTS_FILE))


@dataclass(frozen=True, slots=True)
class FullWeights:
    """All weights of a model in checkpoints, as save_pretrained writes them."""

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
        assert not strange and set(missing) <= tied, "a checkpoint holds the weights of its model"


def write_adapter(model: Any, base: str, best_folder: Path, draft_folder: Path) -> None:
    """A PEFT folder of the best state: configuration, and the matrices as they were trained.

    PEFT names the base by a path of its own (the built-in model's would be that of its unpacked
    copy): it is the user's reference that has to stand there.
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(draft_folder)
    shutil.copyfile(best_folder / WEIGHTS_FILE, draft_folder / WEIGHTS_FILE)


def write_full_model(best_folder: Path, draft_folder: Path, tokenizer: Any) -> None:
    """A whole model's folder of the best state, with its tokenizer."""
    for file in best_folder.iterdir():
        if file.name != "best.json":
            shutil.copyfile(file, draft_folder / file.name)
    tokenizer.save_pretrained(draft_folder)
