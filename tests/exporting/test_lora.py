"""Adapters merge into the weights as PEFT merges them."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from medtask.errors import EngineError, InputError
from medtask.exporting.lora import LoraAdapter
from medtask.exporting.source import CausalModel, open_source
from support.tiny_adapters import LORA_SETTINGS, save_adapter
from support.tiny_models import make_model, save_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning",
    "ignore:.*tied:UserWarning",
    "ignore:.*embedding layers:UserWarning",
)


@pytest.mark.parametrize("name", LORA_SETTINGS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_weights_are_those_that_peft_merges(tmp_path: Path, name: str, family: str) -> None:
    base = save_model(tmp_path / "base", family)
    adapter = save_adapter(tmp_path / "adapter", base, family, **LORA_SETTINGS[name])
    model = peft.PeftModel.from_pretrained(make_model(family), str(adapter))
    expected = model.merge_and_unload().state_dict()
    changed = 0
    with CausalModel(open_source(str(adapter))) as merged:
        for weight_name, weight in merged.iterate_weights():
            torch.testing.assert_close(weight, expected[weight_name], atol=1e-5, rtol=1e-5)
            changed += not torch.equal(weight, make_model(family).state_dict()[weight_name])
    assert changed


def change_config(adapter: Path, **changes: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "type IA3"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the weights of its base"),
        ({"init_lora_weights": "olora"}, "changes the weights of its base"),
        ({"alpha_pattern": {"(": 3}}, "incomplete"),
        ({"lora_alpha": "many"}, "incomplete"),
    ],
)
def test_adapters_that_cannot_be_merged_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    base = save_model(tmp_path / "base", "llama")
    adapter = save_adapter(tmp_path / "adapter", base, **LORA_SETTINGS["lora"])
    change_config(adapter, **changes)
    with pytest.raises(InputError, match=message):
        LoraAdapter(adapter, make_model("llama").state_dict().keys())


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    adapter = save_adapter(tmp_path / "adapter", base, **LORA_SETTINGS["lora"])
    names = [name for name in make_model("llama").state_dict() if "layers.3" not in name]
    with pytest.raises(EngineError, match="without a place in this model") as refusal:
        LoraAdapter(adapter, names)
    assert str(base) in refusal.value.fix
    # The experts of a mixture have a place in memory that their files do not name.
    assert "export the merged model" in refusal.value.fix


@pytest.mark.parametrize("prefix", ["", "model.language_model."], ids=["text", "parts"])
def test_names_of_a_model_with_several_parts_are_found(tmp_path: Path, prefix: str) -> None:
    base = save_model(tmp_path / "base", "llama")
    adapter = save_adapter(tmp_path / "adapter", base, **LORA_SETTINGS["lora"])
    if prefix:
        rename_modules(adapter, "base_model.model.model.", f"base_model.model.{prefix}")
    layers = make_model("llama").state_dict()
    weights = {f"language_model.{name}": one for name, one in layers.items()}
    # As in Gemma 3, whose vision tower has layers with the same names.
    weights |= {
        name.replace("model.layers", "vision_tower.layers"): one for name, one in layers.items()
    }
    merged = LoraAdapter(adapter, weights.keys())
    for module in ("mlp.up_proj", "self_attn.q_proj"):
        name = f"language_model.model.layers.2.{module}.weight"
        assert not torch.equal(merged.merge(name, weights[name]), weights[name])
        other = f"vision_tower.layers.2.{module}.weight"
        assert torch.equal(merged.merge(other, weights[other]), weights[other])


def rename_modules(adapter: Path, old: str, new: str) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name.replace(old, new): one for name, one in tensors.items()}, path)
