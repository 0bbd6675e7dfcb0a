"""The finished model folder: which rows it says the model was made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

import medtask
from medtask.errors import InputError
from medtask.records import Prompt, Record
from medtask.runs.ledger_file import verify_ledger
from medtask.tasks.prompt import build_prompt
from medtask.tasks.row_fingerprints import TRAINING_ROWS_FILE, make_row_key, read_training_rows
from medtask.tasks.task import Task
from support.small_trainings import make_rows, make_task


def find_uses(task: Task, folder: Path, rows: Iterable[Mapping[str, object]]) -> list[str | None]:
    """For each row, how it was used by the model in the folder; None if it was not."""
    used = read_training_rows(folder)
    assert used is not None
    found: list[str | None] = []
    for row in rows:
        record = Record("1", row)
        prompt = build_prompt(task, record)
        assert isinstance(prompt, Prompt)
        key = make_row_key(task, record, prompt)
        found.append(next((one.use for one in used if one.has_row(key)), None))
    return found


def test_a_trained_folder_names_all_its_rows_and_no_others(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    model = medtask.train(task, make_rows(), out=tmp_path / "linear", method="linear")
    assert model.score is not None
    assert model.score.n > 0  # the validation rows were measured
    engine = medtask.load_model(str(tmp_path / "linear"))
    assert engine.info.trained_folders == (str(tmp_path / "linear"),)
    uses = find_uses(task, tmp_path / "linear", make_rows())
    assert uses.count("validation") == model.score.n
    assert uses.count("training") == len(uses) - model.score.n
    assert find_uses(task, tmp_path / "linear", [{"text": "X-ray of the spine"}]) == [None]
    text = (tmp_path / "linear" / TRAINING_ROWS_FILE).read_text()
    assert not any(row["text"] in text for row in make_rows())


@pytest.mark.slow
def test_a_hybrid_has_the_rows_of_its_members(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    rows = make_rows()
    other = [{**row, "text": f"{row['text']}, repeated"} for row in rows]
    medtask.train(task, rows, out=tmp_path / "a", method="linear")
    medtask.train(task, other, out=tmp_path / "b", method="linear")
    members = [str(tmp_path / "a"), str(tmp_path / "b")]
    medtask.train(task, rows, out=tmp_path / "both", method="hybrid", base=members)
    assert None not in find_uses(task, tmp_path / "both", [*rows, *other])
    (tmp_path / "b" / TRAINING_ROWS_FILE).unlink()
    unknown = medtask.train(task, rows, out=tmp_path / "unknown", method="hybrid", base=members)
    assert any("does not say which rows it was trained on" in note for note in unknown.notes)


def test_a_folder_without_the_file_still_loads(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    medtask.train(task, make_rows(), out=tmp_path / "old", method="linear")
    (tmp_path / "old" / TRAINING_ROWS_FILE).unlink()
    engine = medtask.load_model(str(tmp_path / "old"))
    assert read_training_rows(Path(engine.info.trained_folders[0])) is None
    (tmp_path / "old" / TRAINING_ROWS_FILE).write_text('{"format": 1, "ro')
    with pytest.raises(InputError, match="not a valid list of training rows"):
        medtask.run(task, engine, make_rows(), out=tmp_path / "run")
    assert verify_ledger(tmp_path / "run" / "ledger.db").intact == 0  # before a row is answered


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_a_folder_that_was_not_trained_here_is_no_trained_folder(
    tmp_path: Path, prefix: str
) -> None:
    from medtask.engines.registry import find_trained_folders

    assert find_trained_folders(f"{prefix}{tmp_path}") == ()
    (tmp_path / "medtask.json").touch()
    assert find_trained_folders(f"{prefix}{tmp_path}") == (str(tmp_path),)


@pytest.mark.parametrize(("rows", "warns"), [(40, True), (120, False)])
def test_fewer_rows_than_a_method_needs_are_a_note(tmp_path: Path, rows: int, warns: bool) -> None:
    task = make_task(tmp_path / "task")
    table = [
        {"text": f"{row['text']} of case {number}", "gold": row["gold"]}
        for number in range(4)
        for row in make_rows()
    ][:rows]
    model = medtask.train(task, table, out=tmp_path / "model", method="linear")
    notes = [note for note in model.notes if "few for --method linear" in note]
    assert bool(notes) == warns
    assert not warns or "needs 100 or more" in notes[0]
