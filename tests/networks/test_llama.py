"""Llama without transformers computes the same numbers as transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

import torch
from transformers import AutoModelForCausalLM

from medtask.networks.llama import LlamaNetwork, load_llama
from support.tiny_models import make_model, save_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", "llama")


def set_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_equal_those_of_transformers(folder: Path, dtype: str, tied: bool) -> None:
    if tied:
        model = make_model("llama")
        model.config.tie_word_embeddings = True
        model.tie_weights()
        model.save_pretrained(folder)
    network = load_llama(folder, "cpu", dtype)
    assert network is not None
    assert str(network.dtype) == f"torch.{dtype}"
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="eager"
    ).eval()
    tokens = torch.randint(0, network.config.vocab_size, (1, 40))
    with torch.inference_mode():
        assert torch.equal(network(tokens).logits, model(tokens, use_cache=False).logits)
    assert network.get_memory_footprint() == sum(
        parameter.numel() * parameter.element_size() for parameter in model.parameters()
    )
    assert network.generation_config.eos_token_id == model.generation_config.eos_token_id


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "mistral"},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"attention_bias": True},
        {"hidden_act": "gelu"},
        {"a_new_setting": 1},
        {"vocab_size": 7},
        {"num_hidden_layers": 1},
    ],
)
def test_a_model_that_is_not_known_is_left_to_transformers(
    folder: Path, values: dict[str, Any]
) -> None:
    assert isinstance(load_llama(folder, "cpu", "float32"), LlamaNetwork)
    set_config(folder, **values)
    assert load_llama(folder, "cpu", "float32") is None
