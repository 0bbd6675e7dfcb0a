"""What only a CUDA device can train: 4-bit weights, and bfloat16."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import medtask
from medtask.engines.model_metadata import write_model_metadata
from medtask.training.language.fit import fit_language
from medtask.training.recipe import Recipe
from support.small_trainings import make_task, make_training_context, make_training_data
from support.tiny_models import save_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
def test_qlora_learns_on_four_bit_weights(tmp_path: Path) -> None:
    base = save_model(tmp_path / "model", "llama")
    task, context = make_task(tmp_path / "task"), make_training_context(tmp_path)
    recipe = Recipe(method="qlora", bases=(str(base),), epochs=4, batch=8, rank=8, rate=1e-2)
    fitted = fit_language([make_training_data(task)], recipe, context)
    checks = [
        point.validation_loss for point in context.log.points if point.validation_loss is not None
    ]
    assert min(checks[1:]) < checks[0]
    write_model_metadata(context.draft_folder, fitted.trained_model)
    answers = list(
        medtask.predict(
            task,
            medtask.load_model(str(context.draft_folder), quantize="4bit"),
            [{"text": "CT of the knee"}],
        )
    )
    assert answers[0].value in ("knee", "wrist", "brain")


def test_bfloat16_weights_are_trained_through_a_float32_adapter(tmp_path: Path) -> None:
    base = save_model(tmp_path / "model", "gemma3", "gemma")
    context = make_training_context(tmp_path)
    recipe = Recipe(bases=(str(base),), epochs=4, batch=8, rank=8, rate=1e-2)
    fitted = fit_language([make_training_data(make_task(tmp_path / "task"))], recipe, context)
    assert fitted.facts["dtype"] == "bfloat16"
    checks = [
        point.validation_loss for point in context.log.points if point.validation_loss is not None
    ]
    assert min(checks[1:]) < checks[0]
