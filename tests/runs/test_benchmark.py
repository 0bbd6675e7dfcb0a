from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import medtask
from medtask.engines.base import BatchSetting, PromptPlan
from medtask.engines.fake import FakeEngine
from medtask.errors import TableError, UsageError
from medtask.records import Message, Prompt, Scores
from medtask.runs.batch_measurements import select_by_length
from medtask.tasks.task import Task

WriteRows = Callable[[int], Path]


class SlowBatchEngine(FakeEngine):
    """Takes as long for a large batch as for a small one; records the prompts it was asked."""

    def __init__(self, ms_per_batch: float = 2.0) -> None:
        super().__init__()
        self.ms_per_batch = ms_per_batch
        self.texts: set[str] = set()

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        self.texts.update(prompt.text for prompt in batch)
        time.sleep(self.ms_per_batch / 1000)
        return super().score_batch(batch)


class FixedBatchEngine(SlowBatchEngine):
    def get_batch_setting(self, *, generates: bool = False) -> BatchSetting | None:
        return None


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read_batch(run: medtask.Run) -> object:
    return json.loads((run.folder / "manifest.json").read_text())["batch"]


def test_the_fastest_size_is_chosen_and_runs_use_it(
    task: Task, write_rows: WriteRows, tmp_path: Path
) -> None:
    table, engine = write_rows(200), SlowBatchEngine()
    before = medtask.run(task, engine, table, out=tmp_path / "before")
    assert read_batch(before) == {"unit": "rows", "size": 16, "measured": False}
    result = medtask.benchmark(task, table, models=[engine], rows=128)
    (model,) = result.models
    assert [point.size for point in model.points] == [4, 16, 64]
    assert model.chosen == 64
    assert (model.unit, model.default, model.rows) == ("rows", 16, 128)
    assert engine.batch == 16
    after = medtask.run(task, engine, table, out=tmp_path / "after")
    assert read_batch(after) == {"unit": "rows", "size": 64, "measured": True}
    assert engine.batch == 16


def test_a_resumed_run_keeps_its_size(task: Task, write_rows: WriteRows, tmp_path: Path) -> None:
    table, engine = write_rows(200), SlowBatchEngine()
    started = medtask.run(task, engine, table, out=tmp_path / "started")
    medtask.benchmark(task, table, models=[engine], rows=128)
    resumed = medtask.run(task, engine, table, out=tmp_path / "started")
    assert resumed.new_answers == 0
    assert read_batch(started) == read_batch(resumed)
    measured = medtask.run(task, engine, table, out=tmp_path / "measured")
    for kept in (tmp_path / "cache").rglob("batch-sizes/*"):
        kept.unlink()
    again = medtask.run(task, engine, table, out=tmp_path / "measured")
    assert read_batch(again) == read_batch(measured)
    assert read_batch(again) == {"unit": "rows", "size": 64, "measured": True}


def test_a_choice_is_that_of_one_task(task: Task, write_rows: WriteRows, tmp_path: Path) -> None:
    table, engine = write_rows(200), SlowBatchEngine()
    medtask.benchmark(task, table, models=[engine], rows=128)
    other = replace(task, instruction="Decide something else.", fingerprint="")
    run = medtask.run(other, engine, table, out=tmp_path / "other")
    assert read_batch(run) == {"unit": "rows", "size": 16, "measured": False}


def test_an_engine_without_a_batch_size_is_measured_once(task: Task, write_rows: WriteRows) -> None:
    result = medtask.benchmark(task, write_rows(60), models=[FixedBatchEngine()], rows=20)
    (model,) = result.models
    assert (model.unit, model.chosen, model.default) == (None, None, None)
    (point,) = model.points
    assert point.size is None
    assert point.rows_per_s > 0
    assert model.run_seconds


def test_a_signal_leaves_what_was_measured_and_chooses_nothing(
    task: Task, write_rows: WriteRows, cache_folder: Path
) -> None:
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            signal.raise_signal(signal.SIGINT)

    engine = SlowBatchEngine()
    result = medtask.benchmark(
        task, write_rows(200), models=[engine, FakeEngine()], rows=64, progress=interrupt
    )
    assert result.exit_code == 130
    (model,) = result.models
    assert [point.size for point in model.points] == [4, 16]
    assert (model.chosen, model.run_seconds) == (None, None)
    assert not list(cache_folder.rglob("batch-sizes/*"))
    assert engine.batch == 16
    assert result.to_json()["complete"] is False


def test_the_json_document_has_no_text_of_a_record(task: Task, write_rows: WriteRows) -> None:
    result = medtask.benchmark(task, write_rows(100), models=["fake:", "fake:seed=2"], rows=30)
    document = json.dumps(result.to_json(), allow_nan=False)
    assert "colon" not in document
    assert [model["reference"] for model in result.to_json()["models"]] == ["fake:", "fake:seed=2"]
    run = result.to_json()["models"][0]["run"]
    assert run["prompts"] < 100
    assert run["tokens"] > run["prompts"]


def test_rows_that_are_too_long_are_not_asked(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = FakeEngine.plan

    def plan_short_context(engine: FakeEngine, prompts: Sequence[Prompt]) -> PromptPlan:
        return replace(plan(engine, prompts), max_input_tokens=400)

    monkeypatch.setattr(FakeEngine, "plan", plan_short_context)
    engine = SlowBatchEngine(0.0)
    table = tmp_path / "rows.csv"
    texts = [f"stent {row}" + " and more" * (100 * (row % 2)) for row in range(40)]
    table.write_text(
        "case_id,procedure\n" + "".join(f"{row},{text}\n" for row, text in enumerate(texts))
    )
    (model,) = medtask.benchmark(task, table, models=[engine], rows=40).models
    assert model.rows == model.prompts == 20
    assert max(map(len, engine.texts)) < 100
    table.write_text("case_id,procedure\n1," + texts[1])
    with pytest.raises(TableError, match="cannot read any row"):
        medtask.benchmark(task, table, models=[engine])


def test_short_and_long_rows_are_represented() -> None:
    prompts = [(Prompt(str(n), (Message("user", "x"),), (), "x"), n) for n in range(1000)]
    selected = select_by_length(prompts, 10, seed=1)
    assert sorted(tokens // 100 for _, tokens in selected) == list(range(10))
    assert selected == select_by_length(prompts, 10, seed=1)
    assert selected != select_by_length(prompts, 10, seed=2)
    assert len(select_by_length(prompts[:3], 10, seed=1)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"out": "curve.pdf"}, "not a valid name for a picture"), ({"rows": 0}, "cannot be measured")],
)
def test_options_that_are_not_valid_are_refused_before_a_model_is_loaded(
    task: Task, write_rows: WriteRows, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        medtask.benchmark(task, write_rows(5), models=["org/none"], **options)  # type: ignore[arg-type]
