"""The mlx engine, on any CPU, against plain passes of transformers over the same files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx_lm", reason="the mlx engine is not installed")
pytest.importorskip("torch", reason="the hf engine is not installed")

import mlx.core as mx
import torch
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.cache import BatchKVCache, BatchRotatingKVCache
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import dequantize_model, load_model, quantize_model, save

from medtask.engines.hf.engine import HfEngine
from medtask.engines.load_options import LoadOptions
from medtask.engines.mlx import model_runner as runner_module
from medtask.engines.mlx.engine import MlxEngine
from medtask.engines.mlx.load import load_mlx, translate_config
from medtask.errors import EngineError, InputError, MissingExtra, ModelNotFound, ModelTooLarge
from medtask.records import Branch, Fault, Limits, Message, Prompt, Status
from support.branches import BRANCHES
from support.reference_engine import (
    assert_sampling_depends_on_seed_and_record,
    assert_scores_match,
    generate_texts,
    load_reference_engine,
    score_prompts,
)
from support.tiny_models import make_tokenizer, save_model

TEXTS = (
    "headache after a fall",
    "x",
    "The patient was seen for pain in the left wrist. " * 6,
    "Operations on the eye, Operations on the ear. CT Brain/Neck angiography?",
    "ψ 🙂 مريض",
    "",
)
HEAD = (
    "Write what is wrong with the patient, in the order in which it was found, and nothing "
    "else.\n\nText: "
)
TEXT_LIMITS = Limits(max_tokens=30, stop_repetition=False)


def make_prompts(branches: tuple[Branch, ...] = (), texts: tuple[str, ...] = TEXTS) -> list[Prompt]:
    return [
        Prompt(str(row), (Message("user", HEAD + text),), branches, text)
        for row, text in enumerate(texts)
    ]


def save_family(folder: Path, family: str) -> Path:
    """See save_model; a Gemma whose hidden size has a root that bfloat16 holds, since mlx-lm rounds
    its embeddings' factor to it, and whose output is not tied to its input: a random model would
    say the last token again for ever.
    """
    save_model(folder, family, "gemma" if family == "gemma3" else "chatml")
    if family == "gemma3":
        from transformers import AutoModelForCausalLM, Gemma3TextConfig

        torch.manual_seed(7)
        config = {
            **json.loads((folder / "config.json").read_text()),
            "hidden_size": 64,
            "tie_word_embeddings": False,
        }
        AutoModelForCausalLM.from_config(
            Gemma3TextConfig(**config), dtype=torch.float32
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3"])
def engine_pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MlxEngine, HfEngine]:
    folder = save_family(tmp_path_factory.mktemp("models") / request.param, request.param)
    return load_mlx(f"mlx:{folder}"), load_reference_engine(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="module")
def engine(folder: Path) -> MlxEngine:
    return load_mlx(f"mlx:{folder}")


def test_scores_are_those_of_plain_passes(engine_pair: tuple[MlxEngine, HfEngine]) -> None:
    engine, plain = engine_pair
    assert engine.runner.batched
    assert_scores_match(engine, plain, make_prompts(BRANCHES))
    assert_scores_match(engine, plain, make_prompts(BRANCHES)[2:3])


def test_texts_are_those_of_transformers(engine_pair: tuple[MlxEngine, HfEngine]) -> None:
    engine, plain = engine_pair
    slow = generate_texts(plain, make_prompts(), TEXT_LIMITS)
    assert len({result.text for result in slow.values()}) > 1
    for row, result in generate_texts(engine, make_prompts(), TEXT_LIMITS).items():
        assert (result.text, result.finish_reason, result.tokens) == (
            slow[row].text,
            slow[row].finish_reason,
            slow[row].tokens,
        )
        assert result.logprob == pytest.approx(slow[row].logprob, abs=1e-3)
        assert result.tokens_read + result.tokens_reused >= slow[row].tokens_read


@pytest.mark.parametrize("most", [24, 90])
def test_how_many_are_read_at_once_changes_nothing(
    engine_pair: tuple[MlxEngine, HfEngine], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, plain = engine_pair
    texts = {
        row: result.text
        for row, result in generate_texts(engine, make_prompts(), TEXT_LIMITS).items()
    }
    monkeypatch.setattr(runner_module, "BUDGET_TOKENS", most)
    engine.runner.prefix_tokens = ()
    assert_scores_match(engine, plain, make_prompts(BRANCHES, TEXTS[:3]))
    assert {
        row: result.text
        for row, result in generate_texts(engine, make_prompts(), TEXT_LIMITS).items()
    } == texts


def test_what_rows_share_is_read_once(engine: MlxEngine) -> None:
    plan = engine.plan(make_prompts(BRANCHES))
    found = score_prompts(engine, make_prompts(BRANCHES)).values()
    read, reused = (
        sum(counts)
        for counts in zip(
            *((result.tokens_read, result.tokens_reused) for result in found), strict=True
        )
    )
    assert plan.shared_tokens > 20
    assert read < plan.shared_tokens + 1.5 * sum(plan.own_tokens)
    assert reused > 2 * read


def test_rows_that_known_ones_stood_beside_keep_their_numbers(engine: MlxEngine) -> None:
    everything = score_prompts(engine, make_prompts(BRANCHES))
    some = score_prompts(engine, make_prompts(BRANCHES), cached={"0", "3"})
    assert {row: some[row].branches for row in everything} == {
        row: result.branches for row, result in everything.items()
    }
    assert list(engine.score(make_prompts(BRANCHES), cached=set(everything))) == []
    assert generate_texts(
        engine, make_prompts(), TEXT_LIMITS, cached={"0", "3"}
    ).keys() == everything.keys() - {"0", "3"}
    assert list(engine.generate(make_prompts(), TEXT_LIMITS, cached=set(everything))) == []
    assert list(engine.generate([], TEXT_LIMITS)) == []


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_batches_that_leak_are_noticed_at_start_and_given_up(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_family(tmp_path, family)
    for kind in (BatchKVCache, BatchRotatingKVCache):
        monkeypatch.setattr(kind, "finalize", lambda cache: None)
    engine = load_mlx(str(folder))
    assert not engine.runner.batched
    assert "off" in str(engine.info.details["packing"])
    plain = load_reference_engine(folder)
    assert_scores_match(engine, plain, make_prompts(BRANCHES, TEXTS[:3]))
    assert (
        generate_texts(engine, make_prompts(), TEXT_LIMITS)["2"].text
        == generate_texts(plain, make_prompts(), TEXT_LIMITS)["2"].text
    )


def test_a_model_whose_caches_cannot_be_batched_is_read_row_by_row(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The result of an earlier probe of this folder is not used.
    monkeypatch.setattr(
        "medtask.engines.files.probe_results.find_probe_folder", lambda: tmp_path / "probes"
    )
    monkeypatch.delattr("mlx_lm.models.cache.KVCache.merge")
    engine = load_mlx(str(folder))
    assert not engine.runner.batched
    assert_scores_match(engine, load_reference_engine(folder), make_prompts(BRANCHES, TEXTS[:2]))
    assert len(generate_texts(engine, make_prompts(), TEXT_LIMITS)) == len(TEXTS)


def test_quantised_folders_are_read_as_their_weights_say(folder: Path, tmp_path: Path) -> None:
    model, config = load_model(folder)
    model, config = quantize_model(model, config, group_size=32, bits=4)
    save(tmp_path / "q4", folder, model, make_tokenizer("chatml"), config)
    make_tokenizer("chatml").save_pretrained(tmp_path / "q4")
    engine = load_mlx(f"mlx:{tmp_path / 'q4'}")
    assert engine.info.identity["quantize"] == "4bit"
    full = dequantize_model(load_model(tmp_path / "q4")[0])
    config = {name: value for name, value in config.items() if not name.startswith("quantization")}
    save(tmp_path / "whole", folder, full, make_tokenizer("chatml"), config)
    make_tokenizer("chatml").save_pretrained(tmp_path / "whole")
    assert_scores_match(engine, load_reference_engine(tmp_path / "whole"), make_prompts(BRANCHES))


def test_adapters_of_mlx_are_put_on(folder: Path, tmp_path: Path, engine: MlxEngine) -> None:
    settings = {
        "num_layers": 2,
        "fine_tune_type": "lora",
        "lora_parameters": {"rank": 4, "scale": 8.0, "dropout": 0.0},
    }
    model, config = load_model(folder)
    linear_to_lora_layers(model, settings["num_layers"], settings["lora_parameters"])
    mx.random.seed(3)
    weights = {
        name: mx.random.normal(value.shape) * 0.3
        for name, value in tree_flatten(model.parameters())
        if name.endswith(("lora_a", "lora_b"))
    }
    assert weights
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    mx.save_safetensors(str(adapter / "adapters.safetensors"), weights)
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    tuned = load_mlx(f"mlx:{folder}", LoadOptions(adapter=str(adapter)))
    assert tuned.info.identity.keys() - engine.info.identity.keys() == {"adapter"}
    model.load_weights(list(weights.items()), strict=False)
    model.update_modules(
        tree_unflatten(
            [
                (name, module.fuse())
                for name, module in model.named_modules()
                if hasattr(module, "fuse")
            ]
        )
    )
    fused = tmp_path / "fused"
    save(fused, folder, model, make_tokenizer("chatml"), config)
    make_tokenizer("chatml").save_pretrained(fused)
    assert_scores_match(tuned, load_reference_engine(fused), make_prompts(BRANCHES))
    moved = np.exp(score_prompts(tuned, make_prompts(BRANCHES))["0"].branches[0].logprobs) - np.exp(
        score_prompts(engine, make_prompts(BRANCHES))["0"].branches[0].logprobs
    )
    assert np.abs(moved).max() > 1e-3
    kept = {name: value for name, value in weights.items() if name != min(weights)}
    mx.save_safetensors(str(adapter / "adapters.safetensors"), kept)
    with pytest.raises(EngineError, match=r"1 tensor is missing: .*lora_a"):
        load_mlx(f"mlx:{folder}", LoadOptions(adapter=str(adapter)))
    with pytest.raises(InputError, match="no adapter of mlx-lm"):
        load_mlx(f"mlx:{folder}", LoadOptions(adapter=str(folder)))


def test_the_short_formats_are_kept_where_they_are_asked_for(folder: Path) -> None:
    engine = load_mlx(f"mlx:{folder}", LoadOptions(dtype="bfloat16"))
    assert engine.info.identity["dtype"] == "bfloat16"
    assert not engine.caps.batch_invariant
    assert len(score_prompts(engine, make_prompts(BRANCHES))) == len(TEXTS)


def test_a_schema_is_kept_to_with_quotes_from_the_text(engine: MlxEngine) -> None:
    schema = {
        "type": "object",
        "properties": {
            "side": {"enum": ["left", "right"]},
            "quote": {"type": ["string", "null"], "quote": True, "maxLength": 20},
        },
        "required": ["side", "quote"],
        "additionalProperties": False,
    }
    assert engine.caps.schema
    for limits in (Limits(120, schema=schema), Limits(120, schema=schema, temperature=1.5, seed=3)):
        for row, result in generate_texts(engine, make_prompts(), limits).items():
            value = json.loads(result.text)
            assert result.finish_reason == "stop"
            assert value["side"] in ("left", "right")
            assert value["quote"] is None or value["quote"] in TEXTS[int(row)]


def test_chance_depends_on_the_seed_and_the_record_alone(engine: MlxEngine) -> None:
    assert_sampling_depends_on_seed_and_record(
        engine, make_prompts(), replace(TEXT_LIMITS, temperature=1.0, top_p=0.9)
    )


def test_thoughts_end_where_the_family_ends_them(tmp_path: Path) -> None:
    engine = load_mlx(str(save_model(tmp_path, "llama", "thinking")))
    assert engine.caps.thinking_markers
    think = Limits(24, think=True, stop_repetition=False)
    free = generate_texts(engine, make_prompts()[2:3], think)["2"].text
    stop = free[len(free) // 2 :][:3]
    engine.chat = replace(engine.chat, thinking=replace(engine.chat.thinking, stop_texts=(stop,)))
    thoughts = generate_texts(engine, make_prompts()[2:3], think)["2"]
    assert (thoughts.text, thoughts.finish_reason) == (free[: free.index(stop)].rstrip(), "stop")
    thought = [replace(make_prompts(BRANCHES)[2], thoughts=thoughts.text)]
    assert len(score_prompts(engine, thought)["2"].branches) == len(BRANCHES)


def test_a_text_is_shown_while_it_is_written(engine: MlxEngine) -> None:
    pieces: list[str] = []
    result = generate_texts(engine, make_prompts()[2:3], TEXT_LIMITS, on_text=pieces.append)["2"]
    assert "".join(pieces) == result.text
    assert len(pieces) > 5


def test_rows_that_are_too_long_are_faults(engine: MlxEngine) -> None:
    prompts = make_prompts(BRANCHES[:1], ("short", "word " * 900))
    for results in (engine.score(prompts), engine.generate(prompts, TEXT_LIMITS)):
        by_row = {result.record_id: result for result in results}
        assert isinstance(by_row["1"], Fault)
        assert by_row["1"].status is Status.TOO_LONG
        assert not isinstance(by_row["0"], Fault)


def test_a_failing_model_is_an_engine_error_without_the_records_words(
    engine: MlxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("some kernel, and what stood in the record")

    monkeypatch.setattr(type(engine.runner.model), "__call__", fail)
    engine.runner.prefix_tokens = (0,)
    for run in (
        lambda: list(engine.score(make_prompts(BRANCHES))),
        lambda: list(engine.generate(make_prompts(), TEXT_LIMITS)),
    ):
        with pytest.raises(EngineError, match="RuntimeError") as caught:
            run()
        assert "record" not in str(caught.value)


def test_the_engine_reports_what_decides_its_answers(engine: MlxEngine) -> None:
    assert {name for name in engine.info.identity if not name.startswith("file:")} == {
        "model",
        "engine",
        "dtype",
        "quantize",
        "weights",
        "mlx_version",
        "mlx_lm_version",
    }
    assert engine.info.identity["dtype"] == "float32"
    assert engine.caps.batch_invariant
    assert engine.info.details["packed_against_plain"] <= 1e-4  # type: ignore[operator]
    assert engine.context_tokens == 512


def test_what_transformers_5_writes_is_reported_to_mlx_in_its_own_words() -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}
    assert translate_config({"rope_parameters": rope}) == {"rope_theta": 5e5, "rope_scaling": rope}
    assert (
        translate_config(
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}
        )
        == {}
    )
    gemma = {
        "model_type": "gemma3_text",
        "rope_parameters": {
            "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
        },
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    }
    output = {
        "rope_theta": 1e6,
        "rope_scaling": gemma["rope_parameters"]["full_attention"],  # type: ignore[index]
        "rope_local_base_freq": 1e4,
        "sliding_window_pattern": 3,
    }
    assert translate_config(gemma) == output
    assert translate_config({"text_config": gemma})["text_config"] == {**gemma, **output}
    with pytest.raises(ValueError, match="alternate"):
        translate_config({**gemma, "layer_types": ["full_attention", "sliding_attention"] * 3})


def test_invalid_weights_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    name = "model.layers.1.mlp.up_proj.weight"
    for number, (change, message) in enumerate(
        ((torch.nan, "not finite"), (0.0, "all zero")), start=1
    ):
        damaged = tmp_path / str(number)
        shutil.copytree(folder, damaged)
        tensors = load_file(damaged / "model.safetensors")
        tensors[name] = tensors[name] * change
        save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(EngineError, match=rf"1 tensor is {message}.*up_proj\.weight"):
            load_mlx(f"mlx:{damaged}")


def test_a_model_that_cannot_be_loaded_names_the_remedy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelNotFound):
        load_mlx(f"mlx:{tmp_path / 'nowhere'}")
    with pytest.raises(ModelTooLarge, match="may be used here"):
        load_mlx(f"mlx:{folder}", LoadOptions(memory=1000))
    with pytest.raises(EngineError, match="could not be loaded"):
        load_mlx(str(save_model(tmp_path / "bloom", "bloom")))
    peft = tmp_path / "peft"
    peft.mkdir()
    (peft / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    with pytest.raises(InputError, match="PEFT"):
        load_mlx(f"mlx:{peft}")
    find: Callable[..., Any] = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == "mlx_lm" else find(name, *more),
    )
    with pytest.raises(MissingExtra, match="mlx-lm"):
        load_mlx(f"mlx:{folder}")
