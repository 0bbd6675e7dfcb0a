"""Rows without text: no engine is asked about them, and the other rows have the same answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest

from medtask.engines.fake import FakeEngine
from medtask.records import Fault, Prompt, Scores, Status
from medtask.runs.local_run import run
from medtask.tasks.task import Task

ABSENT: Sequence[object] = ("", "   ", "\t\r\n", "\u00a0\u2003", "\u200b\ufeff", None, float("nan"))
ROWS = 400


class RecordingEngine(FakeEngine):
    """Remembers the records that it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def score(
        self, prompts: Sequence[Prompt], cached: Sequence[str] = ()
    ) -> Iterator[Scores | Fault]:
        self.asked += [prompt.record_id for prompt in prompts]
        yield from super().score(prompts, cached)


def make_rows(*, every_twentieth_is_absent: bool) -> list[dict[str, object]]:
    return [
        {
            "case_id": f"c-{row}",
            "procedure": ABSENT[row // 20 % len(ABSENT)]
            if row % 20 == 7 and every_twentieth_is_absent
            else f"resection {row}",
        }
        for row in range(ROWS)
    ]


def test_no_engine_is_asked_about_rows_without_text(task: Task, tmp_path: Path) -> None:
    engine = RecordingEngine()
    result = run(task, engine, make_rows(every_twentieth_is_absent=True), out=tmp_path / "out")
    absent = [f"c-{row}" for row in range(7, ROWS, 20)]
    assert result.statuses[Status.EMPTY_INPUT] == len(absent) == ROWS // 20
    assert len(engine.asked) == engine.prompt_count == ROWS - len(absent)
    assert not set(absent) & set(engine.asked)
    frame = pl.read_parquet(result.folder / "answers.parquet")
    is_absent = pl.col("case_id").is_in(absent)
    assert set(frame.filter(is_absent)["status"]) == {"empty_input"}
    assert frame.filter(is_absent)["answer"].null_count() == len(absent)
    full = run(
        task, FakeEngine(), make_rows(every_twentieth_is_absent=False), out=tmp_path / "full"
    )
    columns = ["case_id", "answer", "confidence", "status"]
    others = pl.read_parquet(full.folder / "answers.parquet").filter(~is_absent)
    assert frame.filter(~is_absent).select(columns).equals(others.select(columns))


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_cells_without_text_in_a_file_are_not_asked(
    task: Task, suffix: str, tmp_path: Path
) -> None:
    texts = [None, "", "  ", "\u00a0", "resection", "biopsy"]
    frame = pl.DataFrame({"case_id": [str(row) for row in range(len(texts))], "procedure": texts})
    path = tmp_path / f"rows.{suffix}"
    if suffix == "csv":
        frame.write_csv(path)
    elif suffix == "parquet":
        frame.write_parquet(path)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in frame.to_dicts()))
    engine = RecordingEngine()
    result = run(task, engine, path, out=tmp_path / "out")
    assert engine.asked == ["4", "5"]
    assert result.statuses[Status.EMPTY_INPUT] == 4
