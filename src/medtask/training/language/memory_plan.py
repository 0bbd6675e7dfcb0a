"""What a training needs of a machine's memory, before anything is loaded; and how it is made to
fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medtask.display import format_bytes
from medtask.errors import ModelTooLarge
from medtask.training.recipe import Recipe

PACK_TOKENS = {
    "cpu": 2048,
    "cuda": 16384,
    "mps": 4096,
}  # more of them would be no faster, only larger
WORKING_BYTES = 900_000_000  # Python, torch and the logits of one piece
# What allocators keep beside what is asked of them: the built-in model's trainings were seen to
# take up to 1.4 times the sum.
_MARGIN = 1.5
# Bytes of a trained weight besides itself: its gradient and AdamW's two moments, in float32.
_OPTIMIZER_BYTES = 12.0
_WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "4bit": 0.65}


@dataclass(frozen=True, slots=True)
class ModelDimensions:
    """The sizes of a model that decide what a token costs. ``weights``: how many there are;
    ``ffn_size``: of the widest layer between.
    """

    weights: int
    layers: int
    hidden: int
    ffn_size: int
    heads: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """``pack_tokens``: tokens of one forward and backward pass. ``needed_bytes`` and
    ``allowed_bytes`` in bytes. ``notes``: what was chosen for the user.
    """

    pack_tokens: int
    checkpointing: bool
    trained_weights: int
    needed_bytes: int
    allowed_bytes: int
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """In a line, for a person."""
        again = ", activations computed again" if self.checkpointing else ""
        return (
            f"memory {format_bytes(self.needed_bytes)} of {format_bytes(self.allowed_bytes)}: "
            f"{self.trained_weights:,} trained weights, "
            f"packs of {self.pack_tokens:,} tokens{again}"
        )


def read_model_dimensions(config: Any, weights: int) -> ModelDimensions:
    """From a model's configuration and the number of its weights."""
    text = config.get_text_config()
    hidden = int(text.hidden_size)
    ffn = int(getattr(text, "intermediate_size", None) or 4 * hidden)
    return ModelDimensions(
        weights, int(text.num_hidden_layers), hidden, ffn, int(text.num_attention_heads)
    )


def count_trained_weights(dimensions: ModelDimensions, recipe: Recipe) -> int:
    """How many weights are trained, about: of an adapter's two matrices beside each of a layer's
    seven.
    """
    if recipe.method == "full":
        return dimensions.weights
    ends = 4 * 2 * dimensions.hidden + 3 * (dimensions.hidden + dimensions.ffn_size)
    return recipe.rank * ends * dimensions.layers


def plan_memory(
    dimensions: ModelDimensions,
    recipe: Recipe,
    *,
    weight_format: str,
    device: str,
    allowed_bytes: int,
    max_row_tokens: int,
) -> MemoryPlan:
    """How large packs may be, and whether activations have to be computed again.

    ``weight_format``: format of the weights; ``allowed_bytes``: bytes; ``max_row_tokens``: tokens
    of the longest row. TooBig where nothing fits.
    """
    trained = count_trained_weights(dimensions, recipe)
    fixed = (
        dimensions.weights * _WEIGHT_BYTES[weight_format]
        + trained * (_OPTIMIZER_BYTES + 4.0)
        + WORKING_BYTES
    )
    size = 2.0 if weight_format in ("bfloat16", "float16", "4bit") else 4.0
    most = PACK_TOKENS[device.partition(":")[0]]
    for checkpointing in (True,) if recipe.checkpointing else (False, True):
        token = _count_token_bytes(dimensions, size, recipe, checkpointing, max_row_tokens)
        fits = int((allowed_bytes / _MARGIN - fixed) / token)
        if fits >= min(max_row_tokens, most):
            tokens = max(max_row_tokens, min(most, fits))
            notes = (
                ()
                if recipe.checkpointing or not checkpointing
                else ("--checkpointing, to stay within the memory (a third slower)",)
            )
            return MemoryPlan(
                tokens, checkpointing, trained, int(fixed + tokens * token), allowed_bytes, notes
            )
    needed = int((fixed + max_row_tokens * token) * _MARGIN)
    lighter = [
        "--method qlora (on CUDA)"
        if recipe.method != "qlora" and device.startswith("cuda")
        else "",
        "--method lora" if recipe.method == "full" else "",
        f"--row-tokens {max_row_tokens // 2}" if max_row_tokens > 512 else "",
        "a smaller base model",
    ]
    raise ModelTooLarge(
        f"training {recipe.base} by {recipe.method} needs about {format_bytes(needed)}; "
        f"{format_bytes(allowed_bytes)} may be used here",
        fix=f"take {', or '.join(filter(None, lighter))}",
    )


def _count_token_bytes(
    dimensions: ModelDimensions,
    number_bytes: float,
    recipe: Recipe,
    checkpointing: bool,
    max_row_tokens: int,
) -> float:
    """Bytes that one token of a pack keeps until its backward pass: what each layer's products were
    made of, and its scores.
    """
    inner = dimensions.hidden * 12 + dimensions.ffn_size * 5 + recipe.rank * 7
    scores = dimensions.heads * min(max_row_tokens, 512) * (4.0 / number_bytes)
    layer = (inner + scores) * number_bytes
    if checkpointing:  # one layer's at a time, and what went into each
        return layer + dimensions.layers * dimensions.hidden * number_bytes
    return layer * dimensions.layers
