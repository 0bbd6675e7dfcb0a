"""Plans the memory of a training with mlx-lm: rows per pass, and activation checkpointing."""

from __future__ import annotations

from dataclasses import dataclass

from medtask.display import format_bytes, format_count
from medtask.errors import ModelTooLarge
from medtask.training.language.memory_plan import (
    OPTIMIZER_BYTES,
    WORKING_BYTES,
    MemoryPlan,
    ModelDimensions,
    count_trained_weights,
)
from medtask.training.recipe import Recipe

# For memory kept by mlx's allocator, and for temporary results.
_MARGIN = 1.4
_MAX_ROWS = 16  # more rows per pass take more memory and are not faster
_LOGITS_COPIES = 4  # logits, in float32, their exponentials, and both of their gradients


@dataclass(frozen=True, slots=True)
class MlxLimits:
    """What a training may use.

    Attributes:
        weight_bytes: The memory of the base's weights.
        number_bytes: Bytes of one activation.
        allowed_bytes: The memory that the training may use.
        max_row_tokens: Tokens of the longest row.
        paths: Paths that are read for one row, each from its first token.
        vocabulary: The number of logits.
    """

    weight_bytes: int
    number_bytes: float
    allowed_bytes: int
    max_row_tokens: int
    paths: int
    vocabulary: int


def plan_mlx_memory(dimensions: ModelDimensions, recipe: Recipe, limits: MlxLimits) -> MemoryPlan:
    """Choose the rows per pass, and checkpointing if not even one row fits without it.

    Raises:
        ModelTooLarge: No choice fits; the remedy names what to lower.
    """
    trained = count_trained_weights(dimensions, recipe)
    fixed = limits.weight_bytes + trained * (OPTIMIZER_BYTES + 4.0) + WORKING_BYTES
    for checkpointing in (True,) if recipe.checkpointing else (False, True):
        row = _count_row_bytes(dimensions, recipe, limits, checkpointing=checkpointing)
        rows = min(recipe.batch, _MAX_ROWS, int((limits.allowed_bytes / _MARGIN - fixed) / row))
        if rows >= 1:
            return MemoryPlan(
                rows,
                f"{format_count(rows, 'row')} per pass",
                checkpointing,
                checkpointing and not recipe.checkpointing,
                int((fixed + rows * row) * _MARGIN),
                limits.allowed_bytes,
            )
    raise ModelTooLarge(
        f"training {recipe.base} by {recipe.method} needs about "
        f"{format_bytes(int((fixed + row) * _MARGIN))}; "
        f"{format_bytes(limits.allowed_bytes)} may be used here",
        fix=f"lower {_list_remedies(dimensions, recipe, limits)}",
    )


def _list_remedies(dimensions: ModelDimensions, recipe: Recipe, limits: MlxLimits) -> str:
    layers = min(recipe.layers or dimensions.layers, dimensions.layers)
    remedies = []
    if limits.max_row_tokens > 256:
        remedies.append(f"--row-tokens to {limits.max_row_tokens // 2}")
    if layers > 4:
        remedies.append(f"--layers to {max(4, layers // 4)}")
    if limits.weight_bytes > dimensions.weights:  # more than 8 bits each
        remedies.append(
            "the weights to 4 bits (`medtask export BASE --to mlx --quant 4bit`, or a base of "
            "mlx-community)"
        )
    return ", or ".join([*remedies, "the size of the base model"])


def _count_row_bytes(
    dimensions: ModelDimensions, recipe: Recipe, limits: MlxLimits, *, checkpointing: bool
) -> float:
    """Bytes that are kept for one row until its backward pass."""
    tokens, number = limits.max_row_tokens, limits.number_bytes
    inner = dimensions.hidden * 12 + dimensions.ffn_size * 5 + recipe.rank * 7
    scores = dimensions.heads * tokens * 2.0  # before and after the softmax
    layer = (inner + scores) * number
    # Layers below the first adapter have no gradient, and keep nothing.
    layers = min(recipe.layers or dimensions.layers, dimensions.layers)
    kept = (
        layer + layers * dimensions.hidden * number
        if checkpointing and recipe.spec.adapter
        else layer * layers
    )
    logits = limits.vocabulary * 4.0 * _LOGITS_COPIES
    return tokens * limits.paths * (kept + logits)
