"""`medtask.train`: trains a model folder from a task and a table with gold."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medtask.atomic_files import make_private_folder, raise_storage_errors
from medtask.engines.model_metadata import METADATA_FILE, TRAINING_FILE, find_trained_engine
from medtask.errors import MedtaskError, UsageError
from medtask.runs.lock import lock_run
from medtask.runs.manifest import get_command, get_timestamp
from medtask.runs.signals import Interrupted, SignalState, catch_signals
from medtask.tables.read import read_table
from medtask.tables.table import Table
from medtask.tasks.serialization import task_to_dict
from medtask.tasks.task import Task
from medtask.training.checkpoints import find_resume_step
from medtask.training.cross_validation import (
    CrossValidation,
    FoldObserver,
    cross_validate,
    record_out_of_fold,
)
from medtask.training.injections import add_injected_copies
from medtask.training.methods import Method
from medtask.training.recipe import Recipe, build_recipe, choose_method
from medtask.training.trained_model import OutOfFold, TrainedModel, read_trained_model
from medtask.training.training_context import (
    DRAFT_FOLDER,
    WORK_FOLDER,
    MethodResult,
    TrainingContext,
    count_processes,
    is_main_process,
    load_fit_function,
    load_preview_function,
)
from medtask.training.training_data import (
    DEFAULT_SELECTION,
    RowSelection,
    TrainingData,
    build_training_data,
    describe_training_data,
)
from medtask.training.training_log import (
    NullTrainingObserver,
    TrainingLog,
    TrainingObserver,
    has_no_gain,
)
from medtask.training.training_manifest import (
    FORMAT,
    TrainingRun,
    check_training_identity,
    read_training_manifest,
    write_training_manifest,
)

LOSS_FILE = "loss.csv"
_NO_GAIN_NOTE = (
    "nothing was gained: no validation had a lower loss than the one before the first step, and "
    "that state was kept (more rows, more --epochs or a lower --rate may help)"
)


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task and its tables.

    ``gold_column`` overrides the task's gold column, and ``validation``, a table of validation
    rows, the split of ``table``. Tables are anything that `read_table` accepts.
    """

    task: Task
    table: object
    gold_column: str | None = None
    validation: object | None = None


def train(
    task: Task,
    table: object,
    *,
    out: str | Path,
    method: Method | None = None,
    base: str | Sequence[str] | None = None,
    gold: str | None = None,
    validation: object | None = None,
    further_tasks: Sequence[TaskData] = (),
    folds: int | None = None,
    selection: RowSelection = DEFAULT_SELECTION,
    observer: TrainingObserver | None = None,
    demonstration: bool = False,
    **settings: Any,
) -> TrainedModel:
    """Train a model on a table's gold, or resume an interrupted training.

    The first signal (Ctrl-C) ends the current step, and the best state so far becomes the model,
    without an evaluation.

    Args:
        task: The task to learn.
        table: Its rows: whatever `medtask.read_table` accepts.
        out: The folder of the model.
        method: "auto", "lora", "rslora", "qlora", "dora", "full", "encoder", "linear" or "hybrid".
            By default "auto" for one task of kind label or labels without a base, else "rslora".
        base: The model to start from, several for a hybrid; by default the one named by the
            task, or the default of the method.
        gold: The gold column; by default the task's.
        validation: A table of validation rows; by default a share of ``table``.
        further_tasks: Further tasks for the same model.
        folds: Also train a model for each of so many folds, and answer its rows: a run folder,
            ``out`` with "-folds" at its end, in which no row was answered by a model that has
            seen it or its group.
        selection: Which rows are used.
        observer: Receives the events of the training.
        demonstration: Whether the model card warns that the model is not for real work.
        **settings: Further fields of `Recipe`, such as ``epochs``, ``rate`` and ``seed``.

    Returns:
        The model folder, with its metrics on the validation rows.

    Raises:
        UsageError, InputError: The data or settings cannot be used.
        ModelTooLarge: The base does not fit into memory.
        RunMismatch: The folder contains a different training.
        RunLocked, StorageError, EngineError: The folder or the base cannot be used.
    """
    method = method or ("rslora" if further_tasks else choose_method(task, base))
    recipe = build_recipe(method, base, settings, task_model=task.model)
    data = TaskData(task, table, gold, validation)
    if folds is not None and further_tasks:
        raise UsageError("--folds supports one task", fix="leave out --also, or --folds")
    try:
        out_of_fold = (
            None
            if folds is None
            else _cross_validate(data, recipe, folds, Path(out), selection, observer)
        )
    except Interrupted as stop:
        return TrainedModel(Path(out), "interrupted", exit_code=stop.exit_code)
    model = train_tasks(
        [data, *further_tasks],
        recipe,
        out=out,
        selection=selection,
        observer=observer,
        demonstration=demonstration,
    )
    return record_out_of_fold(model, out_of_fold) if out_of_fold else model


def _cross_validate(
    data: TaskData,
    recipe: Recipe,
    folds: int,
    out: Path,
    selection: RowSelection,
    observer: TrainingObserver | None,
) -> OutOfFold:
    if count_processes() > 1:
        raise UsageError(
            "--folds trains in one process", fix="start it without accelerate or torchrun"
        )

    observer = observer or NullTrainingObserver()
    fold_observer = FoldObserver(observer)

    def train_fold(table: Table, fold_recipe: Recipe, folder: Path) -> TrainedModel:
        return train_tasks(
            [replace(data, table=table)],
            fold_recipe,
            out=folder,
            selection=selection,
            observer=fold_observer,
        )

    recipe.check()
    out = out.absolute() if not out.name else out  # "."
    task = replace(data.task, gold_column=data.gold_column or data.task.gold_column)
    work = CrossValidation(
        task, recipe, selection, folds, out.with_name(f"{out.name}-folds"), train_fold, observer
    )
    return cross_validate(work, read_table(data.table))


def train_tasks(
    task_data: Sequence[TaskData],
    recipe: Recipe,
    *,
    out: str | Path,
    selection: RowSelection = DEFAULT_SELECTION,
    observer: TrainingObserver | None = None,
    demonstration: bool = False,
) -> TrainedModel:
    """Train one model for one or several tasks by a recipe; see `train`."""
    observer = observer if observer is not None and is_main_process() else NullTrainingObserver()
    recipe.check()
    folder = _open_folder(Path(out))
    lock = lock_run(folder) if is_main_process() else nullcontext()
    with lock, catch_signals(raising=False) as signals:
        training_data = _build_all_training_data(task_data, selection, recipe)
        training = TrainingRun(folder, training_data, recipe, selection, demonstration)
        check_training_identity(training)
        if (manifest := read_training_manifest(folder)) and manifest["state"] == "finished":
            observer.on_note(f"{folder} already holds this model; nothing is left to do")
            find_trained_engine(folder)
            return read_trained_model(folder)
        for data in training_data:
            for note in (*data.list_cleaning_notes(), *data.notes):
                observer.on_note(note)
        return _run_training(training, observer, signals)


def preview_training(
    task_data: Sequence[TaskData],
    recipe: Recipe,
    *,
    out: str | Path,
    selection: RowSelection = DEFAULT_SELECTION,
) -> list[str]:
    """Describe in lines what `train_tasks` would do; nothing is trained or written.

    Raises the exceptions that `train_tasks` would raise before its first step.
    """
    recipe.check()
    lines = []
    training_data = _build_all_training_data(task_data, selection, recipe)
    for data in training_data:
        lines += data.cleaning.describe() if data.cleaning else []
        lines += describe_training_data(data)
        lines += [f"leakage: {line}" for line in data.leakage.describe()] if data.leakage else []
    if recipe.spec.language:
        lines += load_preview_function(recipe)(training_data, recipe)
    return [*lines, f"the model would be written to {out}"]


def _open_folder(folder: Path) -> Path:
    """Create the folder if it is missing. Raises UsageError if it contains something else."""
    with raise_storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        names = {path.name for path in folder.iterdir()}
    if names - {".lock"} and not names & {WORK_FOLDER, METADATA_FILE, TRAINING_FILE}:
        raise UsageError(f"{folder} contains something else", fix="name a new folder with --out")
    return folder


def _build_all_training_data(
    task_data: Sequence[TaskData], selection: RowSelection, recipe: Recipe
) -> tuple[TrainingData, ...]:
    training_data = (
        build_training_data(
            replace(one.task, gold_column=one.gold_column or one.task.gold_column),
            read_table(one.table),
            validation=None if one.validation is None else read_table(one.validation),
            selection=selection,
            seed=recipe.seed,
        )
        for one in task_data
    )
    return tuple(
        add_injected_copies(data, recipe.injections, recipe.seed) if recipe.injections else data
        for data in training_data
    )


def _run_training(
    training: TrainingRun, observer: TrainingObserver, signals: SignalState
) -> TrainedModel:
    from medtask.training.model_folder import write_model_folder

    started = time.monotonic()
    folder, before = training.folder, read_training_manifest(training.folder)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "state": "training",
        "command": get_command(),
        "begun": get_timestamp(),
        "identity": training.identity,
        "demonstration": training.demonstration,
        "recipe": training.recipe.to_json(),
        "tasks": [task_to_dict(data.task) for data in training.training_data],
        "seconds": before.get("seconds", 0.0) if before else 0.0,
    }
    context = _make_context(folder, observer, signals)
    write_training_manifest(folder, facts)
    fit = load_fit_function(training.recipe)
    try:
        result = fit(training.training_data, training.recipe, context)
    except MedtaskError:
        if before is None and not context.log.points:
            _clear(folder)  # nothing was trained, so the folder can be used by another command
        raise
    result = _add_gain_note(replace(result, notes=(*training.notes, *result.notes)), context)
    observer.on_finish()
    if not is_main_process():
        return TrainedModel(folder, "finished")
    facts["seconds"] = round(facts["seconds"] + time.monotonic() - started, 1)
    write_model_folder(training, result, context.log, facts)
    return read_trained_model(folder, signals.exit_code)


def _make_context(
    folder: Path, observer: TrainingObserver, signals: SignalState
) -> TrainingContext:
    """Create the work and draft folders. Only the main process writes files that are kept."""
    work, rank = folder / WORK_FOLDER, os.environ.get("RANK")
    draft = folder / DRAFT_FOLDER if is_main_process() else work / f"draft-{rank}"
    loss_file = folder / LOSS_FILE if is_main_process() else work / f"loss-{rank}.csv"
    shutil.rmtree(draft, ignore_errors=True)
    for path in (work, draft):
        make_private_folder(path)
    log = TrainingLog(loss_file, observer, find_resume_step(work))
    return TrainingContext(draft, work, log, observer, signals)


def _add_gain_note(result: MethodResult, context: TrainingContext) -> MethodResult:
    if not has_no_gain(context.log.points):
        return result
    context.observer.on_note(_NO_GAIN_NOTE)
    return replace(result, notes=(*result.notes, _NO_GAIN_NOTE))


def _clear(folder: Path) -> None:
    for name in (TRAINING_FILE, LOSS_FILE):
        (folder / name).unlink(missing_ok=True)
    for name in (WORK_FOLDER, DRAFT_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
