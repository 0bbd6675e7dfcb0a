"""A whole training on this machine: from a task and a table with gold to a model folder that `run`
accepts like any model.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medtask.atomic_files import make_storage_error
from medtask.engines.model_metadata import METADATA_FILE, TRAINING_FILE, find_trained_engine
from medtask.errors import MedtaskError, UsageError
from medtask.runs.lock import lock_run
from medtask.runs.manifest import get_timestamp
from medtask.runs.signals import SignalState, catch_signals
from medtask.tables.read import read_table
from medtask.tasks.serialization import task_to_dict
from medtask.tasks.task import Task
from medtask.training.methods import load_fit_function
from medtask.training.recipe import LANGUAGE_METHODS, Recipe
from medtask.training.training_context import (
    DRAFT_FOLDER,
    WORK_FOLDER,
    TrainingContext,
    is_main_process,
)
from medtask.training.training_data import (
    DEFAULT_SELECTION,
    RowSelection,
    TrainingData,
    build_training_data,
)
from medtask.training.training_log import (
    NullTrainingObserver,
    TrainingLog,
    TrainingObserver,
    has_no_gain,
)
from medtask.training.training_manifest import (
    FORMAT,
    check_training_identity,
    identify_training,
    read_training_manifest,
    write_training_manifest,
)

if TYPE_CHECKING:
    from medtask.evaluation.statistics.intervals import Metric

LOSS_FILE = "loss.csv"
_NO_GAIN_NOTE = (
    "nothing was gained: no validation had a lower loss than the one before the first step, and "
    "that is the state that is kept "
    "(more rows, more --epochs or a lower --rate may help)"
)


@dataclass(frozen=True, slots=True)
class TaskTrainingResult:
    """How good a model is at one of its tasks, on the rows that the training was validated by.

    ``metrics``: by measure (evaluate.words.MEASURES); ``headline_metric`` names the headline.
    ``baselines``: the headline of simpler methods that learnt from the same rows, by name.
    ``calibration``: what it did, in a sentence; "" where there is none.
    """

    task: str
    headline_metric: str
    metrics: Mapping[str, Metric | None]
    baselines: Mapping[str, Metric]
    calibration: str

    @property
    def score(self) -> Metric | None:
        """The headline."""
        return self.metrics.get(self.headline_metric)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What became of a training. ``task_results``: one for each task. ``validation_loss``: the
    lowest, in nats a row; ``base_score``: the base's score in the same validations, where it
    was measured. ``seconds``: of all sessions. ``exit_code``: 0; 130 or 143 after a signal,
    when the folder holds the best state until then and the same command goes on.
    """

    folder: Path
    state: Literal["finished", "interrupted"]
    task_results: tuple[TaskTrainingResult, ...]
    validation_loss: float | None
    base_score: float | None
    seconds: float
    exit_code: int = 0
    notes: tuple[str, ...] = ()

    @property
    def score(self) -> Metric | None:
        """The headline figure of the first task."""
        return self.task_results[0].score if self.task_results else None


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task and the table that it is learnt from; ``gold_column`` and ``validation`` where they
    are not the task's own.
    """

    task: Task
    table: object
    gold_column: str | None = None
    validation: object | None = None


def train(
    task_data: Sequence[TaskData],
    recipe: Recipe,
    *,
    out: str | Path,
    selection: RowSelection = DEFAULT_SELECTION,
    observer: TrainingObserver | None = None,
    demonstration: bool = False,
) -> TrainResult:
    """Train a model on tables' gold, into the folder ``out``; or go on where an earlier session of
    the same training stopped.

    ``task_data``: what the model is trained for, one task or several. ``selection``: which of their
    rows it learns from. The first signal (Ctrl-C) ends the step in hand, and what was best until
    then becomes the model.

    Raises every MedtaskError: UsageError and InputError for what cannot be learnt from, TooBig,
    RunMismatch for a folder that holds something else, RunLocked, StorageError, EngineError.
    """
    observer = observer if observer is not None and is_main_process() else NullTrainingObserver()
    recipe.check()
    folder = _open(Path(out))
    with _lock_folder(folder), catch_signals(raising=False) as signals:
        training_data = _build_all_training_data(task_data, selection, recipe.seed)
        identity = identify_training(training_data, recipe, selection)
        check_training_identity(folder, identity)
        if (manifest := read_training_manifest(folder)) and manifest["state"] == "finished":
            observer.on_note(f"{folder} holds this very model already: nothing is left to do")
            find_trained_engine(folder)
            return _read_result(folder, 0)
        for data in training_data:
            for note in data.notes:
                observer.on_note(note)
        return _run_training(
            folder, training_data, recipe, identity, observer, signals, demonstration
        )


def _lock_folder(folder: Path) -> AbstractContextManager[None]:
    return lock_run(folder) if is_main_process() else nullcontext()


def _open(folder: Path) -> Path:
    """The folder, made where it is missing. UsageError for one that holds something else."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise make_storage_error(folder, error) from error
    if names - {".lock"} and not names & {WORK_FOLDER, METADATA_FILE, TRAINING_FILE}:
        raise UsageError(
            f"{folder} is in use for something else", fix="name a new folder with --out"
        )
    return folder


def _build_all_training_data(
    task_data: Sequence[TaskData], selection: RowSelection, seed: int
) -> tuple[TrainingData, ...]:
    return tuple(
        build_training_data(
            one.task,
            read_table(one.table),
            gold_column=one.gold_column,
            validation=None if one.validation is None else read_table(one.validation),
            selection=selection,
            seed=seed,
        )
        for one in task_data
    )


def _run_training(
    folder: Path,
    training_data: Sequence[TrainingData],
    recipe: Recipe,
    identity: Mapping[str, str],
    observer: TrainingObserver,
    signals: SignalState,
    demonstration: bool,
) -> TrainResult:
    from medtask.training.model_folder import write_model_folder

    started = time.monotonic()
    work = folder / WORK_FOLDER
    # Of several processes only the first keeps what is kept.
    draft = folder / DRAFT_FOLDER if is_main_process() else work / f"draft-{os.environ['RANK']}"
    shutil.rmtree(draft, ignore_errors=True)
    for path in (work, draft):
        path.mkdir(exist_ok=True, mode=0o700)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "state": "training",
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "begun": get_timestamp(),
        "identity": dict(identity),
        "recipe": recipe.to_json(),
        "tasks": [task_to_dict(data.task) for data in training_data],
    }
    before = read_training_manifest(folder)
    facts["seconds"] = before.get("seconds", 0.0) if before else 0.0
    write_training_manifest(folder, facts)
    loss_file = folder / LOSS_FILE if is_main_process() else work / f"loss-{os.environ['RANK']}.csv"
    log = TrainingLog(loss_file, observer, _find_resume_step(work))
    try:
        method_result = load_fit_function(recipe.method)(
            training_data, recipe, TrainingContext(draft, work, log, observer, signals)
        )
    except MedtaskError:
        if before is None and not log.points:
            _clear(folder)  # nothing was trained: the folder is free for a better command
        raise
    if has_no_gain(log.points):
        observer.on_note(_NO_GAIN_NOTE)
        method_result = replace(method_result, notes=(*method_result.notes, _NO_GAIN_NOTE))
    observer.on_finish()
    if not is_main_process():
        return TrainResult(folder, "finished", (), None, None, 0.0)
    facts["seconds"] = round(facts["seconds"] + time.monotonic() - started, 1)
    write_model_folder(
        folder, training_data, recipe, method_result, log, facts, demonstration=demonstration
    )
    return _read_result(folder, signals.exit_code)


def _clear(folder: Path) -> None:
    for name in (TRAINING_FILE, LOSS_FILE):
        (folder / name).unlink(missing_ok=True)
    for name in (WORK_FOLDER, DRAFT_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)


def _find_resume_step(work_folder: Path) -> int:
    """The step that a killed training goes on from; found by names, without loading any library."""
    checkpoint_names = [
        path.parent.name for path in work_folder.glob("checkpoints/checkpoint-*/whole")
    ]
    return max((int(name.rpartition("-")[2]) for name in checkpoint_names), default=0)


def _read_result(folder: Path, exit_code: int) -> TrainResult:
    """The result of a training that has ended, as its folder tells it."""
    from medtask.evaluation.statistics.intervals import Metric

    facts = read_training_manifest(folder)
    assert facts is not None, "a training notes how it ended"
    task_results = []
    for one in facts["measured"]:
        metrics = {
            name: Metric(**figure) if figure else None for name, figure in one["figures"].items()
        }
        baselines = {
            name: Metric(**rival[one["measure"]])
            for name, rival in one["rivals"].items()
            if one["measure"] in rival
        }
        task_results.append(
            TaskTrainingResult(one["task"], one["measure"], metrics, baselines, one["calibration"])
        )
    return TrainResult(
        folder,
        facts["state"],
        tuple(task_results),
        facts["validation_loss"],
        facts["untrained"],
        facts["seconds"],
        exit_code if facts["state"] == "interrupted" else 0,
        tuple(facts["notes"]),
    )


def preview_training(
    task_data: Sequence[TaskData],
    recipe: Recipe,
    *,
    out: str | Path,
    selection: RowSelection = DEFAULT_SELECTION,
) -> list[str]:
    """What train would do, line by line; nothing is trained or written. Raises what train would
    raise before its first step.
    """
    from medtask.training.language.preview import preview_language
    from medtask.training.training_data import describe_training_data

    recipe.check()
    lines = []
    training_data = _build_all_training_data(task_data, selection, recipe.seed)
    for data in training_data:
        lines += data.cleaning.describe() if data.cleaning else []
        lines += describe_training_data(data)
        lines += [f"leaks: {line}" for line in data.leakage.describe()] if data.leakage else []
    if recipe.method in LANGUAGE_METHODS:
        lines += preview_language(training_data, recipe)
    return [*lines, f"the model would be written to {out}"]
