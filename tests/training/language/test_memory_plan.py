from __future__ import annotations

from types import SimpleNamespace

import pytest

from medtask.errors import ModelTooLarge
from medtask.training.language.memory_plan import (
    MemoryLimits,
    ModelDimensions,
    count_trained_weights,
    plan_memory,
    read_model_dimensions,
)
from medtask.training.recipe import Recipe

SMALL = ModelDimensions(weights=134_515_008, layers=30, hidden=576, ffn_size=1536, heads=9)
LARGE = ModelDimensions(weights=27_000_000_000, layers=62, hidden=5376, ffn_size=21504, heads=32)
GIGABYTE = 10**9


def test_the_layout_is_read_from_any_configuration() -> None:
    text = SimpleNamespace(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=4, intermediate_size=None
    )
    assert read_model_dimensions(text, 99) == ModelDimensions(99, 2, 8, 32, 4)


def test_an_adapters_weights_grow_with_its_rank() -> None:
    # What PEFT makes of the built-in model at rank 16 is 4,884,480; grouped key-value heads make it
    # less than counted here.
    assert 4_884_480 <= count_trained_weights(SMALL, Recipe(rank=16)) <= 1.1 * 4_884_480
    assert count_trained_weights(SMALL, Recipe(rank=32)) == 2 * count_trained_weights(
        SMALL, Recipe(rank=16)
    )
    assert count_trained_weights(SMALL, Recipe(method="full")) == SMALL.weights


def test_with_room_packs_are_as_large_as_they_are_worth() -> None:
    plan = plan_memory(SMALL, Recipe(), MemoryLimits("float32", "cpu", 24 * GIGABYTE, 600))
    assert (plan.pass_size, plan.checkpointing, plan.notes) == (2048, False, ())


def test_with_less_room_packs_shrink_and_then_activations_are_computed_again() -> None:
    sizes = [int(size * GIGABYTE) for size in (24, 6, 4.5, 3.2)]
    plans = [
        plan_memory(SMALL, Recipe(), MemoryLimits("float32", "cpu", size, 600)) for size in sizes
    ]
    assert [plan.checkpointing for plan in plans] == sorted(plan.checkpointing for plan in plans)
    assert plans[-1].checkpointing
    assert "--checkpointing" in plans[-1].notes[0]
    assert all(plan.needed_bytes <= plan.allowed_bytes and plan.pass_size >= 600 for plan in plans)


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(ModelTooLarge) as refusal:
        plan_memory(
            LARGE, Recipe(bases=("a/b",)), MemoryLimits("bfloat16", "cuda:0", 24 * GIGABYTE, 1024)
        )
    assert "qlora" in (refusal.value.fix or "")
    assert "--row-tokens 512" in (refusal.value.fix or "")
    plan = plan_memory(
        LARGE, Recipe(method="qlora"), MemoryLimits("4bit", "cuda:0", 48 * GIGABYTE, 1024)
    )
    assert plan.checkpointing
    with pytest.raises(ModelTooLarge) as refusal:
        plan_memory(
            SMALL,
            Recipe(method="full", bases=("x",)),
            MemoryLimits("float32", "cpu", 2 * GIGABYTE, 64),
        )
    assert "--method lora" in (refusal.value.fix or "")
