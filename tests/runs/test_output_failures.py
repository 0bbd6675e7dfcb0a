"""An output format that cannot be written ends no run: everything else is in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import StorageError, UsageError
from medtask.runs import outputs
from medtask.runs.local_run import run
from medtask.tasks.task import Task

FORMATS = ("csv", "parquet", "jsonl", "xlsx")


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_other_formats_and_the_report_are_written(
    task: Task, write_rows: Callable[[int], Path], tmp_path: Path, suffix: str
) -> None:
    out, rows = tmp_path / "out", write_rows(20)
    run(task, FakeEngine(), rows, out=out, formats=FORMATS)
    for path in (*out.glob("answers.*"), out / "report.html"):
        path.unlink()
    (out / f"answers.{suffix}").mkdir()  # cannot be replaced by a file
    with pytest.raises(StorageError, match=rf"answers\.{suffix} cannot be written") as raised:
        run(task, FakeEngine(), rows, out=out, formats=FORMATS)
    assert "All other files are complete" in str(raised.value)
    assert raised.value.exit_code == 7
    for other in set(FORMATS) - {suffix}:
        assert (out / f"answers.{other}").is_file()
    assert f"answers.{suffix} cannot be written" in (out / "report.html").read_text()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["state"] == "finished"
    (out / f"answers.{suffix}").rmdir()
    assert run(task, FakeEngine(), rows, out=out, formats=FORMATS).new_answers == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UsageError("too wide", fix="use csv"), UsageError),
        (OSError(28, "full"), StorageError),
        (OverflowError("a number"), StorageError),
    ],
)
def test_every_error_of_a_writer_waits_for_the_end(
    task: Task,
    write_rows: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[StorageError] | type[UsageError],
) -> None:
    write = outputs.write_answers

    def fail_for_xlsx(path: Path, *arguments: object, **named: object) -> tuple[str, ...]:
        if path.suffix == ".xlsx":
            raise error
        return write(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(outputs, "write_answers", fail_for_xlsx)
    with pytest.raises(kind):
        run(task, FakeEngine(), write_rows(5), out=tmp_path / "out", formats=("xlsx", "jsonl"))
    assert (tmp_path / "out" / "answers.jsonl").is_file()
    assert (tmp_path / "out" / "report.html").is_file()
