"""Plans the memory of a training: pack size and activation checkpointing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medtask.display import format_bytes
from medtask.errors import ModelTooLarge
from medtask.training.recipe import Recipe

# Larger packs use more memory and are not faster.
PACK_TOKENS = {"cpu": 2048, "cuda": 16384, "mps": 4096}
WORKING_BYTES = 900_000_000  # Python, torch and the logits of one chunk
# For memory kept by allocators: trainings of the built-in model used up to 1.4 times the sum.
_MARGIN = 1.5
# Bytes per trained weight in addition to the weight: gradient and AdamW's two moments, in float32.
OPTIMIZER_BYTES = 12.0
_WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "4bit": 0.65}


@dataclass(frozen=True, slots=True)
class ModelDimensions:
    """The dimensions of a model that determine the memory per token.

    ``weights`` is the number of weights, ``ffn_size`` the width of the feed-forward layer.
    """

    weights: int
    layers: int
    hidden: int
    ffn_size: int
    heads: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Settings with which a training fits into memory.

    Attributes:
        pass_size: What is read in one forward and backward pass: tokens, or rows with mlx-lm.
        pass_text: The same for the user.
        checkpointing: Whether activations are recomputed in the backward pass.
        is_chosen: Whether checkpointing was not requested, but chosen to fit.
        needed_bytes: Estimated memory of the training.
        allowed_bytes: Memory that the training may use.
    """

    pass_size: int
    pass_text: str
    checkpointing: bool
    is_chosen: bool
    needed_bytes: int
    allowed_bytes: int

    @property
    def notes(self) -> tuple[str, ...]:
        """Choices made for the user."""
        note = "--checkpointing was chosen to stay within the memory (a third slower)"
        return (note,) if self.is_chosen else ()

    def describe(self) -> str:
        """The plan in one line."""
        again = ", activations recomputed" if self.checkpointing else ""
        return (
            f"memory {format_bytes(self.needed_bytes)} of {format_bytes(self.allowed_bytes)}: "
            f"{self.pass_text}{again}"
        )


def read_model_dimensions(config: Any, weights: int) -> ModelDimensions:
    """Read the dimensions from the configuration of a text model and the number of its weights."""
    hidden = int(config.hidden_size)
    ffn = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    return ModelDimensions(
        weights, int(config.num_hidden_layers), hidden, ffn, int(config.num_attention_heads)
    )


def count_trained_weights(dimensions: ModelDimensions, recipe: Recipe) -> int:
    """Approximate number of trained weights: an adapter has two matrices for each of the seven of a
    layer.
    """
    if not recipe.spec.adapter:
        return dimensions.weights
    ends = 4 * 2 * dimensions.hidden + 3 * (dimensions.hidden + dimensions.ffn_size)
    return recipe.rank * ends * min(recipe.layers or dimensions.layers, dimensions.layers)


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """The memory available to a training, and the format of the base's weights."""

    weight_format: str
    device: str
    allowed_bytes: int
    max_row_tokens: int


def plan_memory(dimensions: ModelDimensions, recipe: Recipe, limits: MemoryLimits) -> MemoryPlan:
    """Choose the pack size, and checkpointing if no pack fits without it.

    Raises:
        ModelTooLarge: No choice fits.
    """
    longest, allowed_bytes = limits.max_row_tokens, limits.allowed_bytes
    trained = count_trained_weights(dimensions, recipe)
    fixed = (
        dimensions.weights * _WEIGHT_BYTES[limits.weight_format]
        + trained * (OPTIMIZER_BYTES + 4.0)
        + WORKING_BYTES
    )
    most = PACK_TOKENS[limits.device.partition(":")[0]]
    for checkpointing in (True,) if recipe.checkpointing else (False, True):
        token = _count_token_bytes(dimensions, recipe, limits, checkpointing)
        fits = int((allowed_bytes / _MARGIN - fixed) / token)
        if fits >= min(longest, most):
            tokens = max(longest, min(most, fits))
            return MemoryPlan(
                tokens,
                f"{trained:,} trained weights, packs of {tokens:,} tokens",
                checkpointing,
                checkpointing and not recipe.checkpointing,
                int(fixed + tokens * token),
                allowed_bytes,
            )
    needed = int((fixed + longest * token) * _MARGIN)
    raise ModelTooLarge(
        f"training {recipe.base} by {recipe.method} needs about {format_bytes(needed)}; "
        f"{format_bytes(allowed_bytes)} may be used here",
        fix=f"choose {_list_remedies(recipe, limits)}",
    )


def _list_remedies(recipe: Recipe, limits: MemoryLimits) -> str:
    on_cuda = limits.device.startswith("cuda")
    remedies = ["--method qlora (on CUDA)"] if on_cuda and not recipe.spec.quantize else []
    remedies += [] if recipe.spec.adapter else ["--method lora"]
    if limits.max_row_tokens > 512:
        remedies.append(f"--row-tokens {limits.max_row_tokens // 2}")
    return ", or ".join([*remedies, "a smaller base model"])


def _count_token_bytes(
    dimensions: ModelDimensions, recipe: Recipe, limits: MemoryLimits, checkpointing: bool
) -> float:
    """Bytes kept per token of a pack until its backward pass: inputs of products, and scores."""
    number_bytes = 4.0 if limits.weight_format == "float32" else 2.0
    inner = dimensions.hidden * 12 + dimensions.ffn_size * 5 + recipe.rank * 7
    scores = dimensions.heads * min(limits.max_row_tokens, 512) * (4.0 / number_bytes)
    layer = (inner + scores) * number_bytes
    if checkpointing:  # the activations of one layer at a time, and the inputs of all layers
        return layer + dimensions.layers * dimensions.hidden * number_bytes
    return layer * dimensions.layers
