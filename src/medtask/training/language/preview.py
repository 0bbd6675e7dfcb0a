"""Previews a language model training: steps, memory, the command for several GPUs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from medtask.engines.files.model_files import locate_model
from medtask.engines.files.weights import count_parameters, dequantize_gguf
from medtask.engines.hf.load_plan import choose_number_format
from medtask.hardware import choose_device, inspect_machine
from medtask.training.language.base_model import check_language_base
from medtask.training.language.batching import count_steps
from medtask.training.language.memory_plan import MemoryLimits, plan_memory, read_model_dimensions
from medtask.training.recipe import Recipe
from medtask.training.training_data import TrainingData


def preview_language(training_data: Sequence[TrainingData], recipe: Recipe) -> list[str]:
    """Describe the training in lines, without reading the base's weights.

    Raises:
        ModelTooLarge: The training does not fit into memory.
        UsageError: The base cannot be trained.
    """
    from transformers import AutoConfig

    check_language_base(recipe)
    machine = inspect_machine()
    files = locate_model(recipe.base)
    source = dequantize_gguf(files.path)[0] if files.is_gguf else files.path
    parameters = count_parameters(files)
    config = AutoConfig.from_pretrained(source).get_text_config()
    layout = read_model_dimensions(config, parameters)
    device = choose_device(recipe.device, machine)
    natural = choose_number_format(device, machine, parameters)
    number = recipe.spec.quantize or (natural if recipe.dtype == "auto" else recipe.dtype)
    free = machine.accelerator_bytes if device.startswith("cuda") else machine.available_bytes
    allowed = min(free, recipe.memory) if recipe.memory is not None else free
    plan = plan_memory(layout, recipe, MemoryLimits(number, device, allowed, recipe.row_tokens))
    steps = count_steps(training_data, recipe)
    command = shlex.join(["-m", "medtask", *[word for word in sys.argv[1:] if word != "--dry-run"]])
    return [
        (
            f"{recipe.base} by {recipe.method} on {device}, {number}: {steps:,} steps of "
            f"{recipe.batch} rows, rate {recipe.learning_rate:g}"
        ),
        f"{plan.describe()}, for rows of up to {recipe.row_tokens:,} tokens",
        *plan.notes,
        f"on several GPUs: accelerate launch --num_processes N {command}",
    ]
