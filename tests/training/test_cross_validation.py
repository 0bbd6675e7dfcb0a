"""Out-of-fold figures: no row is answered by a model that has seen it, its group or a near copy."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import medtask
from medtask.errors import InputError, RunMismatch, UsageError
from medtask.records import Prompt, Record
from medtask.runs.open_answers import open_answers
from medtask.runs.signals import Interrupted
from medtask.tables.read import read_table
from medtask.tables.table import Table
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Task
from medtask.training.cross_validation import CrossValidation, cross_validate
from medtask.training.leakage import index_questions
from medtask.training.recipe import Recipe
from medtask.training.split import split_folds
from medtask.training.train import TaskData, train_tasks
from medtask.training.trained_model import TrainedModel
from medtask.training.training_data import DEFAULT_SELECTION
from medtask.training.training_example import TrainingExample
from medtask.training.training_log import NullTrainingObserver
from support.small_trainings import PARTS, TAGS, make_rows, make_task, use_default_settings

LABELS = ("yes", "no")


@pytest.fixture(autouse=True, scope="module")
def default_settings() -> Iterator[None]:
    """The search for settings has tests of its own, in training/test_linear.py."""
    with use_default_settings():
        yield


def make_noise(count: int = 60) -> list[dict[str, Any]]:
    """Rows whose gold has nothing to do with their text, in groups of three."""
    chance = random.Random(4)
    return [
        {
            "text": " ".join(
                "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(6)
            ),
            "gold": chance.choice(LABELS),
            "patient": f"p{row // 3}",
        }
        for row in range(count)
    ]


def make_grouped_task(folder: Path) -> Task:
    return replace(make_task(folder, labels=LABELS), group_column="patient")


def make_work(task: Task, folder: Path, tables: list[Table], folds: int = 3) -> CrossValidation:
    def train(table: Table, recipe: Recipe, out: Path) -> TrainedModel:
        tables.append(table)
        return train_tasks([TaskData(task, table)], recipe, out=out)

    recipe = Recipe(method="linear")
    observer = NullTrainingObserver()
    return CrossValidation(task, recipe, DEFAULT_SELECTION, folds, folder, train, observer)


def test_every_group_is_left_out_of_exactly_one_training(tmp_path: Path) -> None:
    rows, tables = make_noise(), list[Table]()
    task = make_grouped_task(tmp_path / "task")
    found = cross_validate(make_work(task, tmp_path / "folds", tables), read_table(rows))
    used = [{str(row["patient"]) for row in table.rows()} for table in tables]
    patients = {row["patient"] for row in rows}
    assert len(used) == 3
    assert all(sum(patient in one for one in used) == 2 for patient in patients)
    assert found.score is not None
    assert found.score.n == 60
    assert not (tmp_path / "folds" / ".folds").exists()


def test_a_model_that_learns_by_heart_is_no_better_than_chance_on_rows_it_has_not_seen(
    tmp_path: Path,
) -> None:
    task, rows = make_grouped_task(tmp_path / "task"), make_noise()
    model = medtask.train(task, rows, out=tmp_path / "model", method="linear", folds=3)
    assert model.out_of_fold is not None
    assert model.out_of_fold.score is not None
    assert model.out_of_fold.score.value < 0.75
    evaluation = medtask.evaluate(tmp_path / "model-folds", task=task, gold="gold", baselines=False)
    assert evaluation.metrics["accuracy"] == model.out_of_fold.metrics["accuracy"]
    facts = json.loads((tmp_path / "model" / "training.json").read_text())
    assert facts["out_of_fold"]["metrics"]["accuracy"]["n"] == 60
    assert "Out-of-fold evaluation" in model.report.read_text()
    again = medtask.train(task, rows, out=tmp_path / "model", method="linear", folds=3)
    assert again.out_of_fold == model.out_of_fold
    assert again.report.read_text().count("Out-of-fold evaluation") == 1


@pytest.mark.slow
def test_members_of_a_hybrid_are_trained_again_for_each_fold(tmp_path: Path) -> None:
    task, rows = make_grouped_task(tmp_path / "task"), make_noise()
    for seed in (1, 2):
        medtask.train(task, rows, out=tmp_path / f"m{seed}", method="linear", seed=seed)
    members = [str(tmp_path / "m1"), str(tmp_path / "m2")]
    model = medtask.train(
        task, rows, out=tmp_path / "hybrid", method="hybrid", base=members, folds=2
    )
    assert model.out_of_fold is not None
    assert model.out_of_fold.score is not None
    assert model.out_of_fold.score.value < 0.75  # the members themselves know all answers


def test_several_labels_have_out_of_fold_figures(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", "labels", TAGS)
    model = medtask.train(
        task, make_rows(kind="labels"), out=tmp_path / "model", method="linear", folds=2
    )
    assert model.out_of_fold is not None
    assert model.out_of_fold.score is not None


def test_calibration_and_thresholds_are_those_of_the_folds_models(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", "labels", TAGS)
    engines, tables = [], list[Table]()
    rows = make_rows(kind="labels")
    kept = tmp_path / "kept"
    work = make_work(task, tmp_path / "folds", tables, folds=2)

    def train(table: Table, recipe: Recipe, out: Path) -> TrainedModel:
        model = work.train(table, recipe, out)
        engines.append(shutil.copytree(out, kept / out.name))
        return model

    cross_validate(replace(work, train=train), read_table(rows))
    answers = open_answers(tmp_path / "folds", task=task, gold="gold")
    found = {one.row: one.answer for one in answers.rows()}
    assert len(engines) == 2
    for folder, table in zip(engines, tables, strict=True):
        used = {str(row["text"]) for row in table.rows()}
        own = [row for row in rows if row["text"] not in used]
        run = medtask.run(task, medtask.load_model(str(folder)), own, out=folder / "run")
        assert run.state == "finished"
        for row, expected in zip(own, open_answers(folder / "run", task=task).rows(), strict=True):
            number = next(index for index, one in enumerate(rows, 1) if one["text"] == row["text"])
            assert found[number].value == expected.answer.value
            assert found[number].probabilities == pytest.approx(
                expected.answer.probabilities, abs=1e-6
            )


def test_an_interrupted_cross_validation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    task, table, tables = make_grouped_task(tmp_path / "task"), read_table(make_noise()), []
    work = make_work(task, tmp_path / "folds", tables)

    def stop(fold_table: Table, recipe: Recipe, out: Path) -> TrainedModel:
        if len(tables) == 2:
            return TrainedModel(out, "interrupted", exit_code=143)
        return work.train(fold_table, recipe, out)

    with pytest.raises(Interrupted) as stopped:
        cross_validate(replace(work, train=stop), table)
    assert stopped.value.exit_code == 143
    written = (tmp_path / "folds" / ".folds" / "fold-1" / "medtask.json").stat().st_mtime_ns
    seen = []

    def watch(fold_table: Table, recipe: Recipe, out: Path) -> TrainedModel:
        model = work.train(fold_table, recipe, out)
        seen.append((out / "medtask.json").stat().st_mtime_ns)
        return model

    assert cross_validate(replace(work, train=watch), table).score is not None
    assert seen[0] == written


def test_a_folder_with_other_answers_is_refused(tmp_path: Path) -> None:
    task, table = make_grouped_task(tmp_path / "task"), read_table(make_noise())
    work = make_work(task, tmp_path / "folds", [])
    cross_validate(work, table)
    with pytest.raises(RunMismatch, match="another training"):
        cross_validate(replace(work, folds=4), table)
    with pytest.raises(RunMismatch, match="another training"):
        cross_validate(work, read_table(make_noise()[:-1]))


def test_too_many_folds_and_several_tasks_are_refused(tmp_path: Path) -> None:
    task, rows = make_grouped_task(tmp_path / "task"), make_noise(30)
    with pytest.raises(InputError, match="cannot be divided into 11 folds"):
        medtask.train(task, rows, out=tmp_path / "a", method="linear", folds=11)
    with pytest.raises(UsageError, match="not a valid number of folds"):
        medtask.train(task, rows, out=tmp_path / "b", method="linear", folds=1)
    with pytest.raises(UsageError, match="one task"):
        more = [TaskData(task, rows)]
        medtask.train(task, rows, out=tmp_path / "c", method="linear", folds=2, further_tasks=more)


@given(
    texts=st.lists(
        st.tuples(st.sampled_from("abcdefghij"), st.sampled_from(PARTS), st.integers(0, 6)),
        min_size=8,
        max_size=60,
    ),
    folds=st.integers(2, 4),
)
def test_equal_texts_and_groups_are_in_one_fold(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str, int]], folds: int
) -> None:
    task = make_task(tmp_path_factory.mktemp("task"))
    examples = []
    for row, (text, gold, group) in enumerate(texts, 1):
        record = Record(str(row), {"text": text * 9}, gold, f"g{group}" if group else None)
        prompt = build_prompt(task, record)
        assert isinstance(prompt, Prompt)
        examples.append(TrainingExample(row, record, prompt))
    questions = index_questions(task, examples)
    try:
        found, _ = split_folds(task, questions, folds, seed=0)
    except InputError:
        return
    assert set(found.tolist()) == set(range(folds))
    fold_of: dict[object, int] = {}
    for example, fold in zip(questions.examples, found.tolist(), strict=True):
        for key in (example.prompt.text, example.record.group):
            assert key is None or fold_of.setdefault(key, fold) == fold
