"""A run with an exported model is as calibrated as one with its source."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from medtask.engines.load_options import Dtype
from medtask.engines.model_metadata import CALIBRATION_FILE, ModelMetadata, write_model_metadata
from medtask.engines.registry import load_model
from medtask.evaluation.calibration.transforms import Calibration
from medtask.exporting.export import ExportedModel, export, verify_export
from medtask.exporting.export_manifest import locate_manifest, write_manifest
from medtask.runs.calibration_store import (
    SavedCalibration,
    find_calibration,
    locate_model_calibration,
    select_model_facts,
    write_calibrations,
)
from medtask.runs.predictions import predict
from medtask.tasks.row_fingerprints import TRAINING_ROWS_FILE, fingerprint_rows, write_fingerprints
from medtask.tasks.task import Task
from support.small_trainings import PARTS, make_task
from support.tiny_adapters import LORA_SETTINGS, save_adapter
from support.tiny_models import save_model

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
TEXTS = ["CT of the knee", "MRI of the brain after a fall"]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return make_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def adapter(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter with a calibration that halves the differences of log-probabilities."""
    parent = tmp_path_factory.mktemp("trained")
    base = save_model(parent / "base", "llama")
    folder = save_adapter(parent / "adapter", base, **LORA_SETTINGS["lora"])
    write_model_metadata(folder, ModelMetadata("hf", "label", PARTS, base=str(base), phi="no"))
    write_fingerprints(folder / TRAINING_ROWS_FILE, [fingerprint_rows([], "training", "salt")])
    identity = load_model(str(folder)).info.identity
    facts = {f"model.{name}": fact for name, fact in identity.items()}
    calibration = Calibration(
        "temperature", task.outcomes, exclusive=True, rows=100, temperature=2.0
    )
    saved = SavedCalibration(
        calibration, task.fingerprint, select_model_facts(facts), "tiny", "the rows", "today"
    )
    write_calibrations(folder / CALIBRATION_FILE, [saved])
    return folder


def list_probabilities(task: Task, model: Path | str, **options: bool) -> list[list[float]]:
    dtype: Dtype = "file" if str(model).endswith(".gguf") else "float32"
    rows = [{"text": text} for text in TEXTS]
    with closing(load_model(str(model), dtype=dtype)) as engine:
        answers = list(predict(task, engine, rows, on_note=lambda note: None, **options))
    return [list((answer.probabilities or {}).values()) for answer in answers]


def test_a_merged_folder_keeps_the_calibration_and_the_training_rows(
    task: Task, adapter: Path, tmp_path: Path
) -> None:
    done = export(adapter, to="merged", out=tmp_path / "merged", rows=4)
    assert list_probabilities(task, done.path) == [
        pytest.approx(one, abs=1e-4) for one in list_probabilities(task, adapter)
    ]
    (done.path / CALIBRATION_FILE).rename(tmp_path / "aside")
    uncalibrated = list_probabilities(task, done.path)
    assert uncalibrated != [
        pytest.approx(one, abs=1e-2) for one in list_probabilities(task, adapter)
    ]
    assert (done.path / TRAINING_ROWS_FILE).is_file()
    assert load_model(str(done.path)).info.trained_folders == (str(done.path.resolve()),)
    assert "measured on the original model" in done.report.read_text()


def calibrated(task: Task, adapter: Path, tolerance: float) -> list[object]:
    return [pytest.approx(one, abs=tolerance) for one in list_probabilities(task, adapter)]


@pytest.fixture(scope="module")
def gguf(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    pytest.importorskip("llama_cpp", reason="llama.cpp reads the written file")
    out = tmp_path_factory.mktemp("gguf") / "model.gguf"
    return export(adapter, to="gguf", quant="f16", out=out, rows=4, force=True)


def test_a_gguf_file_keeps_the_calibration_beside_it(
    task: Task, adapter: Path, gguf: ExportedModel
) -> None:
    assert locate_model_calibration(gguf.path).name == "model.gguf.calibration.json"
    assert list_probabilities(task, gguf.path) == calibrated(task, adapter, 0.02)
    assert "may be calibrated" in gguf.report.read_text()
    facts = {"model.model": str(gguf.path), "model.file": "0" * 64}
    found, note = find_calibration(replace(task, source=None), facts)
    assert found is None
    assert "of another model" in note


def test_the_calibration_beside_a_gguf_file_is_verified(
    gguf: ExportedModel, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(gguf.path.parent, tmp_path / "copy")) / gguf.path.name
    assert verify_export(copy) == []
    locate_model_calibration(copy).write_text("{}")
    assert verify_export(copy) == ["model.gguf.calibration.json is changed"]
    locate_model_calibration(copy).unlink()
    assert verify_export(copy) == ["model.gguf.calibration.json is missing"]


def test_a_calibration_that_an_earlier_version_did_not_hash_is_not_a_difference(
    gguf: ExportedModel, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(gguf.path.parent, tmp_path / "copy")) / gguf.path.name
    hashed = {copy.name: gguf.manifest.files[copy.name]}
    earlier = gguf.manifest.model_copy(update={"files": hashed})
    write_manifest(earlier, locate_manifest(copy))
    assert verify_export(copy) == []


def test_a_calibration_of_a_removed_export_is_not_left_beside_the_next_one(
    adapter: Path, gguf: ExportedModel, tmp_path: Path
) -> None:
    uncalibrated = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    (uncalibrated / CALIBRATION_FILE).unlink()
    path = tmp_path / "model.gguf"
    shutil.copyfile(locate_model_calibration(gguf.path), locate_model_calibration(path))
    export(uncalibrated, to="gguf", quant="f16", out=path, check=False)
    assert not locate_model_calibration(path).exists()
    assert verify_export(path) == []


def test_the_file_for_ollama_keeps_the_calibration(
    task: Task, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llama_cpp", reason="llama.cpp reads the written file")
    monkeypatch.setenv("PATH", str(tmp_path))  # without Ollama
    done = export(adapter, to="ollama", quant="f16", out=tmp_path / "model", rows=4, force=True)
    assert list_probabilities(task, done.path / "model.gguf") == calibrated(task, adapter, 0.02)
    assert "model.gguf.calibration.json" in done.manifest.files


@pytest.mark.slow
def test_a_folder_for_mlx_keeps_the_calibration(task: Task, adapter: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlx_lm", reason="mlx-lm writes and reads the folder")
    done = export(adapter, to="mlx", quant="f32", out=tmp_path / "model", check=False)
    assert list_probabilities(task, f"mlx:{done.path}") == calibrated(task, adapter, 1e-3)


@pytest.mark.slow
def test_the_function_of_mlflow_gives_calibrated_confidences(
    task: Task, adapter: Path, tmp_path: Path
) -> None:
    pyfunc = pytest.importorskip("mlflow.pyfunc", reason="MLflow loads the written model")
    import pandas as pd

    done = export(
        adapter,
        to="mlflow",
        out=tmp_path / "model",
        task=task,
        table=[{"text": text} for text in TEXTS],
        check=False,
    )
    function = pyfunc.load_model(str(done.path))
    answers = function.predict(pd.DataFrame({"text": TEXTS}))
    confidences = [max(one) for one in list_probabilities(task, adapter)]
    assert answers["confidence"].tolist() == pytest.approx(confidences, abs=0.01)
    uncalibrated = [max(one) for one in list_probabilities(task, adapter, calibrated=False)]
    assert confidences != pytest.approx(uncalibrated, abs=0.05)
    assert verify_export(done.path) == []
