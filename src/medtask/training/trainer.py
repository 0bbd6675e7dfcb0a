"""transformers' Trainer as trainings here use it: with a journal, checkpoints that are whole or not
there, the best state kept.

A killed training resumes from its last whole checkpoint and goes on as if nothing had happened: a
checkpoint holds weights, optimizer, schedule and the state of all random numbers, and is marked as
whole when everything of it is on the disk.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from medtask.atomic_files import make_storage_error, replace_text
from medtask.engines.hf.memory import is_out_of_memory
from medtask.errors import EngineError
from medtask.training.recipe import Recipe
from medtask.training.training_context import TrainingContext, is_main_process
from medtask.training.training_log import TrainingPoint
from medtask.training.validation_metrics import ValidationResult

COMPLETE_MARKER = "whole"  # the file that marks a checkpoint as complete
BEST_FOLDER = "best"
CHECKPOINTS_FOLDER = "checkpoints"
CHECKPOINT_SECONDS = 120.0
MAX_CHECKPOINTS = 2


class TrainableWeights(Protocol):
    """What of a model is trained, as files."""

    def save(self, folder: Path) -> None:
        """Write it into an existing folder."""

    def load(self, folder: Path) -> None:
        """Put what save wrote back into the model."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long a training is. ``epoch_steps``: steps of an epoch. ``validation_steps``: the
    steps behind which it is validated, the last one always.
    """

    steps: int
    epoch_steps: int
    validation_steps: frozenset[int]


def plan_training(epoch_steps: int, recipe: Recipe) -> TrainingPlan:
    """The steps that a recipe takes, where an epoch has so many."""
    steps = max(1, math.ceil(epoch_steps * recipe.epochs))
    every = max(1.0, epoch_steps / recipe.validations)
    marks = {
        min(steps, max(1, round(every * turn))) for turn in range(1, math.ceil(steps / every) + 1)
    }
    return TrainingPlan(steps, epoch_steps, frozenset({*marks, steps}))


def make_arguments(
    recipe: Recipe,
    training_plan: TrainingPlan,
    context: TrainingContext,
    *,
    device: str,
    optimizer: str = "adamw_torch_fused",
    **overrides: Any,
) -> TrainingArguments:
    """Trainer's arguments for a recipe. When to log, validate and save is decided by Bookkeeper,
    not by them.
    """
    return TrainingArguments(
        output_dir=str(context.work_folder / CHECKPOINTS_FOLDER),
        max_steps=training_plan.steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(training_plan.steps * recipe.warmup),
        weight_decay=recipe.decay,
        max_grad_norm=1.0,
        optim=optimizer,
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=device == "cpu",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **overrides,
    )


class MedtaskTrainer(Trainer):
    """A Trainer whose checkpoints hold what is trained and nothing else, and whose validation is a
    function of our own.

    ``count_batch``: how many rows and tokens a batch has.
    """

    def __init__(
        self,
        *,
        context: TrainingContext,
        training_plan: TrainingPlan,
        weights: TrainableWeights,
        validate: Callable[[], ValidationResult],
        count_batch: Callable[[Any], tuple[int, int]],
        patience: int,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.desk, self.weights, self.validate, self.count = context, weights, validate, count_batch
        self.rows = self.tokens = 0
        self.step_seconds = 0.0
        self.remove_callback(PrinterCallback)
        self.add_callback(TrainingBookkeepingCallback(self, training_plan, patience))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        begun = time.monotonic()
        rows, tokens = self.count(inputs)
        loss = self.forward_backward(model, inputs, num_items_in_batch)
        self.step_seconds += time.monotonic() - begun
        self.rows, self.tokens = self.rows + rows, self.tokens + tokens
        return loss

    def forward_backward(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Any:
        """Forward and backward of one batch; the loss, detached."""
        return super().training_step(model, inputs, num_items_in_batch)

    def evaluate(self, *unused: Any, **unused_too: Any) -> dict[str, float]:
        result = self.validate()
        metrics = {"eval_loss": result.loss} | (
            {} if result.score is None else {"eval_score": result.score}
        )
        handler = self.callback_handler
        control: TrainerControl = handler.on_evaluate(self.args, self.state, self.control, metrics)  # type: ignore[has-type]
        self.control = control
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save and output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            self.weights.save(Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.weights.load(Path(resume_from_checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with convert_storage_errors(self.desk.work_folder):
            super()._save_checkpoint(model, trial)


class TrainingBookkeepingCallback(TrainerCallback):
    """Notes what happens, keeps the best state, marks checkpoints as whole, and stops where nothing
    is gained any more.
    """

    def __init__(self, trainer: MedtaskTrainer, training_plan: TrainingPlan, patience: int) -> None:
        self.tutor, self.course, self.patience = trainer, training_plan, patience
        self.last_saved = time.monotonic()

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **unused: Any
    ) -> None:
        self.last_saved = time.monotonic()
        self.tutor.desk.observer.on_start(self.course.steps, state.global_step)
        if state.global_step == 0:
            # how good the base is untrained: what is gained is seen from there, and it may be the
            # best there is
            self.tutor.evaluate()

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **unused: Any
    ) -> None:
        step = state.global_step
        control.should_evaluate = step in self.course.validation_steps
        overdue = time.monotonic() - self.last_saved > CHECKPOINT_SECONDS
        control.should_save = step < self.course.steps and (control.should_evaluate or overdue)
        if self.tutor.desk.signals.number is not None:
            control.should_training_stop = control.should_save = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **event: Any) -> None:
        logs: Mapping[str, float] = event["logs"]
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise EngineError(
                f"the loss is {logs['loss']} at step {state.global_step}: "
                "the training has diverged",
                fix="train again with a lower --rate (a tenth, say), into another folder",
            )
        trainer = self.tutor
        pace = trainer.step_seconds or math.inf
        self._log_point(
            state,
            loss=logs["loss"],
            rate=logs.get("learning_rate"),
            rows_per_s=trainer.rows / pace,
            tokens_per_s=trainer.tokens / pace,
        )
        trainer.rows, trainer.tokens, trainer.step_seconds = 0, 0, 0.0

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **unused: Any,
    ) -> None:
        loss, step = metrics["eval_loss"], state.global_step
        self._log_point(state, validation_loss=loss, score=metrics.get("eval_score"))
        best = read_best_checkpoint(self.tutor.desk.work_folder)
        if state.is_world_process_zero and (best is None or loss < best.loss):
            save_best_checkpoint(
                self.tutor.desk.work_folder,
                self.tutor.weights,
                step,
                ValidationResult(loss, metrics.get("eval_score")),
            )
        losses = [
            point.validation_loss
            for point in self.tutor.desk.log.points
            if point.validation_loss is not None
        ]
        if count_validations_since_best(losses) >= self.patience:
            control.should_training_stop = True

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, **unused: Any
    ) -> None:
        self.last_saved = time.monotonic()
        if state.is_world_process_zero:
            folder = self.tutor.desk.work_folder / CHECKPOINTS_FOLDER
            mark_complete(folder / f"checkpoint-{state.global_step}")
            remove_old_checkpoints(folder)

    def _log_point(self, state: TrainerState, **metrics: Any) -> None:
        step = state.global_step
        self.tutor.desk.log.add(
            TrainingPoint(
                step, self.course.steps, round(step / self.course.epoch_steps, 4), **metrics
            )
        )


@dataclass(frozen=True, slots=True)
class BestCheckpoint:
    """The best state so far: ``loss`` and ``score`` as a Verdict."""

    step: int
    loss: float
    score: float | None


def save_best_checkpoint(
    work_folder: Path, weights: TrainableWeights, step: int, result: ValidationResult
) -> None:
    """Save the state in place of the best one so far, which is there whole until the new one is."""
    new, old = work_folder / f"{BEST_FOLDER}-{step}", work_folder / BEST_FOLDER
    with convert_storage_errors(work_folder):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True, mode=0o700)
        weights.save(new)
        replace_text(
            new / "best.json",
            json.dumps({"step": step, "loss": result.loss, "score": result.score}) + "\n",
        )
        _sync_files(new)
        # Not one rename: a folder cannot be put in the place of another. read_best looks for both
        # names.
        shutil.rmtree(old, ignore_errors=True)
        new.rename(old)


def read_best_checkpoint(work_folder: Path) -> BestCheckpoint | None:
    """The best state that was saved whole, wherever it lies; None where there is none yet."""
    found = find_best_folder(work_folder)
    return None if found is None else _read_best_file(found)


def find_best_folder(work_folder: Path) -> Path | None:
    """The folder of the best state."""
    folders = [
        folder
        for folder in work_folder.glob(f"{BEST_FOLDER}*")
        if _read_best_file(folder) is not None
    ]
    return min(
        folders,
        key=lambda folder: note.loss if (note := _read_best_file(folder)) else math.inf,
        default=None,
    )


def _read_best_file(folder: Path) -> BestCheckpoint | None:
    try:
        return BestCheckpoint(**json.loads((folder / "best.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def find_checkpoint(work_folder: Path) -> Path | None:
    """The last whole checkpoint; half-written ones are removed."""
    folder = work_folder / CHECKPOINTS_FOLDER
    found = sorted(folder.glob("checkpoint-*"), key=_step_of)
    for torn in [
        path for path in found if is_main_process() and not (path / COMPLETE_MARKER).is_file()
    ]:
        shutil.rmtree(torn, ignore_errors=True)
    return max(
        (path for path in found if (path / COMPLETE_MARKER).is_file()), key=_step_of, default=None
    )


def step_of_checkpoint(checkpoint: Path | None) -> int:
    """How many steps were taken before a checkpoint; 0 for none."""
    return 0 if checkpoint is None else _step_of(checkpoint)


def mark_complete(checkpoint: Path) -> None:
    """Say that everything of a checkpoint is on the disk."""
    with convert_storage_errors(checkpoint):
        _sync_files(checkpoint)
        replace_text(checkpoint / COMPLETE_MARKER, "")


def remove_old_checkpoints(folder: Path) -> None:
    """Keep the newest checkpoints only. A mark goes first: what is half removed is no
    checkpoint.
    """
    for path in sorted(folder.glob("checkpoint-*"), key=_step_of)[:-MAX_CHECKPOINTS]:
        with suppress(OSError):
            (path / COMPLETE_MARKER).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


def count_validations_since_best(losses: Sequence[float]) -> int:
    """How many validations came since the lowest loss."""
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


@contextmanager
def convert_storage_errors(folder: Path) -> Iterator[None]:
    """What goes wrong while something is saved, as StorageError: libraries wrap the disk's own
    errors in theirs.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise make_storage_error(folder, error) from error
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "write" not in str(error).lower():
            raise
        raise make_storage_error(
            folder, OSError(errno.ENOSPC, str(error).partition("\n")[0])
        ) from error


def run_trainer(trainer: MedtaskTrainer, checkpoint: Path | None) -> None:
    """Train to the end, from a checkpoint where there is one. EngineError where the memory does not
    suffice.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # what libraries announce to each other
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise EngineError(
            "the memory did not suffice for a step of training",
            fix=(
                "add --checkpointing, lower --row-tokens, or begin with a smaller model; the "
                "same command goes on where it stopped"
            ),
        ) from error


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _sync_files(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
