"""The scale of LoRA adapters, for all libraries that train them."""

from __future__ import annotations

import math

from medtask.training.recipe import Recipe


def choose_lora_alpha(recipe: Recipe) -> float:
    """LoRA's alpha: the recipe's, or 16 for rsLoRA (divided by the root of the rank) and twice the
    rank for LoRA (divided by the rank).

    AdamW's steps have a fixed size, so the update of an rsLoRA adapter grows with alpha times the
    root of the rank: with alpha equal to the rank, small ranks would train too slowly and large
    ones diverge.
    """
    if recipe.alpha is not None:
        return recipe.alpha
    return 16.0 if recipe.spec.scales_by_root else 2.0 * recipe.rank


def choose_lora_scale(recipe: Recipe) -> float:
    """The factor of an adapter's product, for libraries without an alpha."""
    rank = math.sqrt(recipe.rank) if recipe.spec.scales_by_root else recipe.rank
    return choose_lora_alpha(recipe) / rank
