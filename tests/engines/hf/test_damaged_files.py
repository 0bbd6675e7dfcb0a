"""Configs of models and adapters with wrong values: an error with a remedy, or a usable model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("peft", reason="peft is not installed")

from medtask.engines.registry import load_model
from medtask.errors import MedtaskError
from support.damaged_json import damage, list_damages
from support.tiny_adapters import save_adapter
from support.tiny_models import save_model

DAMAGES = 8  # of each file


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers' own, in peft
@pytest.mark.slow
def test_no_damage_of_a_config_ends_in_another_error_than_medtasks(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "llama")
    adapter = save_adapter(tmp_path / "adapter", model, target_modules="all-linear")
    dice, refused = random.Random(20), 0
    for folder, name in (
        (model, "config.json"),
        (model, "generation_config.json"),
        (model, "tokenizer_config.json"),
        (adapter, "adapter_config.json"),
    ):
        text = (folder / name).read_text()
        written = json.loads(text)
        for place, value in dice.sample(list_damages(written), DAMAGES):
            (folder / name).write_text(json.dumps(damage(written, place, value)))
            try:
                load_model(str(folder), dtype="float32").close()
            except MedtaskError as error:
                assert error.fix
                refused += 1
        (folder / name).write_text(text)
    assert 0 < refused < 4 * DAMAGES
