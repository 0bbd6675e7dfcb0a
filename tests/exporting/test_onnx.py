"""Encoders in ONNX format answer as torch does, in any batch, and without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxscript", reason="torch exports with onnxscript")
pytest.importorskip("onnxruntime", reason="onnxruntime reads the written models")

import torch
import transformers as t

import medtask
from medtask.engines.encoder.onnx_model import ONNX_FILE, OnnxSettings
from medtask.errors import InputError, UsageError
from medtask.exporting.export import ExportedModel, export, verify_export
from medtask.tasks.task import Task
from medtask.training.trained_model import TrainedModel
from support.small_trainings import NEW_TEXTS, PARTS, TAGS, TEXTS, make_rows, make_task
from support.tiny_encoders import make_tokenizer, save_sentence_encoder

WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None  # an import of them fails
import medtask
task = medtask.load_task(sys.argv[1])
model = medtask.load_model(sys.argv[2])
rows = [{"text": text} for text in json.loads(sys.argv[3])]
answers = medtask.predict(task, model, rows, calibrated=False)
print(json.dumps([dict(answer.probabilities) for answer in answers]))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = {"Pooling": {"pooling_mode_mean_tokens": True}, "Normalize": {}}
    return save_sentence_encoder(tmp_path_factory.mktemp("base"), [*TEXTS, *NEW_TEXTS], parts)


@pytest.fixture(scope="module", params=["label", pytest.param("labels", marks=pytest.mark.scale)])
def exported(
    request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Task, TrainedModel, ExportedModel]:
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    task = make_task(folder / "task", kind, PARTS if kind == "label" else TAGS)
    model = medtask.train(
        task,
        make_rows(kind=kind),
        base=str(base),
        method="encoder",
        epochs=1,
        rate=3e-3,
        batch=8,
        out=folder / "model",
    )
    return task, model, export(model, to="onnx", out=folder / "onnx", rows=8)


def predict(task: Task, folder: Path, texts: Sequence[str] = NEW_TEXTS) -> list[dict[str, float]]:
    engine = medtask.load_model(str(folder))
    rows = [{"text": text} for text in texts]
    answers = medtask.predict(task, engine, rows, calibrated=False)
    return [dict(answer.probabilities or {}) for answer in answers]


def test_a_trained_encoder_gives_the_same_probabilities(
    exported: tuple[Task, TrainedModel, ExportedModel],
) -> None:
    task, model, done = exported
    assert done.parity is not None
    assert done.parity.mean_kl < 1e-8
    for found, expected in zip(predict(task, done.path), predict(task, model.path), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    assert medtask.load_model(str(done.path)).info.name == "onnx"
    assert verify_export(done.path) == []


def test_torch_and_transformers_are_not_needed(
    exported: tuple[Task, TrainedModel, ExportedModel],
) -> None:
    task, model, done = exported
    assert task.source
    command = [sys.executable, "-c", WITHOUT_TORCH, str(task.source), str(done.path)]
    process = subprocess.run(
        [*command, json.dumps(NEW_TEXTS)], capture_output=True, text=True, check=True
    )
    for found, expected in zip(json.loads(process.stdout), predict(task, model.path), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_changed_file_is_refused(
    exported: tuple[Task, TrainedModel, ExportedModel], tmp_path: Path
) -> None:
    _, _, done = exported
    shutil.copytree(done.path, tmp_path / "copy")
    file = tmp_path / "copy" / ONNX_FILE
    file.write_bytes(file.read_bytes()[:-100])
    assert verify_export(tmp_path / "copy") == [f"{ONNX_FILE} is changed"]
    with pytest.raises(InputError, match="not the file that training wrote"):
        medtask.load_model(str(tmp_path / "copy"))


def test_quantised_numbers_do_not_depend_on_the_other_texts(
    exported: tuple[Task, TrainedModel, ExportedModel], tmp_path: Path
) -> None:
    task, model, full = exported
    done = export(model, to="onnx", quant="q8", out=tmp_path / "q8", rows=8, force=True)
    assert done.manifest.quantization == "q8"
    assert predict(task, done.path, NEW_TEXTS) == [
        predict(task, done.path, [text])[0] for text in NEW_TEXTS
    ]
    assert (done.path / ONNX_FILE).stat().st_size < (full.path / ONNX_FILE).stat().st_size
    assert predict(task, done.path) != predict(task, full.path)


def test_a_sentence_encoder_compares_texts_as_before(base: Path, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    done = export(base, to="onnx", out=tmp_path / "onnx", rows=8)
    for found, expected in zip(predict(task, done.path), predict(task, base), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UsageError, match="is an export") as refusal:
        export(done.path, to="mlflow", out=tmp_path / "again")
    assert "exported from" in refusal.value.fix
    (done.path / ONNX_FILE).write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be loaded"):
        medtask.load_model(str(done.path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"output": "tokens", "outputs": "3"}, "no valid values for output, outputs"),
    ],
)
def test_settings_that_are_not_valid_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    settings = OnnxSettings(output="logits", outputs=3, quantization="f32", max_tokens=64, pad_id=0)
    content = settings.model_dump() | changes
    (tmp_path / "onnx.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        medtask.load_model(str(tmp_path))


def test_a_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be exported --to onnx"):
        export("smollm2-135m", to="onnx", out=tmp_path / "onnx")


SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES: dict[str, tuple[Any, dict[str, Any]]] = {
    "roberta": (t.RobertaConfig, {**SHAPE, "intermediate_size": 48}),
    "distilbert": (t.DistilBertConfig, {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    "deberta-v2": (
        t.DebertaV2Config,
        {
            **SHAPE,
            "intermediate_size": 48,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
        },
    ),
    "modernbert": (t.ModernBertConfig, {**SHAPE, "intermediate_size": 48}),
    "electra": (t.ElectraConfig, {**SHAPE, "intermediate_size": 48, "embedding_size": 32}),
}


@pytest.mark.scale
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_classifiers_of_other_architectures_give_the_same_probabilities(
    name: str, tmp_path: Path
) -> None:
    config_class, shape = ARCHITECTURES[name]
    tokenizer = make_tokenizer([*TEXTS, *NEW_TEXTS], 64)
    config = config_class(
        vocab_size=len(tokenizer),
        max_position_embeddings=80,
        initializer_range=0.3,
        pad_token_id=0,
        id2label=dict(enumerate(PARTS)),
        label2id={part: place for place, part in enumerate(PARTS)},
        **shape,
    )
    torch.manual_seed(7)
    model = t.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    done = export(
        tmp_path / "model",
        to="onnx",
        out=tmp_path / "onnx",
        task=make_task(tmp_path / "task"),
        table=[{"text": text} for text in [*TEXTS, *NEW_TEXTS]],
    )
    assert done.parity is not None
    assert done.parity.mean_kl < 1e-8


def test_the_weights_of_a_large_encoder_are_in_a_file_of_their_own(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1000)
    done = export(base, to="onnx", quant="f32", out=tmp_path / "f32", rows=8)
    identity = medtask.load_model(str(done.path)).info.identity
    assert identity[f"{ONNX_FILE}.data"] == done.manifest.files[f"{ONNX_FILE}.data"]
    small = export(base, to="onnx", quant="q8", out=tmp_path / "q8", check=False)
    assert [name for name in small.manifest.files if "onnx" in name] == [ONNX_FILE, "onnx.json"]


def test_a_reference_with_the_name_of_its_engine_is_the_same_model(
    exported: tuple[Task, TrainedModel, ExportedModel], tmp_path: Path
) -> None:
    _, model, done = exported
    again = export(f"encoder:{model.path}", to="onnx", out=tmp_path / "onnx", check=False)
    assert again.manifest.files == done.manifest.files
    assert again.manifest.phi == done.manifest.phi
