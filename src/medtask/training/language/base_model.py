"""Checks and loads the base model of a language model training."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medtask.engines.files.model_files import BUILT_IN_MODEL
from medtask.engines.load_options import LoadOptions
from medtask.engines.registry import choose_engine, find_trained_folders
from medtask.errors import UsageError
from medtask.hardware import inspect_machine
from medtask.training.recipe import Recipe

if TYPE_CHECKING:
    from medtask.engines.hf.engine import HfEngine


def check_language_base(recipe: Recipe) -> None:
    """Raise UsageError if the base's reference shows that it cannot be trained."""
    if len(recipe.bases) != 1:
        raise UsageError(
            f"--method {recipe.method} takes one base, and {len(recipe.bases)} are named",
            fix="name it with --base, once",
        )
    name, spec = recipe.base, choose_engine(recipe.base).spec
    path = Path(name.removeprefix("hf:").removeprefix("mlx:")).expanduser()
    if path.suffix == ".gguf":
        fix = (
            "name the model that the file was made from (org/name of the Hub, or a folder with "
            "safetensors)"
        )
        raise UsageError(f"{name} cannot be trained: a GGUF file holds quantised weights", fix=fix)
    is_language_model = spec.traits.family in ("language", "none")
    # Without transformers the built-in model has the llamacpp engine: the loader reports the
    # missing package.
    if is_language_model and not spec.traits.trainable and name != BUILT_IN_MODEL:
        fix = "name a model on this machine: org/name, a folder, or smollm2-135m"
        raise UsageError(
            f"{name} cannot be trained: the {spec.name} engine cannot train weights", fix=fix
        )
    if not is_language_model:
        fix = (
            "add --method encoder, or name another base"
            if spec.traits.family == "encoder"
            else "name a language model with --base"
        )
        raise UsageError(f"{name} is not a language model", fix=fix)
    if (path / "adapter_config.json").is_file():
        fix = (
            "name the adapter's base, or merge the two first (PEFT's merge_and_unload) and "
            "name the folder of that"
        )
        raise UsageError(f"{name} is an adapter, and adapters are not stacked", fix=fix)


def load_language_base(recipe: Recipe) -> HfEngine:
    """Load the base with the hf engine, which training and scoring share."""
    from medtask.engines.hf.load import load_hf

    options = LoadOptions(
        dtype=recipe.dtype,
        device=_choose_device(recipe),
        quantize=recipe.spec.quantize,
        memory=recipe.memory,
    )
    engine = load_hf(recipe.base.removeprefix("hf:"), options, trainable=True)
    engine.info = replace(engine.info, trained_folders=find_trained_folders(recipe.base))
    return engine


def _choose_device(recipe: Recipe) -> str:
    """The device of this process; with several processes, the GPU of its rank."""
    index = os.environ.get("LOCAL_RANK")
    several = (
        index is not None
        and recipe.device in ("auto", "cuda")
        and inspect_machine().accelerator == "cuda"
    )
    return f"cuda:{index}" if several else recipe.device


def resolve_base_reference(reference: str) -> str:
    """A base's reference as stored in a model folder: folders as absolute paths."""
    path = Path(reference).expanduser()
    return str(path.resolve()) if path.is_dir() else reference
