from __future__ import annotations

import codecs
import hashlib
import json
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import openpyxl
import polars as pl
import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import (
    EngineError,
    InputError,
    MissingExtra,
    RunLocked,
    RunMismatch,
    StorageError,
    TableError,
    UsageError,
)
from medtask.records import Prompt, Scores, Status
from medtask.runs.local_run import Run, run
from medtask.runs.lock import lock_run
from medtask.runs.progress import NullRunObserver
from medtask.tasks.load import load_task
from medtask.tasks.task import Task

Rows = Callable[[int], Path]


class BatchRecordingEngine(FakeEngine):
    """Keeps the batches that it was asked, by the ids in them."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.batches: list[list[str]] = []

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        self.batches.append([prompt.record_id for prompt in batch])
        return super().score_batch(batch)


class RecordingProgress(NullRunObserver):
    """Records the progress that a run reports."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.events: list[tuple[object, ...]] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_start(self, rows: int, done: int) -> None:
        self.events.append(("start", rows, done))

    def on_batch(self, done: int, tokens_read: int, tokens_reused: int) -> None:
        self.events.append(("batch", done, tokens_read, tokens_reused))

    def on_finish(self) -> None:
        self.events.append(("finish",))


def digest_folder(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != ".lock"
    }


def read_run_manifest(result: Run) -> dict[str, object]:
    return dict(json.loads((result.folder / "manifest.json").read_text()))


def edit_task(folder: Path, old: str, new: str) -> Task:
    file = folder / "task.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return load_task(folder)


def test_a_run_leaves_a_folder_with_answers_for_every_row(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    result = run(task, FakeEngine(), write_rows(120), out=tmp_path / "out")
    assert (result.state, result.exit_code, result.rows, result.new_answers) == (
        "finished",
        0,
        120,
        120,
    )
    visible = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert visible == {
        "manifest.json",
        "ledger.db",
        "answers.csv",
        "answers.parquet",
        "report.html",
        "report.json",
    }
    frame = pl.read_parquet(tmp_path / "out" / "answers.parquet")
    assert frame.columns == [
        "case_id",
        "procedure",
        "answer",
        "confidence",
        "status",
        "reason",
        "pass",
        "probabilities",
    ]
    assert frame["case_id"].to_list() == [f"c-{row}" for row in range(1, 121)]
    assert set(frame["answer"]) <= {"curative", "palliative", "staging", None}
    assert (frame["answer"].is_null() == (frame["status"] == "empty_input")).all()
    assert sum(result.statuses.values()) == 120
    assert result.summary is not None
    assert (result.summary.rows, result.summary.statuses) == (120, result.statuses)
    assert any(share != round(share, 4) for share in frame["confidence"] if share)
    people = pl.read_csv(tmp_path / "out" / "answers.csv", infer_schema=False)
    assert people.columns == frame.columns[:-1]
    assert people["confidence"].to_list() == [
        None if share is None else repr(round(share, 4)) for share in frame["confidence"]
    ]


def test_everything_in_the_folder_is_for_its_owner_only(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    folder = run(task, FakeEngine(), write_rows(5), out=tmp_path / "out").folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_finished_run_asks_nothing_and_derives_the_same_again(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    rows = write_rows(50)
    run(task, FakeEngine(), rows, out=tmp_path / "out")
    before = (tmp_path / "out" / "answers.csv").read_bytes()
    (tmp_path / "out" / "answers.csv").write_text("damaged")
    file = tmp_path / "out" / "manifest.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "created": "2026-11-20T14:12:00+00:00"})
    )
    engine = FakeEngine()
    result = run(task, engine, rows, out=tmp_path / "out", formats=["jsonl", "xlsx"])
    assert (engine.prompt_count, result.new_answers, result.exit_code) == (0, 0, 0)
    assert (tmp_path / "out" / "answers.csv").read_bytes() == before
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 50
    assert (tmp_path / "out" / "answers.xlsx").exists()
    assert read_run_manifest(result)["created"] == "2026-11-20T14:12:00+00:00"
    assert read_run_manifest(result)["timing"]["sessions"] == 2  # type: ignore[index]


def test_answers_to_a_workbook_are_a_workbook_too_and_their_csv_opens_in_excel(
    task: Task, tmp_path: Path
) -> None:
    book = openpyxl.Workbook()
    for cells in (["case_id", "procedure"], ["000052", "fjerning av blære, høyre side"]):
        book.active.append(cells)
    book.save(tmp_path / "cases.xlsx")
    folder = run(task, FakeEngine(), tmp_path / "cases.xlsx", out=tmp_path / "out").folder
    sheet = openpyxl.load_workbook(folder / "answers.xlsx").active
    assert [cell.value for cell in sheet[2]][:2] == ["000052", "fjerning av blære, høyre side"]
    assert (folder / "answers.csv").read_bytes().startswith(codecs.BOM_UTF8)
    chosen = run(task, FakeEngine(), tmp_path / "cases.xlsx", out=tmp_path / "b", formats=["csv"])
    assert not (chosen.folder / "answers.xlsx").exists()


def test_a_run_that_broke_down_goes_on_with_the_same_batches_and_asks_nothing_twice(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    rows = write_rows(1500)
    full = BatchRecordingEngine()
    broken = BatchRecordingEngine(fails_after=700)
    resumed = BatchRecordingEngine()
    reference = run(task, full, rows, out=tmp_path / "reference")
    with pytest.raises(EngineError):
        run(task, broken, rows, out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["state"] == "interrupted"
    assert not (tmp_path / "out" / "answers.csv").exists()
    witness = RecordingProgress()
    result = run(task, resumed, rows, out=tmp_path / "out", progress=witness)
    answered = broken.batches[:-1]  # the last one broke down
    assert answered + resumed.batches == full.batches
    assert result.new_answers + witness.events[0][2] == 1500  # type: ignore[operator]
    assert (result.folder / "answers.csv").read_bytes() == (
        reference.folder / "answers.csv"
    ).read_bytes()
    assert pl.read_parquet(result.folder / "answers.parquet").equals(
        pl.read_parquet(reference.folder / "answers.parquet")
    )


def test_running_out_of_memory_is_an_engine_error_and_loses_nothing(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    class OutOfMemoryEngine(FakeEngine):
        def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
            if self.prompt_count > 20:
                raise MemoryError
            return super().score_batch(batch)

    with pytest.raises(EngineError, match="memory") as refusal:
        run(task, OutOfMemoryEngine(), write_rows(60), out=tmp_path / "out")
    assert refusal.value.exit_code == 5
    engine = FakeEngine()
    run(task, engine, write_rows(60), out=tmp_path / "out")
    assert 0 < engine.prompt_count <= 40


def test_a_limit_answers_the_first_rows_and_a_larger_one_goes_on(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    rows = write_rows(60)
    first = run(task, FakeEngine(), rows, out=tmp_path / "out", limit=20)
    assert (first.rows, sum(first.statuses.values())) == (20, 20)
    assert pl.read_parquet(tmp_path / "out" / "answers.parquet").height == 20
    second = run(task, FakeEngine(), rows, out=tmp_path / "out")
    assert (second.rows, second.new_answers) == (60, 40)
    third = run(task, FakeEngine(), rows, out=tmp_path / "out", limit=10)
    assert (
        third.new_answers,
        sum(third.statuses.values()),
        pl.read_parquet(tmp_path / "out" / "answers.parquet").height,
    ) == (0, 10, 10)


def test_equal_texts_are_asked_once(task: Task, tmp_path: Path) -> None:
    rows = [
        {"case_id": str(row), "procedure": "resection" if row % 2 else "biopsy"}
        for row in range(3000)
    ]
    engine = FakeEngine()
    run(task, engine, rows, out=tmp_path / "out")
    assert engine.prompt_count == 2


def test_bad_numbers_fail_their_rows_alone_and_show_in_the_exit_code(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    rows = [{"case_id": f"c-{row}", "procedure": f"resection {row}"} for row in range(100)]
    plain = pl.read_parquet(
        run(task, FakeEngine(), rows, out=tmp_path / "plain").folder / "answers.parquet"
    )
    engine = FakeEngine(nan={"c-3", "c-5"}, impossible={"c-7", "c-8"}, too_long={"c-9", "c-11"})
    result = run(task, engine, rows, out=tmp_path / "out")
    assert (result.statuses[Status.FAILED], result.statuses[Status.TOO_LONG], result.exit_code) == (
        4,
        2,
        3,
    )
    assert run(task, engine, rows, out=tmp_path / "out", max_error_rate=0.06).exit_code == 0
    frame = pl.read_parquet(result.folder / "answers.parquet")
    bad = frame["status"].is_in(["failed", "too_long"])
    assert frame.filter(bad).select("answer", "confidence").null_count().row(0) == (6, 6)
    assert frame.filter(~bad).equals(plain.filter(~bad))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (
            ("Decide the main", "Decide the only"),
            "task.instruction: 'Decide the main purpose of the operation.' became 'Decide the only",
        ),
        (
            ("eases complaints", "eases pain"),
            "task.labels.palliative: 'eases complaints' became 'eases pain'",
        ),
        (('input: "{{', 'input: "Text {{'), "task.input"),
    ],
)
def test_another_task_is_refused_by_name_of_what_changed(
    task_folder: Path, write_rows: Rows, tmp_path: Path, change: tuple[str, str], field: str
) -> None:
    rows = write_rows(20)
    folder = run(load_task(task_folder), FakeEngine(), rows, out=tmp_path / "out").folder
    before = digest_folder(folder)
    changed = edit_task(task_folder, *change)
    with pytest.raises(RunMismatch) as refusal:
        run(changed, FakeEngine(), rows, out=tmp_path / "out")
    assert field in str(refusal.value)
    assert "fingerprint" not in str(refusal.value)
    assert "data" not in str(refusal.value)
    assert digest_folder(folder) == before
    beside = run(changed, FakeEngine(), rows, out=tmp_path / "out", new_run=True)
    assert beside.folder == tmp_path / "out-2"
    assert digest_folder(folder) == before


def test_another_model_is_refused(task: Task, write_rows: Rows, tmp_path: Path) -> None:
    run(task, FakeEngine(), write_rows(5), out=tmp_path / "out")
    with pytest.raises(RunMismatch, match=r"model\.seed: '0' became '1'"):
        run(task, FakeEngine(seed=1), write_rows(5), out=tmp_path / "out")


def test_another_table_is_refused_before_a_model_is_loaded(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    run(task, FakeEngine(), write_rows(5), out=tmp_path / "out")
    with pytest.raises(RunMismatch, match=r"data\.sha256"):
        run(task, lambda: pytest.fail("loaded"), write_rows(6), out=tmp_path / "out")


def test_a_table_that_changes_meanwhile_gives_no_row_the_answer_of_another(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    rows = write_rows(50)
    text = rows.read_text()
    header, *lines = text.splitlines(keepends=True)

    class ReorderingEngine(FakeEngine):
        def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
            rows.write_text(header + "".join(reversed(lines)))
            return super().score_batch(batch)

    with pytest.raises(RunMismatch, match="was changed"):
        run(task, ReorderingEngine(), rows, out=tmp_path / "out")
    assert not (tmp_path / "out" / "answers.csv").exists()
    rows.write_text(text)
    assert run(task, FakeEngine(), rows, out=tmp_path / "out").exit_code == 0


def test_an_answer_to_a_text_that_the_row_no_longer_has_is_never_given_out(
    task: Task, tmp_path: Path
) -> None:
    rows = [{"case_id": f"c-{row}", "procedure": f"resection {row}"} for row in range(1100)]

    class RowChangingEngine(FakeEngine):
        """Changes the last row before it is read, and puts it back once it was asked about."""

        done = False

        def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
            self.done = self.done or "another" in {prompt.text for prompt in batch}
            rows[-1]["procedure"] = "resection 1099" if self.done else "another"
            return super().score_batch(batch)

    with pytest.raises(RunMismatch, match="text of row 1,100 is not the one that was answered"):
        run(task, RowChangingEngine(), rows, out=tmp_path / "out")
    assert not (tmp_path / "out" / "answers.csv").exists()


def test_without_a_folder_the_run_lives_beside_its_task_and_is_found_again(
    task_folder: Path, write_rows: Rows
) -> None:
    rows, task = write_rows(20), load_task(task_folder)
    first = run(task, FakeEngine(), rows, limit=5)
    assert first.folder.parent == task_folder / "runs"
    again = run(task, FakeEngine(), rows)
    assert (again.folder, again.new_answers) == (first.folder, 15)
    other = run(edit_task(task_folder, "main", "only"), FakeEngine(), rows)
    assert other.folder.parent == first.folder.parent
    assert other.folder != first.folder
    afresh = run(task, FakeEngine(), rows, new_run=True)
    assert afresh.folder not in (first.folder, other.folder)
    assert afresh.new_answers == 20
    file = first.folder / "manifest.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "created": "2026-11-20T14:12:00+00:00"})
    )
    assert run(task, FakeEngine(), rows, limit=1).folder == afresh.folder


def test_a_folder_of_something_else_is_left_alone(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.txt").write_text("It was")
    with pytest.raises(UsageError, match="not a run folder"):
        run(task, FakeEngine(), write_rows(5), out=tmp_path / "thesis")
    with pytest.raises(UsageError, match="is a file"):
        run(task, FakeEngine(), write_rows(5), out=tmp_path / "rows.csv")
    assert {path.name for path in (tmp_path / "thesis").iterdir()} == {"chapter-1.txt"}


def test_a_folder_that_cannot_be_made_is_reported_before_a_model_is_loaded(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="out"):
        run(task, lambda: pytest.fail("loaded"), write_rows(5), out=tmp_path / "rows.csv" / "out")


def test_a_folder_in_use_is_refused_before_a_model_is_loaded(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with lock_run(tmp_path / "out"), pytest.raises(RunLocked, match=f"process {os.getpid()}"):
        run(task, lambda: pytest.fail("loaded"), write_rows(5), out=tmp_path / "out")


def test_a_damaged_manifest_is_refused_with_its_remedy(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    run(task, FakeEngine(), write_rows(50), out=tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_bytes(b"\x17" * 5000)
    with pytest.raises(StorageError, match="damaged") as refusal:
        run(task, FakeEngine(), write_rows(50), out=tmp_path / "out")
    assert "aside" in refusal.value.fix


def test_a_truncated_ledger_is_resumed_and_the_loss_is_recorded(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(task, FakeEngine(), write_rows(150), out=out)
    before = (out / "answers.csv").read_bytes()
    with (out / "ledger.db").open("r+b") as file:
        file.truncate((out / "ledger.db").stat().st_size - 3500)
    outcome = run(task, FakeEngine(), write_rows(150), out=out)
    manifest = json.loads((out / "manifest.json").read_bytes())
    (recovery,) = manifest["recoveries"]
    assert 0 < outcome.new_answers == recovery["lost"] == 150 - recovery["kept"]
    assert (out / recovery["saved_as"]).is_file()
    assert any(f"{recovery['lost']} lost" in note for note in manifest["notes"])
    assert (out / "answers.csv").read_bytes() == before
    run(task, FakeEngine(), write_rows(150), out=out)
    assert json.loads((out / "manifest.json").read_bytes())["recoveries"] == [recovery]


def test_a_lost_ledger_is_begun_again(task: Task, write_rows: Rows, tmp_path: Path) -> None:
    run(task, FakeEngine(), write_rows(50), out=tmp_path / "out")
    before = (tmp_path / "out" / "answers.csv").read_bytes()
    (tmp_path / "out" / "ledger.db").unlink()
    outcome = run(task, FakeEngine(), write_rows(50), out=tmp_path / "out")
    assert outcome.new_answers == 50
    assert "50 lost" in " ".join(outcome.notes)
    assert (tmp_path / "out" / "answers.csv").read_bytes() == before


def test_columns_that_are_named_like_ours_keep_their_values_under_another_name(
    task: Task, tmp_path: Path
) -> None:
    rows = [
        {"case_id": "1", "procedure": "biopsy", "answer": "42", "status": "s", "input_status": "t"}
    ]
    witness = RecordingProgress()
    result = run(task, FakeEngine(), rows, out=tmp_path / "out", progress=witness)
    frame = pl.read_parquet(result.folder / "answers.parquet")
    assert frame.columns[:5] == [
        "case_id",
        "procedure",
        "input_answer",
        "input_input_status",
        "input_status",
    ]
    assert frame.row(0)[2:5] == ("42", "s", "t")
    assert (
        'the table has a column "answer": among the answers it is called "input_answer"'
        in witness.notes
    )
    assert result.notes == tuple(witness.notes)


def test_progress_is_reported_only_of_rows_that_are_safe(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    witness = RecordingProgress()
    result = run(task, FakeEngine(), write_rows(300), out=tmp_path / "out", progress=witness)
    assert witness.events[0] == ("start", 300, 0)
    assert witness.events[-1] == ("finish",)
    batches = [event[1:] for event in witness.events[1:-1]]
    assert batches == sorted(batches)
    assert batches[-1] == (300, result.tokens_read, result.tokens_reused)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"limit": 0}, UsageError),
        ({"formats": ["docx"]}, UsageError),
        ({"gold": "truth"}, InputError),
        ({"gold": "procedure"}, InputError),
    ],
)
def test_invalid_arguments_are_refused_before_a_folder_is_made(
    task: Task,
    write_rows: Rows,
    tmp_path: Path,
    arguments: dict[str, object],
    error: type[Exception],
) -> None:
    with pytest.raises(error) as refusal:
        run(task, lambda: pytest.fail("loaded"), write_rows(5), out=tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert "resection" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_a_table_without_rows_or_with_repeated_ids_is_refused(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("case_id,procedure\n")
    with pytest.raises(TableError):
        run(task, FakeEngine(), path, out=tmp_path / "out")
    path.write_text("case_id,procedure\n7,a\n 7,b\n")
    with pytest.raises(TableError, match="7"):
        run(task, FakeEngine(), path, out=tmp_path / "out")


def test_attempts_to_reach_another_machine_are_refused_and_counted(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    class ConnectingEngine(FakeEngine):
        def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
            try:
                socket.create_connection(("192.0.2.1", 80), timeout=1)
            except Exception:
                return super().score_batch(batch)
            pytest.fail("connected")

    result = run(task, ConnectingEngine(batch=64), write_rows(50), out=tmp_path / "out")
    assert read_run_manifest(result)["egress"] == {
        "guard": "on",
        "connections_attempted": 1,
        "sent_to": {},
    }
    result = run(task, FakeEngine(), write_rows(50), out=tmp_path / "out")
    assert read_run_manifest(result)["egress"] == {
        "guard": "on",
        "connections_attempted": 1,
        "sent_to": {},
    }


def test_the_manifest_reports_what_ran_and_no_record_text(
    task_folder: Path, write_rows: Rows, tmp_path: Path
) -> None:
    shown = edit_task(
        task_folder, "answer:\n", "examples: [{procedure: secretword, answer: staging}]\nanswer:\n"
    )
    result = run(shown, FakeEngine(), write_rows(50), out=tmp_path / "out", limit=30)
    manifest = read_run_manifest(result)
    assert manifest["state"] == "finished"
    assert manifest["data"]["rows"] == 50  # type: ignore[index]
    assert manifest["settings"]["rows"] == 30  # type: ignore[index]
    assert manifest["model"]["identity"]["reference"] == "fake:"  # type: ignore[index]
    assert manifest["counts"] == {str(status): count for status, count in result.statuses.items()}
    text = json.dumps(manifest)
    assert "secretword" not in text
    assert "resection" not in text


def test_gold_is_compared_with_answers_and_baselines(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(
        texts: Sequence[str],
    ) -> None:  # loading MiniLM takes longer than all other tests of this file
        raise MissingExtra("MiniLM is not installed here", fix="install it")

    monkeypatch.setattr("medtask.similarity.encode_texts", refuse)
    rows = [
        {
            "case_id": str(row),
            "procedure": f"resection {row}",
            "purpose": "curative" if row % 3 else "staging",
        }
        for row in range(12)
    ]
    rows[4]["purpose"] = "curativ"
    result = run(
        task, FakeEngine(prefers={"curative": 0.9}), rows, out=tmp_path / "out", gold="purpose"
    )
    assert result.summary is not None
    assert result.summary.gold is not None
    assert result.summary.gold.evaluation is not None
    assert result.summary.gold.evaluation.accuracy.value == pytest.approx(7 / 11)
    assert {baseline.name for baseline in result.baselines} >= {"majority", "TF-IDF"}
    (note,) = result.notes
    assert note == (
        'gold in the column "purpose" is not a label of the task in 1 row, left out of the metrics '
        '(row 5, perhaps "curative")'
    )


def test_without_gold_there_are_no_baselines(task: Task, write_rows: Rows, tmp_path: Path) -> None:
    result = run(task, FakeEngine(), write_rows(5), out=tmp_path / "out")
    assert result.baselines == ()
    assert result.summary is not None
    assert result.summary.gold is None
