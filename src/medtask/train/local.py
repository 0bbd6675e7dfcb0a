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

from medtask.data.atomic import storage_error
from medtask.data.read import read_table
from medtask.engines.trained import CONTRACT, TRAINING, find_engine
from medtask.errors import MedtaskError, UsageError
from medtask.runs.interrupt import Signals, catch_signals
from medtask.runs.lock import lock_run
from medtask.runs.manifest import now
from medtask.tasks.facts import write_facts
from medtask.tasks.task import Task
from medtask.train.desk import DRAFT, WORK, Desk, is_first
from medtask.train.journal import Journal, Unwatched, Watch, gained_nothing
from medtask.train.manifest import (
    FORMAT,
    identify_training,
    read_manifest,
    refuse_other,
    write_manifest,
)
from medtask.train.material import USUAL, Material, Selection, gather_material
from medtask.train.methods import find_fit
from medtask.train.recipe import LANGUAGE, Recipe

if TYPE_CHECKING:
    from medtask.evaluate.intervals import Estimate

CURVE = "loss.csv"
_UNTRAINED = (
    "nothing was gained: no validation had a lower loss than the one before the first step, and "
    "that is the state that is kept "
    "(more rows, more --epochs or a lower --rate may help)"
)


@dataclass(frozen=True, slots=True)
class Learnt:
    """How good a model is at one of its tasks, on the rows that the training was validated by.

    ``figures``: by measure (evaluate.words.MEASURES); ``measure`` names the headline. ``rivals``:
    the headline of simpler methods that learnt from the same rows, by name. ``calibration``: what
    it did, in a sentence; "" where there is none.
    """

    task: str
    measure: str
    figures: Mapping[str, Estimate | None]
    rivals: Mapping[str, Estimate]
    calibration: str

    @property
    def score(self) -> Estimate | None:
        """The headline."""
        return self.figures.get(self.measure)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What became of a training. ``learnt``: one for each task. ``validation_loss``: the lowest, in
    nats a row; ``untrained``: the base's score in the same validations, where it was measured.
    ``seconds``: of all sessions. ``exit_code``: 0; 130 or 143 after a signal, when the folder holds
    the best state until then and the same command goes on.
    """

    folder: Path
    state: Literal["finished", "interrupted"]
    learnt: tuple[Learnt, ...]
    validation_loss: float | None
    untrained: float | None
    seconds: float
    exit_code: int = 0
    notes: tuple[str, ...] = ()

    @property
    def score(self) -> Estimate | None:
        """The headline figure of the first task."""
        return self.learnt[0].score if self.learnt else None


@dataclass(frozen=True, slots=True)
class Lecture:
    """A task and the table that it is learnt from; ``gold_column`` and ``validation`` where they
    are not the task's own.
    """

    task: Task
    table: object
    gold_column: str | None = None
    validation: object | None = None


def train(
    lectures: Sequence[Lecture],
    recipe: Recipe,
    *,
    out: str | Path,
    selection: Selection = USUAL,
    watch: Watch | None = None,
    demonstration: bool = False,
) -> TrainResult:
    """Train a model on tables' gold, into the folder ``out``; or go on where an earlier session of
    the same training stopped.

    ``lectures``: what the model is trained for, one task or several. ``selection``: which of their
    rows it learns from. The first signal (Ctrl-C) ends the step in hand, and what was best until
    then becomes the model.

    Raises every MedtaskError: UsageError and InputError for what cannot be learnt from, TooBig,
    RunMismatch for a folder that holds something else, RunLocked, StorageError, EngineError.
    """
    watch = watch if watch is not None and is_first() else Unwatched()
    recipe.check()
    folder = _open(Path(out))
    with _alone(folder), catch_signals(raising=False) as signals:
        materials = _gather(lectures, selection, recipe.seed)
        identity = identify_training(materials, recipe, selection)
        refuse_other(folder, identity)
        if (known := read_manifest(folder)) and known["state"] == "finished":
            watch.on_note(f"{folder} holds this very model already: nothing is left to do")
            find_engine(folder)
            return _read_result(folder, 0)
        for material in materials:
            for note in material.notes:
                watch.on_note(note)
        return _work(folder, materials, recipe, identity, watch, signals, demonstration)


def _alone(folder: Path) -> AbstractContextManager[None]:
    return lock_run(folder) if is_first() else nullcontext()


def _open(folder: Path) -> Path:
    """The folder, made where it is missing. UsageError for one that holds something else."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise storage_error(folder, error) from error
    if names - {".lock"} and not names & {WORK, CONTRACT, TRAINING}:
        raise UsageError(
            f"{folder} is in use for something else", fix="name a new folder with --out"
        )
    return folder


def _gather(lectures: Sequence[Lecture], selection: Selection, seed: int) -> tuple[Material, ...]:
    return tuple(
        gather_material(
            one.task,
            read_table(one.table),
            gold_column=one.gold_column,
            validation=None if one.validation is None else read_table(one.validation),
            selection=selection,
            seed=seed,
        )
        for one in lectures
    )


def _work(
    folder: Path,
    materials: Sequence[Material],
    recipe: Recipe,
    identity: Mapping[str, str],
    watch: Watch,
    signals: Signals,
    demonstration: bool,
) -> TrainResult:
    from medtask.train.finish import finish

    begun = time.monotonic()
    work = folder / WORK
    # Of several processes only the first keeps what is kept.
    draft = folder / DRAFT if is_first() else work / f"draft-{os.environ['RANK']}"
    shutil.rmtree(draft, ignore_errors=True)
    for path in (work, draft):
        path.mkdir(exist_ok=True, mode=0o700)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "state": "training",
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "begun": now(),
        "identity": dict(identity),
        "recipe": recipe.tell(),
        "tasks": [write_facts(material.task) for material in materials],
    }
    before = read_manifest(folder)
    facts["seconds"] = before.get("seconds", 0.0) if before else 0.0
    write_manifest(folder, facts)
    curve = folder / CURVE if is_first() else work / f"loss-{os.environ['RANK']}.csv"
    journal = Journal(curve, watch, _find_step(work))
    try:
        fitted = find_fit(recipe.method)(
            materials, recipe, Desk(draft, work, journal, watch, signals)
        )
    except MedtaskError:
        if before is None and not journal.points:
            _clear(folder)  # nothing was trained: the folder is free for a better command
        raise
    if gained_nothing(journal.points):
        watch.on_note(_UNTRAINED)
        fitted = replace(fitted, notes=(*fitted.notes, _UNTRAINED))
    watch.on_finish()
    if not is_first():
        return TrainResult(folder, "finished", (), None, None, 0.0)
    facts["seconds"] = round(facts["seconds"] + time.monotonic() - begun, 1)
    finish(folder, materials, recipe, fitted, journal, facts, demonstration=demonstration)
    return _read_result(folder, signals.exit_code)


def _clear(folder: Path) -> None:
    for name in (TRAINING, CURVE):
        (folder / name).unlink(missing_ok=True)
    for name in (WORK, DRAFT):
        shutil.rmtree(folder / name, ignore_errors=True)


def _find_step(work: Path) -> int:
    """The step that a killed training goes on from; found by names, without loading any library."""
    marks = [path.parent.name for path in work.glob("checkpoints/checkpoint-*/whole")]
    return max((int(name.rpartition("-")[2]) for name in marks), default=0)


def _read_result(folder: Path, exit_code: int) -> TrainResult:
    """The result of a training that has ended, as its folder tells it."""
    from medtask.evaluate.intervals import Estimate

    facts = read_manifest(folder)
    assert facts is not None, "a training notes how it ended"
    learnt = []
    for one in facts["measured"]:
        figures = {
            name: Estimate(**figure) if figure else None for name, figure in one["figures"].items()
        }
        rivals = {
            name: Estimate(**rival[one["measure"]])
            for name, rival in one["rivals"].items()
            if one["measure"] in rival
        }
        learnt.append(Learnt(one["task"], one["measure"], figures, rivals, one["calibration"]))
    return TrainResult(
        folder,
        facts["state"],
        tuple(learnt),
        facts["validation_loss"],
        facts["untrained"],
        facts["seconds"],
        exit_code if facts["state"] == "interrupted" else 0,
        tuple(facts["notes"]),
    )


def preview(
    lectures: Sequence[Lecture], recipe: Recipe, *, out: str | Path, selection: Selection = USUAL
) -> list[str]:
    """What train would do, line by line; nothing is trained or written. Raises what train would
    raise before its first step.
    """
    from medtask.train.language.preview import preview_language
    from medtask.train.material import describe_material

    recipe.check()
    lines = []
    materials = _gather(lectures, selection, recipe.seed)
    for material in materials:
        lines += material.cleaning.tell() if material.cleaning else []
        lines += describe_material(material)
        lines += [f"leaks: {line}" for line in material.leaks.tell()] if material.leaks else []
    if recipe.method in LANGUAGE:
        lines += preview_language(materials, recipe)
    return [*lines, f"the model would be written to {out}"]
