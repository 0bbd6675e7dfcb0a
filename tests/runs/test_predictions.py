"""`medtask.predict` gives the answers of `medtask.run`, with the same notes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import medtask
from medtask.engines.fake import FakeEngine
from medtask.evaluation.calibration.transforms import Calibration
from medtask.prediction.predictor import predict_uncalibrated
from medtask.records import Answer, Status
from medtask.runs.calibration_store import CALIBRATION_FILE, SavedCalibration, save_calibration
from medtask.runs.open_answers import open_answers
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

LABELS = ("curative", "palliative", "staging")
DOUBTFUL = Calibration(
    "bias", LABELS, True, 100, temperature=3.0, bias=(0.5, -0.5, 0.0), thresholds=()
)
SEVERAL = """\
instruction: Decide which purposes the operation has.
input: "{{ procedure }}"
id: case_id
answer: {kind: labels, labels: [curative, palliative, staging]}
"""


def save(task: Task, calibration: Calibration, model: Mapping[str, str] | None = None) -> None:
    facts = model or {f"model.{name}": fact for name, fact in FakeEngine().info.identity.items()}
    saved = SavedCalibration(calibration, task.fingerprint, facts, "fake", "earlier", "today")
    assert task.source is not None
    save_calibration(task.source.parent / CALIBRATION_FILE, saved)


def compare_with_run(task: Task, table: Path, out: Path, **options: bool) -> list[Answer]:
    """The answers of `predict`, after a comparison with those of `run`."""
    notes: list[str] = []
    answers = list(
        medtask.predict(
            task, FakeEngine(), medtask.read_table(table), on_note=notes.append, **options
        )
    )
    result = medtask.run(task, FakeEngine(), table, out=out, baselines=False, **options)
    assert [note for note in result.notes if "--uncalibrated" in note] == notes
    for row, answer in zip(open_answers(result.folder).rows(), answers, strict=True):
        for name in ("record_id", "value", "status", "reason", "probabilities", "uncalibrated"):
            assert getattr(answer, name) == getattr(row.answer, name), name
        assert answer.confidence == pytest.approx(row.answer.confidence)
    return answers


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_calibration_changes_predictions_as_it_changes_a_run(
    task: Task, write_rows: Callable[[int], Path], tmp_path: Path, calibrated: bool
) -> None:
    save(task, DOUBTFUL)
    table = write_rows(60)
    answers = compare_with_run(task, table, tmp_path / "run", calibrated=calibrated)
    raw = list(predict_uncalibrated(task, FakeEngine(), medtask.read_table(table)))
    assert (answers == raw) == (not calibrated)
    if calibrated:
        assert {answer.status for answer in answers} > {answer.status for answer in raw} - {
            Status.OK
        }


def test_thresholds_that_were_fitted_in_training_decide_predictions(
    write_rows: Callable[[int], Path], tmp_path: Path
) -> None:
    (tmp_path / "several").mkdir()
    (tmp_path / "several" / "task.yaml").write_text(SEVERAL, "utf-8")
    task = load_task(tmp_path / "several")
    save(task, Calibration("none", LABELS, False, 100, thresholds=(0.2, 0.9, 0.5)))
    table = write_rows(40)
    answers = compare_with_run(task, table, tmp_path / "run")
    assert answers != list(predict_uncalibrated(task, FakeEngine(), medtask.read_table(table)))


def test_the_note_is_a_warning_by_default(task: Task, write_rows: Callable[[int], Path]) -> None:
    save(task, DOUBTFUL)
    rows = medtask.read_table(write_rows(3))
    with pytest.warns(UserWarning, match="probabilities are calibrated, as fitted on 100 rows"):
        list(medtask.predict(task, FakeEngine(), rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(medtask.predict(task, FakeEngine(), rows, calibrated=False))
        list(medtask.predict(replace(task, source=None), FakeEngine(), rows))


def test_a_calibration_of_another_model_is_noted_and_not_applied(
    task: Task, write_rows: Callable[[int], Path]
) -> None:
    save(task, DOUBTFUL, {"model.name": "another"})
    rows = medtask.read_table(write_rows(3))
    notes: list[str] = []
    answers = list(medtask.predict(task, FakeEngine(), rows, on_note=notes.append))
    assert answers == list(predict_uncalibrated(task, FakeEngine(), rows))
    assert len(notes) == 1 and "of another model" in notes[0]
