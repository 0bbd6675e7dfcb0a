"""The finished model folder: which rows it says the model has learned from."""

from __future__ import annotations

from pathlib import Path

import medtask
from medtask.engines.model_metadata import LEARNED_ROWS_FILE
from medtask.records import Record
from medtask.runs.learned_rows import read_learned_rows
from support.small_trainings import make_rows, make_task


def test_a_trained_folder_names_all_its_rows_and_no_others(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    model = medtask.train(task, make_rows(), out=tmp_path / "linear", method="linear")
    assert model.score is not None
    assert model.score.n > 0  # the validation rows were measured
    engine = medtask.load_model(str(tmp_path / "linear"))
    assert engine.info.trained_folders == (str(tmp_path / "linear"),)
    learned = read_learned_rows(engine.info.trained_folders)
    reasons = [learned.find_reason(task, Record("1", row)) for row in make_rows()]
    assert {"train", "validation"} == set(reasons)
    assert learned.complete
    assert learned.find_reason(task, Record("1", {"text": "X-ray of the spine"})) is None
    text = (tmp_path / "linear" / LEARNED_ROWS_FILE).read_text()
    assert not any(row["text"] in text for row in make_rows())


def test_a_hybrid_has_the_rows_of_its_members(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    rows = make_rows()
    other = [{**row, "text": f"{row['text']}, repeated"} for row in rows]
    medtask.train(task, rows, out=tmp_path / "a", method="linear")
    medtask.train(task, other, out=tmp_path / "b", method="linear")
    members = [str(tmp_path / "a"), str(tmp_path / "b")]
    medtask.train(task, rows, out=tmp_path / "both", method="hybrid", base=members)
    learned = read_learned_rows([tmp_path / "both"])
    assert all(learned.find_reason(task, Record("1", row)) for row in [*rows, *other])
    (tmp_path / "b" / LEARNED_ROWS_FILE).unlink()
    medtask.train(task, rows, out=tmp_path / "unknown", method="hybrid", base=members)
    assert not read_learned_rows([tmp_path / "unknown"]).complete


def test_a_folder_without_the_file_still_loads(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    medtask.train(task, make_rows(), out=tmp_path / "old", method="linear")
    (tmp_path / "old" / LEARNED_ROWS_FILE).unlink()
    engine = medtask.load_model(str(tmp_path / "old"))
    assert not read_learned_rows(engine.info.trained_folders).complete
