"""The memory plan chooses rows per pass, then checkpointing, then says what to lower."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("mlx_lm", reason="the plan is for trainings with mlx-lm")

from medtask.errors import ModelTooLarge
from medtask.training.language.memory_plan import ModelDimensions
from medtask.training.mlx.memory_plan import MlxLimits, plan_mlx_memory
from medtask.training.recipe import Recipe

GEMMA = ModelDimensions(2_600_000_000, 26, 2304, 9216, 8)
RECIPE = Recipe(method="lora", bases=("mlx:org/gemma-2-2b-it",), batch=8)
LIMITS = MlxLimits(
    weight_bytes=1_500_000_000,
    number_bytes=2.0,
    allowed_bytes=24_000_000_000,
    max_row_tokens=600,
    paths=1,
    vocabulary=256_000,
)


def test_less_memory_means_fewer_rows_per_pass_then_checkpointing() -> None:
    plans = [
        plan_mlx_memory(GEMMA, RECIPE, replace(LIMITS, allowed_bytes=gigabytes * 1_000_000_000))
        for gigabytes in (80, 24, 12, 8)
    ]
    assert [plan.pass_size for plan in plans] == sorted(
        (plan.pass_size for plan in plans), reverse=True
    )
    assert plans[0].pass_size == 8
    assert plans[0].notes == ()
    assert not plans[0].checkpointing
    assert plans[-1].checkpointing
    assert "--checkpointing was chosen" in plans[-1].notes[0]
    assert all(plan.needed_bytes <= plan.allowed_bytes for plan in plans)


def test_fewer_layers_need_less_memory() -> None:
    limits = replace(LIMITS, allowed_bytes=8_000_000_000)
    assert plan_mlx_memory(GEMMA, RECIPE, limits).checkpointing
    assert not plan_mlx_memory(GEMMA, replace(RECIPE, layers=4), limits).checkpointing


def test_what_does_not_fit_says_what_to_lower() -> None:
    limits = replace(LIMITS, weight_bytes=5_200_000_000, allowed_bytes=6_000_000_000)
    with pytest.raises(ModelTooLarge, match="may be used here") as refusal:
        plan_mlx_memory(GEMMA, RECIPE, limits)
    fix = refusal.value.fix
    assert "--row-tokens to 300" in fix
    assert "--layers to 6" in fix
    assert "4 bits" in fix
    small = replace(LIMITS, weight_bytes=2_000_000_000, max_row_tokens=200, allowed_bytes=10**9)
    with pytest.raises(ModelTooLarge) as refusal:
        plan_mlx_memory(GEMMA, replace(RECIPE, layers=2), small)
    assert refusal.value.fix == "lower the size of the base model"
