"""The engine answers alike with a model of medtask.networks and with one of transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

from transformers import AutoTokenizer

from medtask.engines.hf.engine import HfEngine
from medtask.engines.hf.load import load_hf
from medtask.engines.load_options import LoadOptions
from medtask.engines.packed_engine import PROBE_PROMPTS, compute_max_gap
from medtask.engines.tokens.chat_format import apply_chat_template
from medtask.engines.tokens.tokenizer import FileTokenizer, HfTokenizer
from medtask.networks.llama import LlamaNetwork
from medtask.networks.tokenizer_file import read_tokenizer_file
from medtask.records import Generated, Limits, Message, Scores
from support.tiny_models import save_model

OPTIONS = LoadOptions(dtype="float32", device="cpu")
TEXTS = (
    "Broken left wrist",
    "<|im_start|>user\nÖdem 漢字 \u200d🦴<|im_end|>",
    "",
    " two  blanks\n\n",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_model(tmp_path_factory.mktemp("model"), "llama")
    simplify_tokenizer(folder)
    return folder


def simplify_tokenizer(folder: Path) -> None:
    """Special tokens stand in tokenizer.json; the config of small tokenizers repeats them."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    for key in ("additional_special_tokens", "extra_special_tokens"):
        config.pop(key, None)
    file.write_text(json.dumps(config))


@pytest.fixture(scope="module")
def engines(folder: Path) -> Iterator[tuple[HfEngine, HfEngine]]:
    with (
        closing(load_hf(str(folder), OPTIONS)) as own,
        closing(load_hf(str(folder), OPTIONS, trainable=True)) as other,
    ):
        assert isinstance(own.model, LlamaNetwork)
        assert not isinstance(other.model, LlamaNetwork)
        yield own, other


def test_scores_are_equal(engines: tuple[HfEngine, HfEngine]) -> None:
    own, other = (list(engine.score(PROBE_PROMPTS)) for engine in engines)
    for first, second in zip(own, other, strict=True):
        assert isinstance(first, Scores)
        assert isinstance(second, Scores)
        assert first.branches == second.branches
        assert first.tokens_read == second.tokens_read


def test_reference_scores_are_equal(engines: tuple[HfEngine, HfEngine]) -> None:
    own, other = (engine.compute_reference(PROBE_PROMPTS) for engine in engines)
    assert compute_max_gap(own, other) < 1e-6


def test_texts_are_equal(engines: tuple[HfEngine, HfEngine]) -> None:
    own, other = (list(engine.generate(PROBE_PROMPTS, Limits(12))) for engine in engines)
    for first, second in zip(own, other, strict=True):
        assert isinstance(first, Generated)
        assert isinstance(second, Generated)
        assert (first.text, first.finish_reason) == (second.text, second.finish_reason)


def test_identity_and_limits_are_equal(engines: tuple[HfEngine, HfEngine]) -> None:
    own, other = engines
    assert own.info.identity == other.info.identity
    assert own.info.details["implementation"] == "medtask"
    assert own.context_tokens == other.context_tokens
    assert own.caps == other.caps
    assert own.get_eos_token_ids() == other.get_eos_token_ids()


def test_tokenizers_are_equal(folder: Path) -> None:
    file = read_tokenizer_file(folder)
    assert file is not None
    own, other = FileTokenizer(file), HfTokenizer(AutoTokenizer.from_pretrained(folder))
    tokens = other.encode(TEXTS)
    assert own.encode(TEXTS) == tokens
    for row in tokens:
        for keep in (False, True):
            assert own.decode(row, keep_special_tokens=keep) == other.decode(
                row, keep_special_tokens=keep
            )
    assert own.convert_id_to_token(5) == other.convert_id_to_token(5)
    for name in ("name", "chat_template", "bos_text", "eos_token", "eos_token_id"):
        assert getattr(own, name) == getattr(other, name)
    assert set(own.special_tokens) == set(other.special_tokens)
    assert own.special_token_ids == other.special_token_ids
    assert own.vocabulary_size == other.vocabulary_size
    assert own.vocabulary == other.vocabulary
    turns = [Message("user", "knee?"), Message("assistant", "wrist")]
    for prompt in (False, True):
        first, second = (
            apply_chat_template(tokenizer, turns, add_generation_prompt=prompt)
            for tokenizer in (own, other)
        )
        assert first == second


def test_grammars_are_compiled_alike(folder: Path) -> None:
    pytest.importorskip("llguidance")
    file = read_tokenizer_file(folder)
    assert file is not None
    own, other = FileTokenizer(file), HfTokenizer(AutoTokenizer.from_pretrained(folder))
    compiled = [one.to_llguidance(own.vocabulary_size, [2]) for one in (own, other)]
    assert compiled[0].tokenize_str("knee joint") == compiled[1].tokenize_str("knee joint")
    assert compiled[0].vocab_size == compiled[1].vocab_size
    assert compiled[0].eos_token == compiled[1].eos_token


def test_another_numeric_result_than_that_of_transformers_is_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "medtask.engines.files.probe_results.find_probe_folder", lambda: tmp_path / "probes"
    )
    monkeypatch.setattr("medtask.networks.llama.RmsNorm.forward", lambda norm, hidden: hidden)
    with closing(load_hf(str(folder), OPTIONS)) as engine:
        assert not isinstance(engine.model, LlamaNetwork)
        assert engine.packed
        assert np.isfinite(engine.info.details["packed_against_plain"])  # type: ignore[call-overload]


def test_the_second_load_imports_neither_transformers_nor_a_compiler(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "medtask" / "probes"
    monkeypatch.setattr("medtask.engines.files.probe_results.find_probe_folder", lambda: cache)
    load_hf(str(folder), OPTIONS).close()  # the first one
    script = f"""
import sys
import medtask
from medtask.engines.packed_engine import PROBE_PROMPTS
engine = medtask.load_model({str(folder)!r}, dtype="float32", device="cpu")
list(engine.score(PROBE_PROMPTS))
heavy = ("transformers", "sympy", "torch._dynamo", "sklearn", "pandas", "scipy")
print([name for name in heavy if name in sys.modules])
"""
    shown = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "[]\n"
