from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from medtask.errors import EngineError, InputError, RunMismatch
from medtask.runs.evaluation import evaluate
from medtask.runs.local_run import Run, run
from medtask.tasks.load import load_task
from medtask.tasks.task import STUDENT_PASS, Task
from support.keyword_engine import WORDS, KeywordEngine, write_operations

ROWS = 1_000


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("purpose")
    (folder / "task.yaml").write_text(
        "name: purpose\ninstruction: Decide the purpose.\ninput: '{{ text }}'\n"
        f"answer: {{kind: label, labels: [{', '.join(WORDS)}]}}\ncascade: {{alpha: 0.05}}\n"
    )
    return load_task(folder)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    engine = KeywordEngine(noise=0.02)
    texts = write_operations(ROWS)
    return [{"text": text, "purpose": engine.choose_label(text)} for text in texts]


@pytest.fixture(scope="module")
def finished(
    task: Task, rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    out = tmp_path_factory.mktemp("run") / "run"
    return run(task, KeywordEngine(noise=0.02), rows, out=out, baselines=False, gold="purpose")


def read_answers(folder: Path) -> list[tuple[str, str]]:
    return list(pl.read_parquet(folder / "answers.parquet").select("answer", "pass").iter_rows())


def test_tables_manifest_and_report_name_the_rows_of_each_tier(finished: Run) -> None:
    answers = read_answers(finished.folder)
    passes = [name for _, name in answers]
    cascade = finished.to_json()["cascade"]
    assert passes.count(STUDENT_PASS) == cascade["student_rows"] > 150
    assert cascade["model_rows"] + cascade["student_rows"] == ROWS
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    assert manifest["cascade"] == json.loads(json.dumps(cascade))
    assert json.loads((finished.folder / "report.json").read_text())["cascade"] is not None
    page = (finished.folder / "report.html").read_text()
    assert "Who answered the rows?" in page
    assert "With 95 % probability, at most 5 % of" in page
    assert any("a student answers" in note for note in finished.notes)


def test_few_answers_differ_from_the_model(finished: Run, rows: list[dict[str, str]]) -> None:
    wrong = sum(
        answer != row["purpose"]
        for (answer, _), row in zip(read_answers(finished.folder), rows, strict=True)
    )
    assert wrong <= 0.05 * ROWS


@pytest.mark.scale
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_run_whose_engine_failed_is_resumed_with_the_same_answers(
    task: Task,
    rows: list[dict[str, str]],
    finished: Run,
    share: float,
    tmp_path: Path,
) -> None:
    assert finished.cascade is not None
    broken = KeywordEngine(noise=0.02)
    broken.fails_after = int(share * finished.cascade["model_rows"])
    with pytest.raises(EngineError):
        run(task, broken, rows, out=tmp_path / "run", baselines=False)
    resumed = run(task, KeywordEngine(noise=0.02), rows, out=tmp_path / "run", baselines=False)
    assert read_answers(resumed.folder) == read_answers(finished.folder)


def test_a_finished_run_asks_nothing_again(
    task: Task, rows: list[dict[str, str]], finished: Run
) -> None:
    engine = KeywordEngine(noise=0.02)
    before = read_answers(finished.folder)
    again = run(task, engine, rows, out=finished.folder, baselines=False, gold="purpose")
    assert (engine.prompt_count, again.new_answers) == (0, 0)
    assert read_answers(again.folder) == before
    assert again.cascade is not None
    assert again.cascade["student_rows"] == (finished.cascade or {})["student_rows"]


def test_only_rows_that_the_model_has_answered_are_asked_again_for_flips(
    task: Task, rows: list[dict[str, str]], finished: Run
) -> None:
    engine = KeywordEngine(noise=0.02)
    run(task, engine, rows, out=finished.folder, baselines=False, flip_check=ROWS)
    entry = json.loads((finished.folder / "manifest.json").read_text())["flip_check"]
    assert entry["rows"] == (finished.cascade or {})["model_rows"]
    assert entry["flips"] == 0


def test_a_run_is_not_resumed_with_another_alpha_or_number_of_rows(
    task: Task, rows: list[dict[str, str]], finished: Run
) -> None:
    for options in ({"cascade": 0.02}, {"limit": 100}):
        with pytest.raises(RunMismatch, match=r"cascade\."):
            run(task, KeywordEngine(noise=0.02), rows, out=finished.folder, **options)  # type: ignore[arg-type]


def test_a_calibration_is_not_fitted_on_rows_that_a_student_answered(
    finished: Run, tmp_path: Path
) -> None:
    evaluation = evaluate(
        finished.folder, gold="purpose", calibrate="temperature", out=tmp_path, baselines=False
    )
    assert evaluation.calibration is None
    assert "without a cascade" in evaluation.refusals["calibration"].reason


def test_a_cascade_needs_a_task_with_labels(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(
        "name: q\ninstruction: Answer.\ninput: '{{ text }}'\nanswer: {kind: answer}\n"
    )
    task = load_task(tmp_path)
    with pytest.raises(InputError, match="kind answer"):
        run(task, KeywordEngine(), [{"text": "a"}], out=tmp_path / "run", cascade=0.02)


RUN_SCRIPT = """
import json, sys
from pathlib import Path
from medtask.runs.local_run import run
from medtask.tasks.load import load_task
from support.keyword_engine import KeywordEngine

class SlowEngine(KeywordEngine):
    def score_batch(self, batch):
        print(self.prompt_count, flush=True)
        return super().score_batch(batch)

engine = SlowEngine(noise=0.02)
engine.ms_per_row = 3.0
run(load_task(sys.argv[1]), engine, sys.argv[2], out=sys.argv[3], baselines=False)
"""


@pytest.fixture(scope="module")
def table(rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def whole(task: Task, table: Path) -> Run:
    """A run of the file: it has another random order than one of the rows in memory."""
    return run(task, KeywordEngine(noise=0.02), table, out=table.parent / "whole", baselines=False)


@pytest.mark.scale
@pytest.mark.parametrize("prompts", [50, 150])
def test_a_killed_run_is_resumed_with_the_same_answers(
    task: Task, table: Path, whole: Run, prompts: int, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert task.source is not None
    command = [sys.executable, "-c", RUN_SCRIPT, str(task.source), str(table), str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= prompts:
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
    engine = KeywordEngine(noise=0.02)
    resumed = run(task, engine, table, out=out, baselines=False)
    assert engine.prompt_count < ROWS - prompts
    assert {name for _, name in read_answers(resumed.folder)} == {"first", STUDENT_PASS}
    assert read_answers(resumed.folder) == read_answers(whole.folder)
