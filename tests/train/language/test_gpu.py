"""What only a CUDA device can train: 4-bit weights, and bfloat16."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import medtask
from lessons import make_desk, make_material, make_task
from medtask.engines.trained import write_trained
from medtask.train.language.fit import fit_language
from medtask.train.recipe import Recipe
from tiny_models import save_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
def test_qlora_learns_on_four_bit_weights(tmp_path: Path) -> None:
    base = save_model(tmp_path / "model", "llama")
    task, desk = make_task(tmp_path / "task"), make_desk(tmp_path)
    recipe = Recipe(method="qlora", bases=(str(base),), epochs=4, batch=8, rank=8, rate=1e-2)
    fitted = fit_language([make_material(task)], recipe, desk)
    checks = [
        point.validation_loss for point in desk.journal.points if point.validation_loss is not None
    ]
    assert min(checks[1:]) < checks[0]
    write_trained(desk.draft, fitted.trained)
    answers = list(
        medtask.predict(
            task, medtask.load_model(str(desk.draft), quantize="4bit"), [{"text": "CT of the knee"}]
        )
    )
    assert answers[0].value in ("knee", "wrist", "brain")


def test_bfloat16_weights_are_trained_through_a_float32_adapter(tmp_path: Path) -> None:
    base = save_model(tmp_path / "model", "gemma3", "gemma")
    desk = make_desk(tmp_path)
    recipe = Recipe(bases=(str(base),), epochs=4, batch=8, rank=8, rate=1e-2)
    fitted = fit_language([make_material(make_task(tmp_path / "task"))], recipe, desk)
    assert fitted.facts["dtype"] == "bfloat16"
    checks = [
        point.validation_loss for point in desk.journal.points if point.validation_loss is not None
    ]
    assert min(checks[1:]) < checks[0]
