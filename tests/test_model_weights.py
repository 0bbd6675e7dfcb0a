"""Weights that are missing, unexpected, of another shape or invalid are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")

import torch
from safetensors.torch import load_file, save_file

import medtask
from medtask.errors import EngineError
from medtask.model_weights import check_loaded_model
from medtask.records import Branch, Message, Prompt
from support.tiny_models import save_model

Tensors = dict[str, torch.Tensor]
LAYER = "model.layers.1."
NORM = f"{LAYER}input_layernorm.weight"
UP = f"{LAYER}mlp.up_proj.weight"
PROMPT = Prompt(
    "1",
    (Message("user", "Pain in the left wrist. Which side?"),),
    (Branch("", ("left", "right")),),
    "Pain in the left wrist.",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", "llama")


def edit_weights(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def replace_tensor(
    name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[..., Tensors]:
    return lambda tensors: {**tensors, name: change(tensors[name]).contiguous()}


def put_nan(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[3] = torch.nan
    return changed


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda tensors: {name: t for name, t in tensors.items() if not name.startswith(LAYER)},
            r"9 tensors are missing: model\.layers\.1\.input_layernorm\.weight.* and 6 more",
        ),
        (
            lambda tensors: {f"base.{name}": tensor for name, tensor in tensors.items()},
            "tensors are missing",
        ),
        (
            lambda tensors: {**tensors, f"{LAYER}self_attn.q_proj.bias": torch.ones(32)},
            r"1 tensor is not part of such a model: .*q_proj\.bias",
        ),
        (
            replace_tensor(UP, lambda tensor: tensor[:-1]),
            r"another shape than the config says: .*up_proj\.weight \[47, 32\] for \[48, 32\]",
        ),
        (replace_tensor(NORM, put_nan), r"1 tensor is not finite .*input_layernorm\.weight"),
        (replace_tensor(UP, lambda t: t / 0), r"1 tensor is not finite .*up_proj\.weight"),
        (replace_tensor(UP, torch.zeros_like), r"1 tensor is all zero: .*up_proj\.weight"),
    ],
)
def test_damaged_weights_are_refused_by_name(
    folder: Path, edit: Callable[[Tensors], Tensors], message: str
) -> None:
    edit_weights(folder, edit)
    with pytest.raises(EngineError, match=message) as refusal:
        medtask.load_model(str(folder), dtype="float32")
    assert (refusal.value.exit_code, "fetch the model again" in refusal.value.fix) == (5, True)


@pytest.mark.parametrize(("layers", "message"), [(5, "are missing"), (3, "not part of such")])
def test_a_config_with_another_number_of_layers_is_refused(
    folder: Path, layers: int, message: str
) -> None:
    edit_config(folder, num_hidden_layers=layers)
    with pytest.raises(EngineError, match=message):
        medtask.load_model(str(folder), dtype="float32")


def test_parts_that_are_not_used_are_no_fault(folder: Path) -> None:
    edit_weights(
        folder,
        lambda tensors: {
            **tensors,
            "vision_tower.blocks.0.weight": torch.ones(4, 4),
            "model.vision_tower.patch.weight": torch.ones(4, 4),
            "v_head.summary.weight": torch.ones(1, 32),
            f"{LAYER}self_attn.rotary_emb.inv_freq": torch.ones(4),
        },
    )
    medtask.load_model(str(folder), dtype="float32").close()


def test_a_tied_output_layer_may_be_absent(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "tied", "gemma3", "gemma")
    assert not any(name.startswith("lm_head") for name in load_file(folder / "model.safetensors"))
    medtask.load_model(str(folder), dtype="float32").close()


def test_an_output_layer_that_is_not_tied_may_not_be_absent(folder: Path) -> None:
    edit_weights(folder, lambda t: {name: one for name, one in t.items() if "lm_head" not in name})
    with pytest.raises(EngineError, match=r"1 tensor is missing: lm_head\.weight"):
        medtask.load_model(str(folder), dtype="float32")


@pytest.mark.parametrize("family", ["llama", "gemma3", "bloom", "gpt_oss"])
def test_loading_twice_gives_equal_numbers(tmp_path: Path, family: str) -> None:
    folder = save_model(tmp_path / "model", family)
    found = []
    for _ in range(2):
        engine = medtask.load_model(str(folder), dtype="float32")
        (scores,) = engine.score([PROMPT])
        found.append(np.array(scores.branches[0].logprobs))  # type: ignore[union-attr]
        engine.close()
    # The last digits of a product can depend on where its operands lie in memory.
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["Bert", "Roberta", "Electra", "DistilBert"])
def test_an_encoder_may_be_stored_with_the_head_of_another_task(
    tmp_path: Path, family: str
) -> None:
    import transformers

    config = getattr(transformers, f"{family}Config")(
        vocab_size=420,
        hidden_size=32,
        dim=32,
        embedding_size=32,
        hidden_dim=48,
        intermediate_size=48,
        num_hidden_layers=2,
        n_layers=2,
        num_attention_heads=4,
        n_heads=4,
    )
    getattr(transformers, f"{family}ForMaskedLM")(config).save_pretrained(tmp_path)
    model, loading_info = transformers.AutoModel.from_pretrained(
        tmp_path, output_loading_info=True, ignore_mismatched_sizes=True
    )
    assert loading_info["unexpected_keys"]
    check_loaded_model(model, loading_info, tmp_path)
    edit_config(tmp_path, num_hidden_layers=1, n_layers=1)
    model, loading_info = transformers.AutoModel.from_pretrained(
        tmp_path, output_loading_info=True, ignore_mismatched_sizes=True
    )
    with pytest.raises(EngineError, match=r"not part of such a model: .*layer\.1\."):
        check_loaded_model(model, loading_info, tmp_path)
