"""A run whose table has changed keeps the answers to unchanged texts."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import EngineError, RunLocked, RunMismatch
from medtask.records import Prompt, Scores
from medtask.runs import session_folder
from medtask.runs.ledger_file import verify_ledger
from medtask.runs.local_run import Run, run
from medtask.runs.lock import lock_run
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

Row = dict[str, str]
ROWS: list[Row] = [
    {"case_id": f"c{number:02}", "procedure": f"resection {number}", "purpose": ""}
    for number in range(40)
]


class AskedTexts(FakeEngine):
    """Records the texts that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        self.texts += [prompt.text for prompt in batch]
        return super().score_batch(batch)


@pytest.fixture
def answer(task: Task, tmp_path: Path) -> Callable[..., tuple[Run, list[str]]]:
    """Writes rows to a file, runs the task, and returns the run with the texts that were asked."""

    def run_rows(
        rows: Sequence[Mapping[str, str]], *, file: str = "rows.csv", **options: Any
    ) -> tuple[Run, list[str]]:
        path = tmp_path / file
        pl.DataFrame(rows).write_csv(path)
        engine = AskedTexts()
        return run(task, engine, path, **options), engine.texts

    return run_rows


def read_answers(folder: Path) -> dict[str, dict[str, Any]]:
    """Answers with all their digits, by id."""
    rows = pl.read_parquet(folder / "answers.parquet").to_dicts()
    return {
        row["case_id"]: {name: row[name] for name in ("answer", "confidence", "probabilities")}
        for row in rows
    }


def damage_answer(ledger: Path, *, row: int) -> None:
    """Change an answer so that its checksum is wrong."""
    with closing(sqlite3.connect(ledger)) as db, db:
        db.execute("UPDATE answers SET confidence = 0.123 WHERE row = ?", (row,))


def test_answers_that_are_lost_after_a_change_of_the_table_are_counted(
    answer: Callable[..., tuple[Run, list[str]]], tmp_path: Path
) -> None:
    answer(ROWS, out=tmp_path / "out")
    answer(ROWS[::-1], out=tmp_path / "out")
    with closing(sqlite3.connect(tmp_path / "out" / "ledger.db")) as db, db:
        db.execute("DELETE FROM answers WHERE row <= 5")
    found, _ = answer(ROWS[::-1], out=tmp_path / "out")
    assert any("35 answers kept, 5 lost" in note for note in found.notes)


@pytest.mark.parametrize("named", [True, False])
def test_a_damaged_ledger_of_a_changed_table_is_recovered_and_reported(
    answer: Callable[..., tuple[Run, list[str]]], tmp_path: Path, named: bool
) -> None:
    options = {"out": tmp_path / "out"} if named else {}
    first, _ = answer(ROWS, **options)
    damage_answer(first.folder / "ledger.db", row=3)
    found, asked = answer(ROWS[::-1], **options)
    assert (found.folder, asked) == (first.folder, ["resection 2"])
    assert any("39 answers kept, 1 lost" in note for note in found.notes)


def test_the_ledger_of_another_run_in_use_is_not_changed(
    answer: Callable[..., tuple[Run, list[str]]],
) -> None:
    first, _ = answer(ROWS)
    damage_answer(first.folder / "ledger.db", row=3)
    before = (first.folder / "ledger.db").read_bytes()
    with lock_run(first.folder):
        other, asked = answer(ROWS[::-1])
    assert (first.folder / "ledger.db").read_bytes() == before
    assert other.folder != first.folder and len(asked) == 40


def test_a_run_in_use_is_not_started_again_beside_itself(
    answer: Callable[..., tuple[Run, list[str]]],
) -> None:
    first, _ = answer(ROWS)
    with lock_run(first.folder), pytest.raises(RunLocked):
        answer(ROWS[::-1])


def test_gold_that_is_filled_in_later_asks_nothing_again(
    answer: Callable[..., tuple[Run, list[str]]], tmp_path: Path
) -> None:
    first, _ = answer(ROWS, out=tmp_path / "out")
    before = read_answers(first.folder)
    assert first.metrics == {}
    labelled = [{**row, "purpose": "curative", "note": "checked"} for row in ROWS]
    again, asked = answer(labelled, out=tmp_path / "out", gold="purpose")
    assert asked == []
    assert read_answers(again.folder) == before
    assert again.metrics["accuracy"] is not None and again.metrics["accuracy"].n == 40
    assert again.table_change == {"reused": 40, "asked": 0, "changed": 0, "gone": 0}
    assert "40 rows reused, none asked anew" in again.notes[0]


def test_a_table_that_was_corrected_sorted_and_grown_asks_only_for_what_it_changed(
    answer: Callable[..., tuple[Run, list[str]]], tmp_path: Path
) -> None:
    first, _ = answer(ROWS, out=tmp_path / "out")
    before = read_answers(first.folder)
    rows = [dict(row) for row in ROWS[3:]]
    rows[5]["procedure"] = "biopsy"
    rows += [
        {"case_id": f"n{number}", "procedure": f"staging {number}", "purpose": ""}
        for number in range(4)
    ]
    random.Random(1).shuffle(rows)
    again, asked = answer(rows, out=tmp_path / "out")
    assert sorted(asked) == ["biopsy", *(f"staging {number}" for number in range(4))]
    assert again.table_change == {"reused": 36, "asked": 5, "changed": 1, "gone": 3}
    assert (
        "36 rows reused, 5 asked anew (1 with a changed text), 3 of the earlier" in (again.notes[0])
    )
    after = read_answers(again.folder)
    assert list(after) == [row["case_id"] for row in rows]
    kept = {name for name in before if name in after and name != ROWS[8]["case_id"]}
    assert len(kept) == 36
    assert all(after[name] == before[name] for name in kept)
    fresh, _ = answer(rows, out=tmp_path / "fresh")
    assert {name: row["answer"] for name, row in read_answers(fresh.folder).items()} == {
        name: row["answer"] for name, row in after.items()
    }
    manifest = json.loads((again.folder / "manifest.json").read_text())
    assert [change["gone"] for change in manifest["table_changes"]] == [3]
    assert "moving_answers" not in manifest


def test_rows_that_come_back_are_not_asked_again(
    answer: Callable[..., tuple[Run, list[str]]], tmp_path: Path
) -> None:
    first, _ = answer(ROWS, out=tmp_path / "out")
    before = read_answers(first.folder)
    answer(ROWS[10:], out=tmp_path / "out")
    again, asked = answer(ROWS, out=tmp_path / "out")
    assert asked == []
    assert read_answers(again.folder) == before
    state = verify_ledger(again.folder / "ledger.db")
    assert (state.problem, state.intact) == (None, 80)


def test_an_interrupted_run_of_a_changed_table_has_the_batches_of_an_uninterrupted_one(
    task: Task, tmp_path: Path
) -> None:
    grown = [*ROWS, *({"case_id": f"n{one}", "procedure": f"new {one}"} for one in range(20))]

    class Batches(FakeEngine):
        def __init__(self, stop_after: int = 100) -> None:
            super().__init__(batch=8)
            self.batches: list[list[str]] = []
            self.stop_after = stop_after

        def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
            if len(self.batches) == self.stop_after:
                raise MemoryError
            self.batches.append([prompt.record_id for prompt in batch])
            return super().score_batch(batch)

    for folder in ("whole", "stopped"):
        run(task, FakeEngine(), ROWS, out=tmp_path / folder)
    whole, stopped, resumed = Batches(), Batches(stop_after=1), Batches()
    run(task, whole, grown, out=tmp_path / "whole")
    with pytest.raises(EngineError):
        run(task, stopped, grown, out=tmp_path / "stopped")
    run(task, resumed, grown, out=tmp_path / "stopped")
    assert [len(batch) for batch in whole.batches] == [8, 8, 4]
    assert stopped.batches + resumed.batches == whole.batches


def test_the_same_command_finds_its_run_when_the_file_has_changed(
    answer: Callable[..., tuple[Run, list[str]]],
) -> None:
    first, _ = answer(ROWS)
    grown, asked = answer([*ROWS, {"case_id": "n", "procedure": "new", "purpose": ""}])
    assert (grown.folder, asked) == (first.folder, ["new"])


def test_a_file_of_another_name_continues_a_run_only_with_the_same_rows(
    answer: Callable[..., tuple[Run, list[str]]],
) -> None:
    first, _ = answer(ROWS)
    labelled = [{**row, "purpose": "curative"} for row in ROWS]
    renamed, asked = answer(labelled, file="with gold.csv")
    assert (renamed.folder, asked) == (first.folder, [])
    other, asked = answer([*ROWS[:30], {**ROWS[30], "procedure": "other"}], file="part.csv")
    assert other.folder != first.folder and len(asked) == 31
    assert any(f"with --out {first.folder}" in note for note in other.notes)


def test_other_rows_in_a_file_of_the_same_name_are_another_run(
    answer: Callable[..., tuple[Run, list[str]]],
) -> None:
    first, _ = answer(ROWS)
    february = [{**row, "procedure": f"february {row['procedure']}"} for row in ROWS]
    second, asked = answer(february)
    assert second.folder != first.folder
    assert len(asked) == 40


def test_another_table_is_refused_with_the_number_of_rows_that_it_shares(
    answer: Callable[..., tuple[Run, list[str]]], tmp_path: Path
) -> None:
    first, _ = answer(ROWS, out=tmp_path / "out")
    before = read_answers(first.folder)
    other = ROWS[:5] + [{**row, "procedure": f"other {row['procedure']}"} for row in ROWS[5:]]
    with pytest.raises(RunMismatch, match="5 of its 40 rows are in this one") as refusal:
        answer(other, out=tmp_path / "out")
    assert "data.sha256" in str(refusal.value) and "--new-run" in refusal.value.fix
    assert read_answers(first.folder) == before


def test_a_new_run_asks_everything_again(
    answer: Callable[..., tuple[Run, list[str]]], tmp_path: Path
) -> None:
    answer(ROWS, out=tmp_path / "out")
    labelled = [{**row, "purpose": "curative"} for row in ROWS]
    again, asked = answer(labelled, out=tmp_path / "out", new_run=True)
    assert again.folder == tmp_path / "out-2" and len(asked) == 40


def test_rows_with_the_same_text_are_answered_once_also_after_a_move(
    answer: Callable[..., tuple[Run, list[str]]], tmp_path: Path
) -> None:
    twins = [dict(row, procedure=f"resection {index // 2}") for index, row in enumerate(ROWS)]
    first, _ = answer(twins, out=tmp_path / "out")
    again, asked = answer(twins[::-1], out=tmp_path / "out")
    assert asked == []
    assert read_answers(again.folder) == dict(reversed(read_answers(first.folder).items()))
    with sqlite3.connect(again.folder / "ledger.db") as db:
        (costly,) = db.execute(
            "SELECT count(*) FROM answers WHERE tokens_read > 0 AND row <= 40"
        ).fetchone()
    assert costly == 20


def test_a_limited_run_keeps_the_answers_of_later_rows(
    answer: Callable[..., tuple[Run, list[str]]], tmp_path: Path
) -> None:
    answer(ROWS, out=tmp_path / "out")
    backwards = ROWS[::-1]
    part, asked = answer(backwards, out=tmp_path / "out", limit=10)
    assert (part.rows, asked) == (10, [])
    whole, asked = answer(backwards, out=tmp_path / "out")
    assert (whole.rows, asked) == (40, [])


@pytest.mark.parametrize("place", ["before the move", "after the move"])
def test_a_move_that_was_killed_is_done_again(
    answer: Callable[..., tuple[Run, list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    first, _ = answer(ROWS, out=tmp_path / "out")
    before = read_answers(first.folder)
    move = session_folder.move_answers

    def die(*arguments: Any) -> None:
        if place == "after the move":
            move(*arguments)
        raise SystemExit

    monkeypatch.setattr(session_folder, "move_answers", die)
    with pytest.raises(SystemExit):
        answer(ROWS[5:][::-1], out=tmp_path / "out")
    monkeypatch.undo()
    # The user has restored the table meanwhile.
    again, asked = answer(ROWS, out=tmp_path / "out")
    assert asked == []
    assert read_answers(again.folder) == before


def test_rows_without_an_id_column_are_found_by_their_text(
    task_folder: Path, tmp_path: Path
) -> None:
    file = task_folder / "task.yaml"
    file.write_text(file.read_text().replace("id: case_id\n", ""))
    task = load_task(task_folder)
    rows = [{"procedure": f"resection {number}"} for number in range(20)]
    run(task, FakeEngine(), rows, out=tmp_path / "out")
    again = run(task, FakeEngine(), [{"procedure": "new"}, *rows[1:]], out=tmp_path / "out")
    assert again.table_change == {"reused": 19, "asked": 1, "changed": 0, "gone": 1}


def test_a_cascade_keeps_its_rows_and_its_order_when_gold_is_filled_in(
    task: Task, tmp_path: Path
) -> None:
    rows = [
        {"case_id": f"c{number}", "procedure": f"resection {number % 7} {number}", "purpose": ""}
        for number in range(60)
    ]
    first = run(task, FakeEngine(), rows, out=tmp_path / "out", cascade=0.05)
    labelled = [{**row, "purpose": "curative"} for row in rows]
    again = run(task, FakeEngine(), labelled, out=tmp_path / "out", cascade=0.05)
    assert again.new_answers == 0 and again.cascade and first.cascade
    assert again.cascade["decision"] == first.cascade["decision"]
    with pytest.raises(RunMismatch, match="a run with a cascade"):
        run(task, FakeEngine(), labelled[::-1], out=tmp_path / "out", cascade=0.05)
