"""Answers that runs share: asked once, equal to those of a run alone, private, never a risk."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import platformdirs
import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import EngineError, UsageError
from medtask.records import Status
from medtask.runs import cache_file
from medtask.runs.answer_cache import find_cache_obstacle, locate_cache
from medtask.runs.local_run import Run, run
from medtask.runs.system_facts import read_system_facts
from medtask.tasks.load import load_task
from medtask.tasks.task import Task
from support.tasks_by_kind import write_task_and_table

ROWS = 120
Rows = Callable[[int], Path]
COSTS = {"ms", "tokens_read", "tokens_reused"}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "shared.db"


def read_answers(result: Run) -> list[dict[str, str]]:
    with (result.folder / "answers.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def count_stored(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        (count,) = db.execute("SELECT count(*) FROM answers").fetchone()
        return int(count)


def run_cached(task: Task, rows: object, out: Path, cache: Path, **options: object) -> Run:
    model = options.pop("model", None) or FakeEngine()
    return run(task, model, rows, out=out, cache=cache, **options)  # type: ignore[arg-type]


def test_a_second_run_asks_nothing_and_has_the_same_answers(
    task: Task, write_rows: Rows, tmp_path: Path, cache: Path
) -> None:
    rows, model = write_rows(ROWS), FakeEngine()
    plain = run(task, FakeEngine(), rows, out=tmp_path / "plain")
    first = run_cached(task, rows, tmp_path / "first", cache)
    again = run_cached(task, rows, tmp_path / "again", cache, model=model)
    assert model.prompt_count == 0
    assert read_answers(again) == read_answers(first) == read_answers(plain)
    asked = sum(row["status"] != "empty_input" for row in read_answers(plain))
    assert (first.cached_answers, again.cached_answers) == (0, asked)
    manifest = json.loads((again.folder / "manifest.json").read_text())
    assert manifest["cache"] == {"file": str(cache), "rows": asked}
    assert again.to_json()["from_cache"] == asked
    assert f"{asked} of {ROWS} rows, asked in earlier runs" in (
        again.folder / "report.html"
    ).read_text().replace("\n", " ")


@pytest.mark.parametrize("kind", ["labels", "choice", "several"])
def test_a_run_with_some_answers_of_another_table_equals_one_without(
    kind: str, tmp_path: Path, cache: Path
) -> None:
    folder, table = write_task_and_table(kind, tmp_path, ROWS)
    task = load_task(folder)
    plain = run(task, FakeEngine(), table, out=tmp_path / "plain")
    with table.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    part = [row | {"case": f"other-{number}"} for number, row in enumerate(rows[::3])]
    run_cached(task, part, tmp_path / "part", cache)
    result = run_cached(task, table, tmp_path / "whole", cache)
    assert 0 < result.cached_answers < ROWS
    assert read_answers(result) == read_answers(plain)


def test_another_task_model_or_pass_model_finds_nothing(tmp_path: Path, cache: Path) -> None:
    folder, table = write_task_and_table("choice", tmp_path, 60)
    task = load_task(folder)
    run_cached(task, table, tmp_path / "first", cache)
    other_model = run_cached(task, table, tmp_path / "model", cache, model=FakeEngine(seed=1))
    file = folder / "task.yaml"
    text = file.read_text()
    file.write_text(text.replace("seed=5", "seed=6"))
    other_pass = run_cached(load_task(folder), table, tmp_path / "pass", cache)
    file.write_text(text.replace("Decide about", "Choose for"))
    other_task = run_cached(load_task(folder), table, tmp_path / "task2", cache)
    assert [one.cached_answers for one in (other_model, other_pass, other_task)] == [0, 0, 0]
    file.write_text(text)
    same = run_cached(load_task(folder), table, tmp_path / "same", cache)
    assert same.cached_answers > 50


def test_the_file_is_private_and_has_no_text(
    task: Task, write_rows: Rows, tmp_path: Path, cache: Path
) -> None:
    run_cached(task, write_rows(ROWS), tmp_path / "out", cache)
    assert cache.stat().st_mode & 0o777 == 0o600
    assert cache.parent.stat().st_mode & 0o777 == 0o700
    content = b"".join(path.read_bytes() for path in cache.parent.iterdir())
    for word in (b"resection", b"biopsy", b"c-1", b"curative", b"staging", b"purpose"):
        assert word not in content


@pytest.mark.parametrize("kind", ["answer", "fields", "passes"])
def test_what_the_model_writes_is_not_cached_and_this_is_said(
    kind: str, tmp_path: Path, cache: Path
) -> None:
    folder, table = write_task_and_table(kind, tmp_path, 30)
    result = run_cached(load_task(folder), table, tmp_path / "out", cache)
    assert (
        "the answer cache is not used: the model writes text, and a cache holds probabilities only"
        in result.notes
    )
    assert not cache.exists()


def test_answers_of_a_server_are_not_cached(task: Task) -> None:
    engine = FakeEngine()
    assert find_cache_obstacle(task, [engine]) is None
    engine.info = replace(engine.info, traits=replace(engine.info.traits, server=True))
    assert find_cache_obstacle(task, [engine]) == (
        "the model of a server can change under the same name"
    )


def test_a_cascade_asks_the_model_and_says_so(
    task: Task, write_rows: Rows, tmp_path: Path, cache: Path
) -> None:
    result = run_cached(task, write_rows(60), tmp_path / "out", cache, cascade=0.1)
    assert "the answer cache is not used: a cascade asks the model in this run" in result.notes
    assert not cache.exists()


def test_failed_rows_are_asked_again(task: Task, tmp_path: Path, cache: Path) -> None:
    rows = [{"case_id": f"c-{row}", "procedure": f"resection {row}"} for row in range(20)]
    faulty = FakeEngine(nan={"c-7"}, too_long={"c-9"})
    first = run_cached(task, rows, tmp_path / "first", cache, model=faulty, max_error_rate=1)
    assert {Status.FAILED, Status.TOO_LONG} <= set(first.statuses)
    model = FakeEngine()
    again = run_cached(task, rows, tmp_path / "again", cache, model=model)
    assert model.prompt_count == 2
    assert not {Status.FAILED, Status.TOO_LONG} & set(again.statuses)


def test_an_interrupted_run_with_a_cache_ends_like_an_undisturbed_one(
    task: Task, write_rows: Rows, tmp_path: Path, cache: Path
) -> None:
    rows = write_rows(ROWS)
    plain = run(task, FakeEngine(), rows, out=tmp_path / "plain")
    run_cached(task, rows, tmp_path / "part", cache, limit=30)
    with pytest.raises(EngineError):
        run_cached(task, rows, tmp_path / "out", cache, model=FakeEngine(fails_after=40))
    model = FakeEngine()
    result = run_cached(task, rows, tmp_path / "out", cache, model=model)
    assert 0 < model.prompt_count < 60
    assert read_answers(result) == read_answers(plain)
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert 0 < manifest["cache"]["rows"] < 60  # with repeated texts
    later = run(task, FakeEngine(), rows, out=tmp_path / "out")
    assert json.loads((later.folder / "manifest.json").read_text())["cache"] == manifest["cache"]


def test_rows_from_the_cache_do_not_count_as_speed(
    task: Task, write_rows: Rows, tmp_path: Path, cache: Path
) -> None:
    rows = [{"case_id": str(row), "procedure": f"resection {row}"} for row in range(20)]
    run_cached(task, rows, tmp_path / "first", cache)
    again = run_cached(task, rows, tmp_path / "again", cache)
    assert again.rows_per_s == 0
    manifest = json.loads((again.folder / "manifest.json").read_text())
    assert manifest["timing"]["asked"] == 0
    assert read_system_facts(manifest).rows_per_s is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"this is no database at all, but something else" * 100,
        lambda content: content[: len(content) // 2],
        lambda content: content[:4096] + bytes(len(content) - 4096),
        lambda content: bytes(100) + content[100:],
    ],
)
def test_a_damaged_file_is_set_aside_with_a_note(
    damage: Callable[[bytes], bytes], task: Task, write_rows: Rows, tmp_path: Path, cache: Path
) -> None:
    rows = write_rows(200)
    first = run_cached(task, rows, tmp_path / "first", cache)
    damaged = damage(cache.read_bytes())
    cache.write_bytes(damaged)
    again = run_cached(task, rows, tmp_path / "again", cache)
    assert read_answers(again) == read_answers(first)
    assert any("was damaged" in note and "shared.damaged.db" in note for note in again.notes)
    assert cache.with_name("shared.damaged.db").read_bytes()[:4096] == damaged[:4096]
    run_cached(task, rows, tmp_path / "third", cache)
    assert run_cached(task, rows, tmp_path / "fourth", cache).cached_answers > 150


def test_a_changed_row_is_asked_again(
    task: Task, write_rows: Rows, tmp_path: Path, cache: Path
) -> None:
    rows = write_rows(40)
    first = run_cached(task, rows, tmp_path / "first", cache)
    with closing(sqlite3.connect(cache)) as db:
        db.execute(
            "UPDATE answers SET value = '\"2\"' WHERE row IN (SELECT row FROM answers LIMIT 3)"
        )
        db.execute(
            "UPDATE answers SET crc = crc + 1 WHERE row IN (SELECT row FROM answers LIMIT 3)"
        )
        db.commit()
    model = FakeEngine()
    again = run_cached(task, rows, tmp_path / "again", cache, model=model)
    assert model.prompt_count == 3
    assert read_answers(again) == read_answers(first)


def test_a_link_and_another_database_are_not_touched(
    task: Task, write_rows: Rows, tmp_path: Path, cache: Path
) -> None:
    rows = write_rows(30)
    first = run_cached(task, rows, tmp_path / "first", cache)
    ledger = first.folder / "ledger.db"
    before = ledger.read_bytes()
    link = tmp_path / "link.db"
    link.symlink_to(cache)
    for path in (ledger, link):
        result = run_cached(task, rows, tmp_path / f"out-{path.stem}", path)
        assert (result.state, result.cached_answers) == ("finished", 0)
        assert any(note.startswith(f"the answer cache {path} is not used") for note in result.notes)
    assert ledger.read_bytes() == before


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_a_note(
    task: Task, write_rows: Rows, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    result = run_cached(task, write_rows(30), tmp_path / "out", locked / "shared.db")
    assert result.state == "finished"
    assert any("is not used: Permission denied" in note for note in result.notes)


def test_a_table_named_by_mistake_is_refused(task: Task, write_rows: Rows, tmp_path: Path) -> None:
    rows = write_rows(3)
    with pytest.raises(UsageError, match="not a valid name for an answer cache"):
        run_cached(task, rows, tmp_path / "out", rows)


def test_the_default_file_is_in_the_users_cache_folder() -> None:
    assert locate_cache(True) == Path(platformdirs.user_cache_dir("medtask")) / "answers.db"
    assert locate_cache(False) is None


def test_a_file_that_grows_too_large_loses_its_oldest_answers(
    task: Task, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_rows(word: str) -> list[dict[str, str]]:
        return [{"case_id": str(row), "procedure": f"{word} {row}"} for row in range(200)]

    run_cached(task, make_rows("old"), tmp_path / "old", cache)
    with closing(sqlite3.connect(cache)) as db:
        db.execute("UPDATE answers SET day = day - 1")
        db.commit()
    monkeypatch.setattr(cache_file, "MAX_CACHE_BYTES", cache.stat().st_size)
    run_cached(task, make_rows("new"), tmp_path / "new", cache)
    kept = count_stored(cache)
    assert 50 < kept < 200
    assert run_cached(task, make_rows("new"), tmp_path / "again", cache).cached_answers == kept


_RUN = """
import sys
from pathlib import Path
from medtask.engines.fake import FakeEngine
from medtask.runs.local_run import run
from medtask.tasks.load import load_task
task, rows, out, cache, first = sys.argv[1:]
table = [
    {"case_id": str(row), "procedure": f"resection {row}"}
    for row in range(int(first), int(first) + int(rows))
]
result = run(load_task(task), FakeEngine(batch=4), table, out=out, cache=cache)
print(result.state, *result.notes)
"""


@pytest.mark.slow
def test_several_processes_use_one_file_at_once(
    task_folder: Path, tmp_path: Path, cache: Path
) -> None:
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                _RUN,
                task_folder,
                "400",
                tmp_path / f"{n}",
                cache,
                str(200 * n),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    assert [process.communicate(timeout=300)[0].strip() for process in processes] == [
        "finished"
    ] * 4
    assert count_stored(cache) == 1000
    with closing(sqlite3.connect(cache)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
