"""A run with an exported model is as calibrated as one with its source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medtask.engines.model_metadata import CALIBRATION_FILE, ModelMetadata, write_model_metadata
from medtask.engines.registry import load_model
from medtask.evaluation.calibration.transforms import Calibration
from medtask.exporting.export import export
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


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "task")


@pytest.fixture
def adapter(task: Task, tmp_path: Path) -> Path:
    """A trained adapter with a calibration that halves the differences of log-probabilities."""
    base = save_model(tmp_path / "base", "llama")
    folder = save_adapter(tmp_path / "adapter", base, **LORA_SETTINGS["lora"])
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


def list_probabilities(task: Task, model: Path) -> list[list[float]]:
    engine = load_model(str(model), dtype="file" if model.suffix == ".gguf" else "float32")
    rows = [{"text": text} for text in TEXTS]
    answers = predict(task, engine, rows, on_note=lambda note: None)
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


def test_a_gguf_file_keeps_the_calibration_beside_it(
    task: Task, adapter: Path, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp", reason="llama.cpp reads the written file")
    done = export(adapter, to="gguf", quant="f16", out=tmp_path / "model.gguf", rows=4, force=True)
    assert locate_model_calibration(done.path).name == "model.gguf.calibration.json"
    assert list_probabilities(task, done.path) == [
        pytest.approx(one, abs=0.02) for one in list_probabilities(task, adapter)
    ]
    assert "may be calibrated" in done.report.read_text()
    facts = {"model.model": str(done.path), "model.file": "0" * 64}
    found, note = find_calibration(replace(task, source=None), facts)
    assert found is None
    assert "of another model" in note
