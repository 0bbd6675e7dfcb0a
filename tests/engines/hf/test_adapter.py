"""Adapters as TRL, Unsloth and LLaMA-Factory save them: with a tokenizer, and added tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft", reason="PEFT applies adapters")

import peft
import torch
import transformers as t

import medtask
from medtask.engines.base import Engine
from medtask.engines.files.model_files import check_model_folder
from medtask.engines.hf.engine import HfEngine
from medtask.engines.registry import load_model
from medtask.errors import EngineError, InputError
from medtask.exporting.export import export
from medtask.records import Branch, Message, Prompt
from support.tiny_models import TEMPLATES, make_model, make_tokenizer, save_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning",
    "ignore:.*tied:UserWarning",
    "ignore:.*embedding layer:UserWarning",
)
ADDED = ["<|case|>", "<|answer|>"]
TEXT = "<|case|> pain in the left wrist <|answer|>"
PROMPT = Prompt("1", (Message("user", TEXT),), (Branch("", ("CT", "MRI")),), TEXT)


def save_tied_base(folder: Path) -> Path:
    config = make_model("llama").config
    config.tie_word_embeddings = True
    torch.manual_seed(7)
    t.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer("chatml").save_pretrained(folder)
    return folder


def save_foreign_adapter(
    folder: Path, base: Path, *, added: bool = False, with_embeddings: bool = True, **settings: Any
) -> tuple[Path, Any]:
    """An adapter with its tokenizer beside it; returns it with PEFT's model, which is not merged:
    PEFT merges the change of a tied layer into both.
    """
    tokenizer = t.AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATES["inst"]
    model = t.AutoModelForCausalLM.from_pretrained(base)
    if added:
        tokenizer.add_tokens(ADDED)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.manual_seed(3)
    target = settings.pop("target_modules", ["q_proj", "v_proj"])
    config = peft.LoraConfig(r=4, init_lora_weights=False, target_modules=target, **settings)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "modules_to_save" in name or "trainable_tokens" in name:
                weight.add_(0.3 * torch.rand_like(weight))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder, save_embedding_layers="auto" if with_embeddings else False)
    tokenizer.save_pretrained(folder)
    return folder, adapted.eval()


def score(engine: Engine) -> tuple[float, ...]:
    (scores,) = engine.score([PROMPT])
    return scores.branches[0].logprobs  # type: ignore[union-attr]


CASES: dict[str, dict[str, Any]] = {
    "a template of its own": {},
    "tokens added, embeddings stored": {"added": True},
    "tokens added and trained": {"added": True, "modules_to_save": ["embed_tokens", "lm_head"]},
    "embeddings and output layer apart": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "single tokens trained": {"trainable_token_indices": [3, 40, 41]},
    "embeddings trained alone": {"modules_to_save": ["embed_tokens"]},
    "output layer trained alone": {"modules_to_save": ["lm_head"]},
    "embeddings updated": {"target_modules": ["embed_tokens", "v_proj"]},
    "output layer updated": {"target_modules": ["lm_head", "v_proj"]},
    "both updated": {"target_modules": ["embed_tokens", "lm_head"]},
    "both updated and tied": {
        "target_modules": ["embed_tokens", "v_proj"],
        "ensure_weight_tying": True,
    },
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_it_answers_as_peft_does_and_its_merged_export_too(
    name: str, tied: bool, tmp_path: Path
) -> None:
    base = save_tied_base(tmp_path / "base") if tied else save_model(tmp_path / "base", "llama")
    adapter, expected = save_foreign_adapter(tmp_path / "adapter", base, **CASES[name])
    engine = load_model(str(adapter), dtype="float32")
    rendering = engine.render(PROMPT)
    assert rendering is not None
    assert rendering.prompt.startswith("[INST]")  # the adapter's template, not that of the base
    tokens = torch.tensor([rendering.prompt_tokens])
    with torch.inference_mode():
        logits = expected(input_ids=tokens).logits[0, -1]
        found = t.AutoModelForCausalLM.from_pretrained(
            export(adapter, to="merged", out=tmp_path / "merged", rows=4).path
        )(tokens).logits[0, -1]
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)
    assert score(load_model(str(tmp_path / "merged"), dtype="float32")) == pytest.approx(
        score(engine), abs=1e-4
    )
    assert isinstance(engine, HfEngine)
    engine.model.set_attn_implementation("eager")
    with torch.inference_mode():
        own = engine.model(input_ids=tokens).logits[0, -1]
    torch.testing.assert_close(own, logits, atol=1e-4, rtol=1e-4)


def test_an_updated_output_layer_is_read_in_16_bits_too(tmp_path: Path) -> None:
    base = save_tied_base(tmp_path / "base")
    adapter, expected = save_foreign_adapter(
        tmp_path / "adapter", base, target_modules=["lm_head", "v_proj"]
    )
    engine = load_model(str(adapter), dtype="bfloat16")
    assert isinstance(engine, HfEngine)
    layer = expected.get_output_embeddings()
    weights = layer.weight + layer.get_delta_weight("default")
    torch.testing.assert_close(engine.runner.head.weight.float(), weights, atol=0.02, rtol=0.02)


def test_added_tokens_without_embeddings_are_refused(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    adapter, _ = save_foreign_adapter(tmp_path / "adapter", base, added=True, with_embeddings=False)
    for attempt in (
        lambda: load_model(str(adapter)),
        lambda: export(adapter, to="merged", out=tmp_path / "merged"),
    ):
        with pytest.raises(InputError, match="422 tokens, and the embeddings 420") as refusal:
            attempt()
        assert "save_embedding_layers" in refusal.value.fix


def test_an_adapter_that_repeats_layers_is_refused(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    adapter, _ = save_foreign_adapter(
        tmp_path / "adapter", base, layer_replication=[[0, 3], [1, 4]]
    )
    with pytest.raises(InputError, match="repeats layers of its base"):
        load_model(str(adapter))


def test_a_quantised_base_is_refused_with_the_name_of_the_full_one(tmp_path: Path) -> None:
    base = save_model(tmp_path / "tiny-bnb-4bit", "llama")
    adapter, _ = save_foreign_adapter(tmp_path / "adapter", base)
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config))
    for attempt in (
        lambda: load_model(str(adapter)),
        lambda: export(adapter, to="merged", out=tmp_path / "merged"),
    ):
        with pytest.raises(InputError, match="stored quantised") as refusal:
            attempt()
        assert refusal.value.fix.endswith(f"{tmp_path / 'tiny'}")


def test_an_adapter_of_a_wider_base_is_refused(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    adapter, _ = save_foreign_adapter(tmp_path / "adapter", base)
    config = make_model("llama").config
    config.hidden_size, config.head_dim = 64, 16
    t.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "wide")
    make_tokenizer("chatml").save_pretrained(tmp_path / "wide")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "wide")
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    for attempt in (
        lambda: load_model(str(adapter)),
        lambda: export(adapter, to="merged", out=tmp_path / "merged"),
    ):
        with pytest.raises(EngineError, match="does not fit this model"):
            attempt()


def test_a_folder_that_holds_no_adapter_is_refused(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no adapter"):
        load_model(str(base), adapter=str(tmp_path / "empty"))
    assert medtask.load_model(str(base)).info.name == "hf"


def test_pickled_weights_beside_another_safetensors_file_are_not_loaded(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    folder, _ = save_foreign_adapter(tmp_path / "adapter", base)
    torch.save({}, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").rename(folder / "decoy.safetensors")
    with pytest.raises(InputError, match="pickled weights are not loaded"):
        load_model(str(folder))


def test_an_adapter_in_a_models_folder_is_refused(tmp_path: Path) -> None:
    """transformers would apply it, or load the base that it names."""
    base = save_model(tmp_path / "base", "llama")
    adapter, _ = save_foreign_adapter(tmp_path / "adapter", base)
    (base / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    with pytest.raises(InputError, match="other weights than those of its model"):
        check_model_folder(base)
