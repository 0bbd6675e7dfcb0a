"""Every kind of question on the same spine: runs, tables, and what is left after a kill."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import InputError
from medtask.runs.local_run import run
from medtask.tasks.load import load_task
from support.tasks_by_kind import ANSWER_SPECS, write_task_and_table


@pytest.fixture(params=sorted(ANSWER_SPECS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def run_kind(
    kind: str, folder: Path, rows: int = 40, **options: Any
) -> tuple[Path, list[dict[str, str]], pl.DataFrame]:
    task, table = write_task_and_table(kind, folder, rows)
    result = run(load_task(task), FakeEngine(), table, out=folder / "out", **options)
    assert result.state == "finished"
    return (
        result.folder,
        read_csv(result.folder / "answers.csv"),
        pl.read_parquet(result.folder / "answers.parquet"),
    )


def test_a_run_of_every_kind_leaves_a_status_for_every_row_and_a_report(
    kind: str, tmp_path: Path
) -> None:
    folder, rows, _ = run_kind(kind, tmp_path)
    assert len(rows) == 40
    allowed = {
        "ok",
        "review",
        "abstained",
        "empty_input",
        "too_short",
        "not_text",
        "truncated",
        "failed",
    }
    assert {row["status"] for row in rows} <= allowed
    assert any(row["status"] in ("ok", "review") for row in rows)
    assert "<title>" in (folder / "report.html").read_text()
    json.loads((folder / "report.json").read_text())


def test_several_labels_are_joined_for_people_and_a_list_for_machines(tmp_path: Path) -> None:
    _, rows, frame = run_kind("labels", tmp_path)
    assert frame["answer"].dtype == pl.List(pl.String)
    for row, given in zip(rows, frame["answer"].to_list(), strict=True):
        assert row["answer"] == "; ".join(given or [])
    assert any("; " in row["answer"] for row in rows)


def test_letters_are_answers_and_each_has_its_probability(tmp_path: Path) -> None:
    _, rows, frame = run_kind("choice", tmp_path)
    for row, shares in zip(rows, frame["probabilities"].to_list(), strict=True):
        if row["answer"]:
            known = {letter: share for letter, share in shares.items() if share is not None}
            assert max(known, key=known.__getitem__) == row["answer"]
            assert set(known) == set(json.loads(row["options"]))
            assert sum(known.values()) == pytest.approx(1)


def test_fields_are_json_for_people_and_structs_for_machines(tmp_path: Path) -> None:
    _, rows, frame = run_kind("fields", tmp_path)
    assert frame["answer"].dtype == pl.Struct(
        {"side": pl.String, "size": pl.Float64, "seen": pl.Boolean}
    )
    for row, given in zip(rows, frame["answer"].to_list(), strict=True):
        if row["answer"]:
            assert json.loads(row["answer"]) == given
        if row["quotes"]:
            quote = json.loads(row["quotes"])["side"]
            assert row[quote["column"]][quote["start"] : quote["end"]] == quote["text"]
    assert any(row["quotes"] for row in rows)


def test_a_further_pass_shows_in_the_tables(tmp_path: Path) -> None:
    _, rows, _ = run_kind("passes", tmp_path)
    assert {row["pass"] for row in rows} == {"first", "refine"}


def test_thresholds_are_fitted_on_gold_and_reported(tmp_path: Path) -> None:
    task, table = write_task_and_table("labels", tmp_path, 200)
    text = (
        (task / "task.yaml")
        .read_text()
        .replace("kind: labels", "kind: labels\n  thresholds: {fit: f1}")
    )
    (task / "task.yaml").write_text(text)
    with pytest.raises(InputError, match="no gold column is named"):
        run(load_task(task), FakeEngine(), table, out=tmp_path / "refused")
    result = run(load_task(task), FakeEngine(), table, out=tmp_path / "fitted", gold="gold")
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert set(manifest["thresholds"]) == {"heart", "lung", "nerves"}
    assert all(0 <= threshold <= 1 for threshold in manifest["thresholds"].values())
    plain = run(
        load_task(write_task_and_table("labels", tmp_path / "plain", 200)[0]),
        FakeEngine(),
        table,
        out=tmp_path / "unfitted",
    )
    fitted, unfitted = (pl.read_parquet(one.folder / "answers.parquet") for one in (result, plain))
    assert fitted["probabilities"].equals(unfitted["probabilities"])
    assert not fitted["answer"].equals(unfitted["answer"])
    without_gold = [row for row, gold in enumerate(fitted["gold"].to_list()) if gold is None]
    for row in without_gold:
        shares = fitted["probabilities"][row]
        if shares and fitted["answer"][row] is not None:
            assert fitted["answer"][row].to_list() == [
                name for name, share in shares.items() if share >= manifest["thresholds"][name]
            ]


def test_running_again_asks_nothing_and_derives_the_same(kind: str, tmp_path: Path) -> None:
    folder, _, _ = run_kind(kind, tmp_path)
    before = {name: (folder / name).read_bytes() for name in ("answers.csv", "answers.parquet")}
    task, table = tmp_path / "task", tmp_path / "rows.csv"
    engine = FakeEngine()
    run(load_task(task), engine, table, out=folder)
    assert engine.prompt_count == 0
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_an_answer_that_was_cut_at_a_sentence_is_no_error(tmp_path: Path) -> None:
    task, table = write_task_and_table("answer", tmp_path, 40)
    cut = {f"c-{row}": "One sentence. " + "word " * 40 for row in range(40)}
    assert (
        run(load_task(task), FakeEngine(generated_texts=cut), table, out=tmp_path / "cut").exit_code
        == 0
    )
    nothing = dict.fromkeys(cut, "")
    assert (
        run(
            load_task(task), FakeEngine(generated_texts=nothing), table, out=tmp_path / "nothing"
        ).exit_code
        == 3
    )


def test_thresholds_are_fitted_though_a_pass_asks_about_some_labels_only(tmp_path: Path) -> None:
    task, table = write_task_and_table("labels", tmp_path, 120)
    text = (
        (task / "task.yaml")
        .read_text()
        .replace("kind: labels", "kind: labels\n  thresholds: {fit: f1}")
    )
    again = "passes:\n  - {name: again, when: {answer_in: [heart]}, labels: [heart, lung]}\n"
    (task / "task.yaml").write_text(text + again)
    result = run(load_task(task), FakeEngine(), table, out=tmp_path / "out", gold="gold")
    assert result.state == "finished"
    assert {row["pass"] for row in read_csv(result.folder / "answers.csv")} == {"first", "again"}
    assert json.loads((result.folder / "manifest.json").read_text())["thresholds"]
