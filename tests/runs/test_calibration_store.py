"""A calibration that was fitted on a run's gold is kept beside the task and applied by the next run
of the same task and model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import InputError
from medtask.evaluation.calibration.transforms import Calibration
from medtask.prediction.deciding import apply_probabilities
from medtask.records import Answer, Status
from medtask.runs.calibration_store import (
    CALIBRATION_FILE,
    SavedCalibration,
    calibrate_answer,
    describe_gold_reuse,
    find_calibration,
    read_calibrations,
    save_calibration,
)
from medtask.runs.evaluation_report import save_evaluation_calibration
from medtask.runs.local_run import run
from medtask.runs.open_answers import open_answers
from medtask.runs.run_evaluation import (
    EvaluationOptions,
    describe_calibration_source,
    evaluate_answers,
)
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

LABELS = ("curative", "palliative", "staging")
SHARP_CALIBRATION = Calibration("temperature", LABELS, True, 100, temperature=0.5)


@pytest.fixture
def folder(task: Task, write_rows: Callable[[int], Path], tmp_path: Path) -> Path:
    return run(task, FakeEngine(), write_rows(300), out=tmp_path / "first").folder


def write_gold(folder: Path, path: Path) -> Path:
    """The model's answers, but for every fifth: so there is something to calibrate."""
    rows = [row.answer for row in open_answers(folder).rows() if row.answer.value]
    lines = [
        f"{answer.record_id},{LABELS[index % 3] if index % 5 == 0 else answer.value}"
        for index, answer in enumerate(rows)
    ]
    path.write_text("\n".join(["case_id,gold", *lines]))
    return path


def test_the_next_run_applies_it_and_asks_nothing_again(
    folder: Path, task: Task, tmp_path: Path
) -> None:
    gold = write_gold(folder, tmp_path / "gold.csv")
    found = evaluate_answers(
        open_answers(folder, gold=str(gold)),
        EvaluationOptions(calibrate="temperature", baselines=False),
    )
    assert isinstance(
        found.calibration, Calibration
    ) and found.calibration.temperature != pytest.approx(1.0, abs=0.01)
    assert save_evaluation_calibration(found, folder) == task.source.parent / CALIBRATION_FILE  # type: ignore[union-attr]
    before = list(open_answers(folder).rows())
    again = run(task, FakeEngine(), tmp_path / "rows.csv", out=folder)
    assert again.new_answers == 0 and any("calibrated" in note for note in again.notes)
    after = list(open_answers(folder).rows())
    changed = 0
    for old, new in zip(before, after, strict=True):
        assert (old.answer.value, old.answer.status is Status.EMPTY_INPUT) == (
            new.answer.value,
            new.answer.status is Status.EMPTY_INPUT,
        )
        if old.answer.probabilities is None or new.answer.probabilities is None:
            continue
        assert new.answer.uncalibrated == old.answer.probabilities
        raw = np.array(list(old.answer.probabilities.values())) ** (
            1 / found.calibration.temperature
        )
        assert list(new.answer.probabilities.values()) == pytest.approx(
            (raw / raw.sum()).tolist(), abs=1e-6
        )
        changed += new.answer.confidence != old.answer.confidence
    assert changed > 200
    assert open_answers(folder).manifest["calibration"]["method"] == "temperature"
    run(task, FakeEngine(), tmp_path / "rows.csv", out=folder, calibrated=False)
    assert [row.answer for row in open_answers(folder).rows()] == [row.answer for row in before]
    assert open_answers(folder).manifest["calibration"] is None


def test_a_calibrated_run_counts_the_statuses_of_its_tables(
    folder: Path, task: Task, tmp_path: Path
) -> None:
    gold = write_gold(folder, tmp_path / "gold.csv")
    before = Counter(row.answer.status for row in open_answers(folder).rows())
    found = evaluate_answers(
        open_answers(folder, gold=str(gold)),
        EvaluationOptions(calibrate="temperature", baselines=False),
    )
    save_evaluation_calibration(found, folder)
    again = run(task, FakeEngine(), tmp_path / "rows.csv", out=folder)
    after = Counter(row.answer.status for row in open_answers(folder).rows())
    assert again.statuses == after != before
    assert again.to_json()["statuses"] == dict(after)


def test_fitting_again_starts_from_the_models_own_numbers(
    folder: Path, task: Task, tmp_path: Path
) -> None:
    gold = write_gold(folder, tmp_path / "gold.csv")
    expected = EvaluationOptions(calibrate="temperature", baselines=False)
    first = evaluate_answers(open_answers(folder, gold=str(gold)), expected)
    save_evaluation_calibration(first, folder)
    run(task, FakeEngine(), tmp_path / "rows.csv", out=folder)
    second = evaluate_answers(open_answers(folder, gold=str(gold)), expected)
    assert isinstance(first.calibration, Calibration) and isinstance(
        second.calibration, Calibration
    )
    assert second.calibration.temperature == pytest.approx(first.calibration.temperature, rel=1e-6)


def test_it_holds_for_its_own_task_and_model_only(task: Task, tmp_path: Path) -> None:
    path = task.source.parent / CALIBRATION_FILE  # type: ignore[union-attr]
    own = SavedCalibration(
        SHARP_CALIBRATION, task.fingerprint, {"model.name": "a"}, "a", "run", "now"
    )
    save_calibration(path, own)
    save_calibration(path, replace(own, model={"model.name": "b"}))
    save_calibration(path, replace(own, run="later"))
    assert find_calibration(task, {"model.name": "a"})[0] == replace(own, run="later")
    kept, note = find_calibration(task, {"model.name": "c"})
    assert kept is None and "of another model" in note
    other = tmp_path / "purpose" / "task.yaml"
    other.write_text(other.read_text().replace("Decide the main purpose", "Say the purpose"))
    kept, note = find_calibration(load_task(other), {"model.name": "a"})
    assert kept is None and "as it was before" in note
    path.unlink()
    assert find_calibration(task, {"model.name": "a"}) == (None, "")


def test_calibrations_that_are_saved_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / CALIBRATION_FILE
    saved = [
        SavedCalibration(SHARP_CALIBRATION, "task", {"model.name": name}, name, "run", "now")
        for name in "abcdefgh"
    ]
    with ThreadPoolExecutor(len(saved)) as threads:
        list(threads.map(partial(save_calibration, path), saved))
    assert {one.title for one in read_calibrations(path)} == set("abcdefgh")


def test_batch_calibration_is_not_for_several_labels(tmp_path: Path) -> None:
    """It would divide their probabilities by their sum, and take most labels away."""
    (tmp_path / "task.yaml").write_text(
        "instruction: Which?\ninput: '{{ text }}'\nanswer: {kind: labels, labels: [a, b, c]}\n"
    )
    task = load_task(tmp_path / "task.yaml")
    rows = [{"text": f"note {number}"} for number in range(60)]
    folder = run(task, FakeEngine(), rows, out=tmp_path / "run").folder
    answers = open_answers(folder)
    found = evaluate_answers(answers, EvaluationOptions(calibrate="batch", baselines=False))
    assert "this task has several" in str(found.refusals["calibration"])
    # Files of older versions hold such calibrations.
    batch = Calibration("batch", ("a", "b", "c"), True, 60, bias=(0.1, -0.1, 0.0))
    save_calibration(
        task.source.parent / CALIBRATION_FILE,  # type: ignore[union-attr]
        describe_calibration_source(answers, batch),
    )
    again = run(task, FakeEngine(), rows, out=folder)
    assert any("another number of answers" in note for note in again.notes)
    assert [row.answer.uncalibrated for row in open_answers(folder).rows()] == [None] * 60


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 9}',
        '{"format": 1, "calibrations": [{}]}',
        '{"format": 1, "calibrations": 7}',
    ],
)
def test_a_damaged_file_is_refused(task: Task, text: str) -> None:
    (task.source.parent / CALIBRATION_FILE).write_text(text)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="not a file of calibrations"):
        find_calibration(task, {})


def test_a_hostile_calibration_is_refused(task: Task) -> None:
    path = task.source.parent / CALIBRATION_FILE  # type: ignore[union-attr]
    save_calibration(
        path, SavedCalibration(SHARP_CALIBRATION, task.fingerprint, {}, "a", "run", "now")
    )
    document = json.loads(path.read_text())
    document["calibrations"][0]["calibration"]["temperature"] = -1
    path.write_text(json.dumps(document))
    with pytest.raises(InputError):
        find_calibration(task, {})


def test_every_flipped_byte_is_refused_or_harmless(task: Task) -> None:
    path = task.source.parent / CALIBRATION_FILE  # type: ignore[union-attr]
    saved = SavedCalibration(
        replace(SHARP_CALIBRATION, temperature=0.3725), task.fingerprint, {}, "a", "run", "now"
    )
    save_calibration(path, saved)
    intact = path.read_bytes()
    refused = 0
    for place in range(len(intact)):
        for bit in (1, 2, 32):
            path.write_bytes(intact[:place] + bytes([intact[place] ^ bit]) + intact[place + 1 :])
            try:
                assert read_calibrations(path) == [saved]
            except InputError as error:
                refused += 1
                assert error.fix
    assert refused > len(intact)


def test_a_file_of_an_earlier_version_has_no_checksum(task: Task) -> None:
    path = task.source.parent / CALIBRATION_FILE  # type: ignore[union-attr]
    saved = SavedCalibration(SHARP_CALIBRATION, task.fingerprint, {}, "a", "run", "now")
    save_calibration(path, saved)
    document = json.loads(path.read_text())
    assert len(document.pop("sha256")) == 64
    path.write_text(json.dumps(document))
    assert read_calibrations(path) == [saved]


def test_a_calibration_without_a_label_of_the_task_is_named_and_not_applied(
    task: Task, write_rows: Callable[[int], Path], tmp_path: Path
) -> None:
    first = run(task, FakeEngine(), write_rows(30), out=tmp_path / "first").folder
    identity = json.loads((first / "manifest.json").read_text())["identity"]
    other = replace(SHARP_CALIBRATION, labels=("curative", "palliative", "stagind"))
    facts = {name: fact for name, fact in identity.items() if name.startswith("model.")}
    save_calibration(
        task.source.parent / CALIBRATION_FILE,  # type: ignore[union-attr]
        SavedCalibration(other, task.fingerprint, facts, "a", "first", "now"),
    )
    again = run(task, FakeEngine(), write_rows(30), out=tmp_path / "second")
    assert any('does not know "staging": it is not applied' in note for note in again.notes)
    assert json.loads((again.folder / "manifest.json").read_text())["calibration"] is None


def test_an_answer_with_other_labels_is_not_calibrated(task: Task) -> None:
    narrowed = Answer("1", Status.OK, "curative", 0.9, {"curative": 0.9, "palliative": 0.1})
    assert (
        calibrate_answer(task, narrowed, replace(SHARP_CALIBRATION, labels=("x", "y", "z")))
        is narrowed
    )
    assert apply_probabilities(task, narrowed, {"curative": 1.0}) is narrowed
    assert (
        calibrate_answer(task, Answer("1", Status.FAILED), SHARP_CALIBRATION).probabilities is None
    )


def test_other_parts_of_the_reason_are_kept(task: Task) -> None:
    shares = dict(zip(LABELS, (0.45, 0.35, 0.2), strict=True))
    doubtful = Answer(
        "1",
        Status.REVIEW,
        "curative",
        0.45,
        shares,
        reason="confidence 0.45 is below 0.5; read in 3 parts",
    )
    sharper = calibrate_answer(task, doubtful, SHARP_CALIBRATION)
    assert (sharper.status, sharper.reason) == (Status.OK, "read in 3 parts")
    assert sharper.confidence == pytest.approx(0.45**2 / (0.45**2 + 0.35**2 + 0.2**2))


@pytest.mark.parametrize(
    "calibration",
    [
        Calibration("none", ("a", "b"), False, 50),
        Calibration("bias", ("a", "b"), False, 50, temperature=2.0, bias=(1.5, -1.0)),
    ],
    ids=["uncalibrated", "bias"],
)
def test_thresholds_decide_alike_before_and_after_calibration(
    calibration: Calibration, tmp_path: Path
) -> None:
    (tmp_path / "task.yaml").write_text(
        "name: t\ninstruction: x\ninput: '{{ text }}'\nanswer: {kind: labels, labels: [a, b]}"
    )
    task = load_task(tmp_path)
    fitted = replace(calibration, thresholds=(0.2, 0.7))
    for a, b in ((0.19, 0.71), (0.21, 0.69), (0.5, 0.5), (0.9, 0.9)):
        answer = Answer("1", Status.OK, (), 0.5, probabilities={"a": a, "b": b})
        decided = calibrate_answer(task, answer, fitted)
        assert decided.value == tuple(
            name for name, share, limit in (("a", a, 0.2), ("b", b, 0.7)) if share >= limit
        )
        assert decided.uncalibrated == ({"a": a, "b": b} if fitted.calibrated else None)


def test_a_calibration_beside_the_task_keeps_the_thresholds_of_the_model(
    task: Task, tmp_path: Path
) -> None:
    model = {"model.model": str(tmp_path / "model"), "model.hash": "0" * 64}
    (tmp_path / "model").mkdir()
    thresholds = (0.2, 0.3, 0.4)
    trained = Calibration("none", LABELS, False, 50, thresholds=thresholds)
    for folder, calibration in (
        (tmp_path / "model", trained),
        (task.source.parent if task.source else tmp_path, SHARP_CALIBRATION),
    ):
        saved = SavedCalibration(calibration, task.fingerprint, model, "m", "r", "2026-01-01")
        save_calibration(folder / CALIBRATION_FILE, saved)
    found, note = find_calibration(task, model)
    assert found is not None
    assert found.calibration == replace(SHARP_CALIBRATION, thresholds=thresholds)
    assert note == ""


@pytest.mark.parametrize(
    ("applied", "warned"),
    [
        ({"method": "bias", "on": "this run"}, True),
        ({"method": "isotonic", "on": "this run", "rows_known": False}, True),
        ({"method": "isotonic", "on": "this run", "rows_known": True}, False),
        ({"method": "temperature", "on": "this run"}, False),
        ({"method": "batch", "on": "this run"}, False),
        ({"method": "bias", "on": "another run"}, False),
        (None, False),
    ],
)
def test_a_calibration_that_does_not_name_its_rows_is_compared_by_the_run(
    applied: dict[str, object] | None, warned: bool
) -> None:
    assert bool(describe_gold_reuse(applied, "this run")) is warned
