"""Out-of-fold answers: every row is answered by a model that has seen neither it nor its group."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from medtask.atomic_files import replace_text
from medtask.engines.registry import find_trained_folders
from medtask.errors import InputError, RunMismatch, UsageError
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.records import Prompt
from medtask.runs.local_run import run_prepared
from medtask.runs.lock import lock_run
from medtask.runs.manifest import read_manifest
from medtask.runs.open_answers import open_answers
from medtask.runs.run_evaluation import EvaluationOptions, evaluate_answers
from medtask.runs.run_setup import RunOptions, prepare_run
from medtask.runs.signals import Interrupted
from medtask.tables.read import read_table
from medtask.tables.read_options import ReadOptions
from medtask.tables.table import Table
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import read_records
from medtask.tasks.task import Task
from medtask.training.fold_engine import FoldEngine
from medtask.training.leakage import index_questions
from medtask.training.recipe import RECIPE_FIELDS, Recipe
from medtask.training.split import split_folds
from medtask.training.trained_model import CARD_FILE, OutOfFold, TrainedModel
from medtask.training.training_data import RowSelection
from medtask.training.training_example import TrainingExample
from medtask.training.training_log import NullTrainingObserver, TrainingObserver, TrainingPoint
from medtask.training.training_manifest import read_training_manifest, write_training_manifest

MODELS_FOLDER = ".folds"  # in the run folder, until all rows are answered
_CARD_TITLE = "## Out-of-fold evaluation"


class FoldObserver(NullTrainingObserver):
    """Passes on the progress of the trainings of folds, without their notes.

    The notes are those of the final training, which are shown once.
    """

    def __init__(self, observer: TrainingObserver) -> None:
        self._observer = observer

    def on_load(self, model: str) -> None:
        self._observer.on_load(model)

    def on_start(self, steps: int, done: int) -> None:
        self._observer.on_start(steps, done)

    def on_point(self, point: TrainingPoint) -> None:
        self._observer.on_point(point)

    def on_finish(self) -> None:
        self._observer.on_finish()


# Trains a model on a table by a recipe, into a folder.
TrainFunction = Callable[[Table, Recipe, Path], TrainedModel]


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """The settings of a cross-validation.

    Attributes:
        task: The task, with its gold column.
        recipe: The settings of each training.
        selection: Which rows are used.
        folds: The number of folds.
        folder: The run folder; it is evaluated and compared as any other.
        train: Trains one model.
        observer: Receives the notes.
    """

    task: Task
    recipe: Recipe
    selection: RowSelection
    folds: int
    folder: Path
    train: TrainFunction
    observer: TrainingObserver

    def compute_digest(self, table: Table) -> str:
        """A hash of everything that determines the answers."""
        facts = (
            self.task.fingerprint,
            table.digest(),
            self.recipe.to_json(),
            self.selection.to_json(),
            self.folds,
        )
        return sha256(json.dumps(facts, default=str).encode()).hexdigest()


def cross_validate(work: CrossValidation, table: Table) -> OutOfFold:
    """Answer every row by a model that was trained on the rows of the other folds.

    Rows of one group, equal and nearly equal texts are in one fold. A base that medtask trained
    (the members of a hybrid) is trained again for every fold, without the fold's rows. The same
    call resumes.

    Raises:
        UsageError, InputError: The number of folds is not valid, or a training is not possible.
        RunMismatch: The folder has the answers of another training.
        Interrupted: A signal was received.
    """
    if work.folds < 2:
        raise UsageError(
            f"{work.folds} is not a valid number of folds", fix="give 2 or more, such as 5"
        )
    out = work.folder
    digest = work.compute_digest(table)
    manifest = read_manifest(out)
    if manifest is not None:
        _check_manifest(out, manifest, digest)
    if manifest is None or manifest["state"] != "finished":
        _answer_rows(work, table, digest)
    shutil.rmtree(out / MODELS_FOLDER, ignore_errors=True)
    return _evaluate(work)


def record_out_of_fold(model: TrainedModel, found: OutOfFold) -> TrainedModel:
    """Add the figures to the manifest and the model card of a finished model."""
    facts = read_training_manifest(model.path)
    card = model.path / CARD_FILE
    if facts is None or model.state != "finished":
        return replace(model, out_of_fold=found)
    if facts.get("out_of_fold") != found.to_json():
        write_training_manifest(model.path, {**facts, "out_of_fold": found.to_json()})
        text = card.read_text("utf-8").partition(f"\n{_CARD_TITLE}")[0]
        replace_text(card, f"{text.rstrip()}\n\n{_CARD_TITLE}\n\n{_describe(found)}\n")
    return replace(model, out_of_fold=found)


def _describe(found: OutOfFold) -> str:
    headline = found.score
    figure = f"{get_metric_title(found.headline_metric)} {headline}" if headline else "no metric"
    return (
        f"{figure}. Each of the {found.folds} folds was answered by a model with the same settings "
        "that was trained on the rows of the other folds; rows of one group and nearly equal texts "
        "are in one fold. The model in this folder was trained on all rows."
    )


def _check_manifest(out: Path, manifest: Mapping[str, Any], digest: str) -> None:
    if manifest["model"]["details"].get("cross_validation") != digest:
        raise RunMismatch(
            f"{out} has the answers of another training or run",
            fix="give another folder with --out, or move that folder aside",
        )


def _answer_rows(work: CrossValidation, table: Table, digest: str) -> None:
    models = work.folder / MODELS_FOLDER
    models.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock_run(models):
        rows = list(table.rows())
        ids, row_folds = _assign_rows(work, rows)
        folders = [
            _train_fold(work, table, rows, row_folds, fold) for fold in range(1, work.folds + 1)
        ]
        details = {"folds": work.folds, "cross_validation": digest}
        numbers = {name: fold - 1 for name, fold in zip(ids, row_folds, strict=True)}
        work.observer.on_note(f"answering {len(rows):,} rows with the models of the other folds")
        with closing(FoldEngine(folders, numbers, work.recipe.load_options, details)) as engine:
            calibrations = engine.find_calibrations(work.task)
            options = RunOptions(
                work.folder,
                gold_column=work.task.gold_column,
                max_error_rate=1.0,
                calibrated=False,
                row_calibrations={
                    row: calibration
                    for row, fold in enumerate(row_folds, 1)
                    if (calibration := calibrations[fold - 1])
                },
            )
            result = run_prepared(prepare_run(work.task, table, options), engine)
        if result.state == "interrupted":
            raise Interrupted(result.exit_code - 128)


def _assign_rows(
    work: CrossValidation, rows: Sequence[Mapping[str, object]]
) -> tuple[list[str], list[int]]:
    """The id of each row, and its fold, from 1. Rows that cannot be asked are in fold 1."""
    task = work.task
    records = list(read_records(task, rows, gold_column=task.gold_column))
    examples = [
        TrainingExample(row, record, prompt)
        for row, record in enumerate(records, 1)
        if isinstance(prompt := build_prompt(task, record), Prompt)
    ]
    questions = index_questions(task, examples)
    row_folds = [1] * len(records)
    numbers, keeps_near_duplicates = split_folds(task, questions, work.folds, work.recipe.seed)
    if not keeps_near_duplicates:
        work.observer.on_note(
            "too many rows are near duplicates of one another to keep them in one fold: the "
            "figures will be too good"
        )
    for example, fold in zip(questions.examples, numbers.tolist(), strict=True):
        row_folds[example.row - 1] = fold + 1
    return [record.id for record in records], row_folds


def _train_fold(
    work: CrossValidation,
    table: Table,
    rows: Sequence[Mapping[str, object]],
    row_folds: Sequence[int],
    fold: int,
) -> Path:
    """Train the model that answers a fold, on all rows of other folds."""
    own = [row for row, number in zip(rows, row_folds, strict=True) if number != fold]
    name = f"{table.source} without fold {fold} of {work.folds}"
    fold_table = replace(
        read_table(own), source=name, options=ReadOptions(missing=table.options.missing)
    )
    work.observer.on_note(f"fold {fold} of {work.folds}")
    return _train_model(work, fold_table, work.recipe, f"fold-{fold}")


def _train_model(work: CrossValidation, table: Table, recipe: Recipe, name: str) -> Path:
    bases = [
        str(_train_model(work, table, base_recipe, f"{name}-base-{number}"))
        if (base_recipe := _read_recipe(base))
        else base
        for number, base in enumerate(recipe.bases, 1)
    ]
    folder = work.folder / MODELS_FOLDER / name
    try:
        result = work.train(table, replace(recipe, bases=tuple(bases)), folder)
    except InputError as error:
        raise InputError(
            f"no model can be trained without the rows of one fold: {error}",
            fix="lower --folds, or give more rows with gold",
        ) from error
    if result.state == "interrupted":
        raise Interrupted(result.exit_code - 128)
    return folder


def _read_recipe(base: str) -> Recipe | None:
    """The recipe of a base that medtask trained; None for other bases."""
    for folder in find_trained_folders(base):
        if manifest := read_training_manifest(Path(folder)):
            settings = {
                name: value for name, value in manifest["recipe"].items() if name in RECIPE_FIELDS
            }
            return Recipe(**{**settings, "bases": tuple(settings["bases"])})
    return None


def _evaluate(work: CrossValidation) -> OutOfFold:
    task = work.task
    answers = open_answers(work.folder, task=task, gold=task.gold_column)
    evaluation = evaluate_answers(answers, EvaluationOptions(baselines=False))
    metrics = dict(evaluation.metrics)
    return OutOfFold(work.folder, work.folds, evaluation.headline_metric, metrics)
