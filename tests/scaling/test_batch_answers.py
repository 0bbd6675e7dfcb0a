"""Arrow batches are answered as `medtask.predict` answers their rows."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="batches of Spark and Ray are Arrow tables")

import pyarrow as pa

import medtask
from medtask.engines.fake import FakeEngine
from medtask.engines.load_options import LoadOptions
from medtask.errors import EngineError, InputError, TableError, TaskFaults, UsageError
from medtask.evaluation.calibration.transforms import Calibration
from medtask.records import Prompt, Scores
from medtask.runs.calibration_store import CALIBRATION_FILE, SavedCalibration, save_calibration
from medtask.runs.output_columns import get_cell
from medtask.scaling import batch_answers
from medtask.scaling.batch_answers import (
    BatchJob,
    WorkerModel,
    answer_batches,
    open_worker_model,
    prepare_job,
)
from medtask.tasks.load import load_task
from medtask.tasks.task import Task
from support.tasks_by_kind import ANSWER_SPECS, write_task_and_table

ROWS = 60
DEFAULT = LoadOptions()


@pytest.fixture(autouse=True)
def no_loaded_model() -> Iterator[None]:
    batch_answers._loaded_engines.clear()
    yield
    batch_answers._loaded_engines.clear()


def read_arrow(path: Path) -> pa.Table:
    table = medtask.read_table(path)
    columns = [name for name in table.columns if name != "gold"]
    return pa.Table.from_pylist(
        [{name: None if row[name] is None else str(row[name]) for name in columns} for row in table]
    )


def prepare(task: Task, rows: pa.Table, model: str = "fake:seed=3", window: int = 16) -> BatchJob:
    job = prepare_job(task, model, rows.column_names, DEFAULT)
    # As on another machine: nothing but the pickled job arrives there.
    arrived: BatchJob = pickle.loads(pickle.dumps(job))
    return replace(arrived, window=window)


def answer(job: BatchJob, batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.concat_tables(answer_batches(open_worker_model(job), batches))


def drop_missing(cell: object) -> object:
    """A cell as it was before all rows got the same keys."""
    if not isinstance(cell, dict):
        return cell
    return {key: value for key, value in cell.items() if value is not None}


@pytest.mark.parametrize("kind", ANSWER_SPECS)
def test_answers_are_those_of_predict_whatever_the_batches(kind: str, tmp_path: Path) -> None:
    task_folder, table = write_task_and_table(kind, tmp_path, ROWS)
    task, rows = load_task(task_folder), read_arrow(table)
    job = prepare(task, rows)
    expected = list(medtask.predict(task, FakeEngine(seed=3), rows, window=job.window))
    for size in (1, 7, 1000):
        found = answer(job, rows.to_batches(max_chunksize=size))
        assert found.drop_columns([c.name for c in job.output_columns]).equals(rows)
        assert found.select([c.name for c in job.output_columns]).schema == job.answer_schema
        for name in ("status", "reason", "confidence", "probabilities"):
            if name in found.column_names:
                cells = [get_cell(name, one) for one in expected]
                assert [drop_missing(cell) for cell in found[name].to_pylist()] == cells, name
    values = [list(one.value) if isinstance(one.value, tuple) else one.value for one in expected]
    assert found["answer"].to_pylist() == values
    assert {one.status for one in expected} >= {"ok", "empty_input"}


def test_the_calibration_beside_the_task_file_reaches_workers_without_the_file(
    tmp_path: Path,
) -> None:
    folder, table = write_task_and_table("passes", tmp_path, ROWS)
    text = (folder / "task.yaml").read_text().partition("reasoning")[0]
    (folder / "task.yaml").write_text(text)
    task, rows = load_task(folder), read_arrow(table)
    labels = tuple(task.outcomes)
    engine = FakeEngine(seed=3)
    saved = SavedCalibration(
        Calibration("temperature", labels, True, 100, temperature=3.0, thresholds=()),
        task.fingerprint,
        {f"model.{name}": fact for name, fact in engine.info.identity.items()},
        "fake",
        "earlier",
        "today",
    )
    save_calibration(folder / CALIBRATION_FILE, saved)
    expected = list(medtask.predict(task, engine, rows, on_note=lambda note: None))
    job = prepare(task, rows)
    (folder / CALIBRATION_FILE).unlink()
    found = answer(job, rows.to_batches())
    assert found["probabilities"].to_pylist() == [one.probabilities for one in expected]
    assert found["uncalibrated"].to_pylist() == [one.uncalibrated for one in expected]
    raw = list(medtask.predict(task, engine, rows))
    assert [one.probabilities for one in raw] != [one.probabilities for one in expected]


def test_a_worker_loads_a_model_once_and_again_when_its_folder_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_folder, table = write_task_and_table("labels", tmp_path, ROWS)
    task, rows = load_task(task_folder), read_arrow(table)
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("1")
    loads: list[str] = []

    def load(reference: str, options: LoadOptions) -> FakeEngine:
        loads.append(reference)
        return FakeEngine()

    monkeypatch.setattr(batch_answers, "load_model", load)
    job = replace(prepare(task, rows), model=str(model))
    for _ in range(3):
        answer(job, rows.to_batches())
    assert len(loads) == 1
    (model / "weights").write_text("22")
    answer(job, rows.to_batches())
    assert len(loads) == 2


def test_what_workers_would_fail_at_is_refused_before_they_start(tmp_path: Path) -> None:
    task_folder, table = write_task_and_table("labels", tmp_path, ROWS)
    task, rows = load_task(task_folder), read_arrow(table)
    names = rows.column_names
    with pytest.raises(TaskFaults, match="input uses"):
        prepare_job(task, "fake:", ["case", "note"], DEFAULT)
    with pytest.raises(TableError, match="more than one column 'text'"):
        prepare_job(task, "fake:", [*names, "text"], DEFAULT)
    with pytest.raises(UsageError):
        prepare_job(task, "minilm", names, LoadOptions(quantize="4bit"))
    text = (task_folder / "task.yaml").read_text()
    (task_folder / "task.yaml").write_text(text + "phi: true\n")
    with pytest.raises(UsageError, match="phi"):
        prepare_job(
            load_task(task_folder),
            "http://192.0.2.7:8000/v1#m",
            names,
            LoadOptions(allow_remote=True),
        )
    (task_folder / "task.yaml").write_text(
        text.replace("kind: labels", "kind: labels\n  thresholds: {fit: f1}")
    )
    with pytest.raises(InputError, match="whole table"):
        prepare_job(load_task(task_folder), "fake:", names, DEFAULT)


def test_gold_and_groups_are_not_needed(tmp_path: Path) -> None:
    task_folder, table = write_task_and_table("labels", tmp_path, ROWS)
    text = (task_folder / "task.yaml").read_text()
    (task_folder / "task.yaml").write_text(text + "gold: reviewed\ngroup: patient\n")
    rows = read_arrow(table)
    found = answer(prepare(load_task(task_folder), rows), rows.to_batches())
    assert found.num_rows == ROWS


class KeepingEngine(FakeEngine):
    """Keeps the prompts that it is asked."""

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        self.prompts = list(batch)
        return super().score_batch(batch)


def test_no_row_is_shown_an_example_of_its_own_group(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(
        'instruction: Decide.\ninput: "{{ note }}"\ngroup: patient\n'
        "answer: {kind: label, labels: [a, b]}\n"
        "examples: {file: gold.csv, select: nearest, k: 1}\n"
    )
    (tmp_path / "gold.csv").write_text(
        "note,answer,patient\nchest pain at rest,a,P1\nswollen knee,b,P2\n"
    )
    rows = pa.table({"note": ["chest pain at night"], "patient": ["P1"]})
    job = prepare(load_task(tmp_path), rows)
    engine = KeepingEngine()
    list(answer_batches(WorkerModel(job, engine, {}, None), rows.to_batches()))
    (prompt,) = engine.prompts
    shown = " ".join(turn.content for turn in prompt.messages)
    assert "swollen knee" in shown and "at rest" not in shown


def test_an_error_of_a_worker_shows_its_remedy(tmp_path: Path) -> None:
    task_folder, table = write_task_and_table("labels", tmp_path, ROWS)
    rows = read_arrow(table)
    job = prepare(load_task(task_folder), rows, "fake:fails_after=5")
    with pytest.raises(EngineError) as caught:
        answer(job, rows.to_batches())
    assert caught.value.__notes__ == [f"fix: {caught.value.fix}"]


def test_names_of_input_columns_that_answers_need_are_changed(tmp_path: Path) -> None:
    task_folder, _ = write_task_and_table("labels", tmp_path, ROWS)
    names = ["case", "text", "Answer", "status"]
    job = prepare_job(load_task(task_folder), "fake:", names, DEFAULT)
    assert list(job.columns.values()) == ["case", "text", "Answer", "input_status"]
    job = prepare_job(load_task(task_folder), "fake:", names, DEFAULT, ignore_case=True)
    assert list(job.columns.values()) == ["case", "text", "input_Answer", "input_status"]


def test_rows_without_an_id_of_their_own_are_answered(tmp_path: Path) -> None:
    task_folder, table = write_task_and_table("labels", tmp_path, ROWS)
    task, rows = load_task(task_folder), read_arrow(table)
    names: list[str | None] = ["c-1", None, "c-1", "row 2", *rows["case"].to_pylist()[4:]]
    changed = rows.set_column(0, "case", pa.array(names))
    found = answer(prepare(task, changed), changed.to_batches(max_chunksize=7))
    expected = answer(prepare(task, rows), rows.to_batches())
    assert found["case"].to_pylist() == names
    assert found["answer"].equals(expected["answer"])
