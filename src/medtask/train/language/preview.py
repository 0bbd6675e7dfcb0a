"""What training a language model would take: steps, memory, and the command for several GPUs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from medtask.engines.files.locate import locate_model
from medtask.engines.files.weights import count_weights, unpack_gguf
from medtask.hardware import choose_device, inspect_machine
from medtask.train.language.fit import refuse_base
from medtask.train.language.memory import plan_memory, read_layout
from medtask.train.language.schedule import count_batches
from medtask.train.material import Material
from medtask.train.recipe import Recipe


def preview_language(materials: Sequence[Material], recipe: Recipe) -> list[str]:
    """Lines for a person. The base is located and its configuration is read, its weights are not.
    TooBig, UsageError as in training.
    """
    from transformers import AutoConfig

    refuse_base(recipe)
    machine = inspect_machine()
    files = locate_model(recipe.base)
    source = unpack_gguf(files.path)[0] if files.is_gguf else files.path
    layout = read_layout(AutoConfig.from_pretrained(source), count_weights(files))
    device = choose_device(recipe.device, machine)
    natural = "bfloat16" if not device.startswith("cpu") or machine.native_bf16 else "float32"
    number = (
        "4bit" if recipe.method == "qlora" else natural if recipe.dtype == "auto" else recipe.dtype
    )
    free = machine.accelerator_bytes if device.startswith("cuda") else machine.available_bytes
    plan = plan_memory(
        layout,
        recipe,
        number=number,
        device=device,
        allowed=min(free, recipe.memory) if recipe.memory is not None else free,
        longest=recipe.row_tokens,
    )
    tasks = [place for place, material in enumerate(materials) for _ in material.train]
    steps = max(1, round(count_batches(tasks, recipe.batch) * recipe.epochs))
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
