"""Run folders, judgements, audits, calibrations and trained folders that earlier versions wrote.

`files/` was written by the version before the packages were renamed (November 2026), through the
command line: runs of 24 of 60 rows with `fake:seed=3`, one whole run with a calibration, a judging
with `fake:seed=9`, a linear model, and a pickled `MedtaskClassifier` whose model was removed.
Reports and most Parquet files are left out: they are derived.
"""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from medtask.errors import InputError
from support.command_line import RunCommand

FILES = Path(__file__).parent / "files"
KINDS = ["label", "labels", "choice", "several", "answer", "sections", "fields", "passes"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private copy of all the files, as the current folder."""
    copy = Path(shutil.copytree(FILES, tmp_path / "files"))
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def succeed(medtask: RunCommand) -> Callable[..., str]:
    """Run a command, which must succeed, and return its standard output."""

    def run_command(*words: str) -> str:
        result = medtask(*words)
        assert result.code == 0, result.err
        return result.out

    return run_command


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_json(path: Path) -> dict[str, object]:
    document = json.loads(path.read_text("utf-8"))
    assert isinstance(document, dict)
    return document


def assert_answers_are_kept(before: list[dict[str, str]], after: list[dict[str, str]]) -> None:
    """All cells are equal; there may be texts of options, and quotes may have further keys."""
    for old, new in zip(before, after, strict=True):
        new = {name: new[name] for name in new if name != "answer_text" or name in old}
        old_quotes, new_quotes = (json.loads(row.pop("quotes", "") or "{}") for row in (old, new))
        assert new == old
        assert new_quotes.keys() == old_quotes.keys()
        for field, quote in old_quotes.items():
            assert quote.items() <= new_quotes[field].items()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_resumed_and_keeps_its_answers(
    folder: Path, succeed: Callable[..., str], kind: str
) -> None:
    run = folder / "runs" / kind
    before, manifest = read_rows(run / "answers.csv"), read_json(run / "manifest.json")
    options = ("--model", "fake:seed=3", "--out", f"runs/{kind}", "--limit", "40", "--uncalibrated")
    succeed("run", f"tasks/{kind}", "table.csv", *options)
    after, resumed = read_rows(run / "answers.csv"), read_json(run / "manifest.json")
    assert_answers_are_kept(before, after[:24])
    assert len(after) == 40
    assert resumed["created"] == manifest["created"]
    assert resumed["timing"]["sessions"] == 2  # type: ignore[index]
    assert resumed["timing"]["asked"] == 40  # type: ignore[index]
    assert manifest.keys() <= resumed.keys()


def test_a_calibration_is_found_and_applied(folder: Path, succeed: Callable[..., str]) -> None:
    run = "tasks/label/runs/full"
    options = ("--model", "fake:seed=3", "--out", run, "--gold", "gold", "--quiet")
    succeed("run", "tasks/label", "table.csv", *options)
    assert read_rows(folder / run / "answers.csv") == read_rows(folder / "calibrated_answers.csv")


def test_a_run_is_evaluated(folder: Path, succeed: Callable[..., str]) -> None:
    shown = succeed(
        "evaluate",
        "tasks/label/runs/full",
        "--gold",
        "gold",
        "--max-error",
        "0.5",
        "--json",
    )
    document = json.loads(shown)
    assert document["n"] == 60
    assert document["metrics"]["accuracy"]["value"] == pytest.approx(13 / 60)


def test_judgements_are_not_asked_for_again(folder: Path, succeed: Callable[..., str]) -> None:
    run = folder / "runs" / "answer"
    before = (run / "judgements.csv").read_bytes()
    reference = ("--gold", "reference.csv", "--allow-self", "--json")
    succeed("judge", "runs/answer", "--model", "fake:seed=9", *reference)
    assert (run / "judgements.csv").read_bytes() == before


def test_the_sample_of_an_audit_is_kept(folder: Path, succeed: Callable[..., str]) -> None:
    run = folder / "tasks" / "label" / "runs" / "full"
    sample = read_rows(run / "audit" / "sample.csv")
    gold = {row["case"]: row["gold"] for row in read_rows(folder / "table.csv")}
    with (run / "audit" / "sample.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, sample[0].keys())
        writer.writeheader()
        writer.writerows({**row, "gold": gold[row["id"]]} for row in sample)
    document = json.loads(succeed("audit", "tasks/label/runs/full", "--json"))
    assert "low" in json.dumps(document)


def test_a_trained_folder_answers_as_before(folder: Path, succeed: Callable[..., str]) -> None:
    options = ("--model", "models/linear", "--out", "runs/linear", "--quiet")
    succeed("run", "tasks/label", "table.csv", *options)
    after = read_rows(folder / "runs" / "linear" / "answers.csv")
    before = read_rows(folder / "models" / "linear_answers.csv")
    assert [row["answer"] for row in after] == [row["answer"] for row in before]
    for old, new in zip(before, after, strict=True):
        assert float(new["confidence"]) == pytest.approx(float(old["confidence"]), abs=1e-9)


def test_a_pickled_classifier_is_loaded_and_names_its_missing_model() -> None:
    classifier = pickle.loads((FILES / "classifier.pkl").read_bytes())
    assert classifier.classes_.tolist() == ["joint of the arm", "joint of the leg"]
    assert [label.name for label in classifier.task_.labels] == classifier.classes_.tolist()
    assert classifier.class_prior_.tolist() == [0.5, 0.5]
    with pytest.raises(InputError, match="the model of this estimator, models/removed"):
        classifier.predict(["MRI of the left knee"])
