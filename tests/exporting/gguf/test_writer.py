"""GGUF files give the logits of transformers, and a planted fault in one is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("llama_cpp", reason="llama.cpp reads the written files")

import llama_cpp
from safetensors.torch import load_file, save_file

from medtask.engines.registry import load_model
from medtask.errors import EngineError, UsageError
from medtask.exporting.export import export
from medtask.exporting.gguf import architectures, writer
from medtask.exporting.gguf.architectures import ARCHITECTURES, find_architecture
from medtask.exporting.gguf.vocabulary import Vocabulary
from medtask.exporting.gguf.writer import write_gguf
from medtask.exporting.source import CausalModel, open_source
from medtask.exporting.targets import ExportRequest
from support.tiny_adapters import LORA_SETTINGS, save_adapter
from support.tiny_models import (
    TEMPLATES,
    make_model,
    make_text_tokenizer,
    make_tokenizer,
    save_model,
)

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma4"]
# llama.cpp computes the GELU of Gemma from a table of float16 numbers.
TOLERANCES = {"gemma": 2e-2, "gemma2": 2e-2, "gemma3": 2e-2, "gemma4": 2e-2}


def write_file(folder: Path, float_type: str) -> Path:
    path = folder / "model.gguf"
    with CausalModel(open_source(str(folder))) as model:
        write_gguf(model, path, float_type, "tiny")
    return path


def compute_logits(path: Path, tokens: list[int]) -> np.ndarray[Any, Any]:
    model = llama_cpp.Llama(
        str(path), logits_all=True, verbose=False, n_ctx=128, type_k=0, type_v=0
    )
    model.eval(tokens)
    found = np.array(model.scores[: len(tokens)])
    model.close()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    folder = save_model(tmp_path, family)
    tokens = torch.randint(5, 420, (40,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = make_model(family)(tokens[None]).logits[0].numpy()
    found = compute_logits(write_file(folder, "f32"), tokens.tolist())
    np.testing.assert_allclose(found, expected, atol=TOLERANCES.get(family, 1e-3))


def change_rope(model: Any) -> None:
    model.config.rope_parameters = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }


def test_the_rotary_factors_of_llama_3_are_those_of_transformers(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    model = make_model("llama")
    change_rope(model)
    model.config.save_pretrained(folder)
    tokens = torch.randint(5, 420, (100,), generator=torch.Generator().manual_seed(1))
    changed = type(model)(model.config).eval()
    changed.load_state_dict(model.state_dict())
    with torch.inference_mode():
        expected = changed(tokens[None]).logits[0].numpy()
    found = compute_logits(write_file(folder, "f32"), tokens.tolist())
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("float_type", ["f16", "bf16"])
def test_short_floats_are_as_exact_as_their_format(tmp_path: Path, float_type: str) -> None:
    folder = save_model(tmp_path, "qwen3")
    tokens = list(range(5, 30))
    exact = compute_logits(write_file(folder, "f32"), tokens)
    short = compute_logits(write_file(folder, float_type), tokens)
    assert 0 < np.abs(short - exact).max() < {"f16": 0.2, "bf16": 1.0}[float_type]


def test_unknown_architectures_are_refused_with_the_upstream_tool(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "granite")
    with pytest.raises(UsageError, match="'granite' cannot be written as GGUF") as refusal:
        write_file(folder, "f16")
    assert "convert_hf_to_gguf.py" in refusal.value.fix


def test_weights_that_do_not_fit_into_float16_are_refused(tmp_path: Path) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e5
    folder = save_model(tmp_path, "llama")
    model.save_pretrained(folder)
    with pytest.raises(UsageError, match="too large for float16"):
        write_file(folder, "f16")


@pytest.mark.parametrize("family", ["gemma3", "gemma4"])
def test_tokens_that_are_text_are_read_as_by_transformers(tmp_path: Path, family: str) -> None:
    folder = save_model(tmp_path / "base", family, "gemma")
    make_text_tokenizer().save_pretrained(folder)
    done = export(folder, to="gguf", quant="f32", out=tmp_path / "model.gguf", rows=8)
    assert done.parity is not None
    assert done.parity.passed


def test_the_default_one_of_several_chat_templates_is_written(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "base", "llama")
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = {"default": TEMPLATES["chatml"], "tool_use": "tools"}
    tokenizer.save_pretrained(folder)
    done = export(folder, to="gguf", quant="f32", out=tmp_path / "model.gguf", rows=8)
    assert done.parity is not None
    assert done.parity.passed


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"hidden_act": "gelu"}, "computes silu in such a model, not gelu"),
        ("gemma3", {"hidden_activation": "relu"}, "computes gelu_pytorch_tanh"),
        (
            "gemma3",
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                    "sliding_attention": {
                        "rope_type": "linear",
                        "factor": 8.0,
                        "rope_theta": 1e4,
                    },
                }
            },
            "'linear' in layers with a window",
        ),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(
    tmp_path: Path, family: str, changes: dict[str, object], message: str
) -> None:
    folder = save_model(tmp_path, family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UsageError, match=message):
        write_file(folder, "f16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_bidirectional_attention": "all"}, "bidirectional attention"),
        ({"attention_bias": True}, "biases of attention"),
        ({"per_layer_config": {"1": {"head_dim": 16}, "3": {"head_dim": 32}}}, "several values"),
    ],
)
def test_what_is_not_written_of_gemma_4_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = save_model(tmp_path, "gemma4")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UsageError, match=message):
        write_file(folder, "f16")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def add_buffers(weights: dict[str, torch.Tensor]) -> None:
    for layer in range(4):
        weights[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)


def remove_prefix(weights: dict[str, torch.Tensor]) -> None:
    for name in list(weights):
        weights[name.removeprefix("model.")] = weights.pop(name)


def add_other_parts(weights: dict[str, torch.Tensor]) -> None:
    weights["model.vision_tower.layer.weight"] = torch.ones(2, 2)
    weights["model.multi_modal_projector.mm_soft_emb_norm.weight"] = torch.ones(2)


@pytest.mark.parametrize("change", [add_buffers, remove_prefix, add_other_parts])
def test_names_of_other_versions_and_other_parts_are_understood(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    folder = save_model(tmp_path, "llama")
    expected = compute_logits(write_file(folder, "f32"), list(range(5, 30)))
    change_weights(folder, change)
    found = compute_logits(write_file(folder, "f32"), list(range(5, 30)))
    np.testing.assert_array_equal(found, expected)


def test_weights_that_have_no_place_are_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    change_weights(folder, lambda weights: weights.update({"extra.weight": torch.ones(2, 2)}))
    with pytest.raises(UsageError, match=r"no place for the weights extra\.weight"):
        write_file(folder, "f32")


@pytest.mark.parametrize("family", ["gemma", "gemma2"])
def test_an_output_layer_that_llama_cpp_does_not_have_is_refused(
    tmp_path: Path, family: str
) -> None:
    folder = save_model(tmp_path, family)

    def add_head(weights: dict[str, torch.Tensor]) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    change_weights(folder, add_head)
    write_file(folder, "f32")
    change_weights(folder, lambda weights: weights["lm_head.weight"].mul_(1.01))
    with pytest.raises(UsageError, match="no output layer beside the embeddings"):
        write_file(folder, "f32")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": 24}),
        (
            "qwen2",
            {
                "sliding_window": 24,
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention"] * 2,
            },
        ),
        ("qwen3", {"sliding_window": None, "use_sliding_window": False}),
    ],
)
def test_a_window_that_llama_cpp_does_not_have_is_the_longest_context(
    tmp_path: Path, family: str, changes: dict[str, object]
) -> None:
    folder = save_model(tmp_path, family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    engine = load_model(str(write_file(folder, "f32")))
    expected = changes["sliding_window"] or config["max_position_embeddings"]
    assert engine.context_tokens == expected
    request = ExportRequest(open_source(str(folder)), "f32", "tiny")
    assert writer.check(request, folder / "model.gguf") == []


Plant = Callable[[pytest.MonkeyPatch], None]


def plant_metadata(key: str, value: object) -> Plant:
    """A writer that stores another value for one key of the config."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = architectures.add_common_metadata

        def add_changed(file: Any, config: dict[str, Any]) -> None:
            original(file, {**config, key: value})

        patch.setattr(writer, "add_common_metadata", add_changed)

    return plant


def plant_vocabulary(**changes: Any) -> Plant:
    """A writer that stores a changed tokenizer."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = Vocabulary.add_to

        def add_changed(self: Vocabulary, file: Any) -> None:
            computed = {
                name: value(self) if callable(value) else value for name, value in changes.items()
            }
            original(replace(self, **computed), file)

        patch.setattr(Vocabulary, "add_to", add_changed)

    return plant


def plant_transposed(patch: pytest.MonkeyPatch) -> None:
    original = architectures.Architecture.convert

    def convert(self: Any, name: str, weight: Any, config: Any) -> Any:
        converted = original(self, name, weight, config)
        square = name.endswith("layers.1.self_attn.o_proj.weight")
        return converted.T.contiguous() if square else converted

    patch.setattr(architectures.Architecture, "convert", convert)


def plant_dropped_adapter(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("medtask.exporting.lora.LoraAdapter.merge", lambda self, name, weight: weight)


def plant_truncation(patch: pytest.MonkeyPatch) -> None:
    original = writer.write_gguf

    def write_truncated(model: Any, path: Path, *rest: Any) -> None:
        original(model, path, *rest)
        path.write_bytes(path.read_bytes()[:-5000])

    patch.setattr(writer, "write_gguf", write_truncated)


def drop_end(vocabulary: Vocabulary) -> dict[str, int]:
    return {
        name: token_id
        for name, token_id in vocabulary.special_ids.items()
        if name not in ("eos", "eot")
    }


FAULTS: dict[str, Plant] = {
    "rope theta": plant_metadata("rope_parameters", {"rope_theta": 1e6, "rope_type": "default"}),
    "norm epsilon": plant_metadata("rms_norm_eps", 1e-5),
    "vocabulary size": plant_metadata("vocab_size", 419),
    "chat template": plant_vocabulary(
        chat_template=lambda one: (
            one.chat_template.replace("user", "human")
            if "user" in one.chat_template
            else one.chat_template + "\n"
        )
    ),
    "double bos": plant_vocabulary(adds_bos=lambda one: not one.adds_bos),
    "missing end of turn": plant_vocabulary(special_ids=drop_end),
    "transposed projection": plant_transposed,
    "dropped adapter": plant_dropped_adapter,
    "truncated file": plant_truncation,
}


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_a_planted_fault_is_found_before_the_file_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    base = save_model(tmp_path / "base", "llama")
    adapter = save_adapter(tmp_path / "adapter", base, **LORA_SETTINGS["rslora"])
    out = tmp_path / "out" / "model.gguf"
    if fault is None:
        assert export(adapter, to="gguf", quant="f32", out=out, rows=8).parity is not None
        assert sorted(path.name for path in out.parent.iterdir()) == [
            "model.gguf",
            "model.gguf.README.md",
            "model.gguf.export.json",
        ]
        assert {path.stat().st_mode & 0o777 for path in out.parent.iterdir()} == {0o600}
        return
    FAULTS[fault](monkeypatch)
    with pytest.raises(EngineError):
        export(adapter, to="gguf", quant="f32", out=out, rows=8)
    assert not list(out.parent.iterdir())


def test_tokens_that_no_prompt_of_the_comparison_has_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_model(tmp_path / "base", "llama")
    path = base / "tokenizer.json"
    content = json.loads(path.read_text())
    model = content["model"]
    model["vocab"]["12"] = model["vocab"].pop("".join(model["merges"].pop()))
    model["merges"].append(["1", "2"])
    path.write_text(json.dumps(content))
    export(base, to="gguf", quant="f32", out=tmp_path / "model.gguf", rows=8)
    plant_vocabulary(splitter="smollm")(monkeypatch)  # splits digits
    with pytest.raises(EngineError, match="2 of 7 test texts have other tokens"):
        export(base, to="gguf", quant="f32", out=tmp_path / "other.gguf", rows=8)


def test_a_failed_comparison_can_be_published_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_model(tmp_path / "base", "llama")
    plant_transposed(monkeypatch)
    out = tmp_path / "model.gguf"
    done = export(base, to="gguf", quant="f32", out=out, rows=8, force=True)
    assert done.manifest.forced
    assert "published with `--force`" in done.report.read_text()


def test_every_architecture_has_a_test() -> None:
    types = {"gemma3": "gemma3_text", "gemma4": "gemma4_text"}
    assert sorted(types.get(family, family) for family in FAMILIES) == sorted(ARCHITECTURES)
    assert find_architecture({"model_type": "mistral"}) is ARCHITECTURES["llama"]


def test_the_embeddings_are_counted(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    path = write_file(folder, "f32")
    request = ExportRequest(open_source(str(folder)), "f32", "tiny")
    assert writer.check(request, path) == []
