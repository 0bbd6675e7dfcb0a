"""A transformers Trainer with a training log, complete checkpoints and the best state.

A killed training resumes from its last complete checkpoint, which contains weights, optimizer,
schedule and the state of all random number generators.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from medtask.training.checkpoints import (
    CHECKPOINTS_FOLDER,
    convert_storage_errors,
    find_checkpoint,
    mark_complete,
    remove_old_checkpoints,
)
from medtask.training.training_plan import (
    CHECKPOINT_SECONDS,
    TrainingLoop,
    check_finite_loss,
    convert_memory_errors,
)
from medtask.training.validation_metrics import ValidationResult


def make_arguments(
    loop: TrainingLoop, device: str, *, optimizer: str = "adamw_torch_fused", bf16: bool = False
) -> TrainingArguments:
    """Trainer's arguments. TrainingBookkeepingCallback decides when to log, validate and save."""
    recipe = loop.recipe
    return TrainingArguments(
        output_dir=str(loop.context.work_folder / CHECKPOINTS_FOLDER),
        max_steps=loop.plan.steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(loop.plan.steps * recipe.warmup),
        weight_decay=recipe.decay,
        max_grad_norm=1.0,
        optim=optimizer,
        bf16=bf16,
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=device == "cpu",
        # An item of the data set is a whole batch, and batches are shuffled already (batching.py).
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
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
    )


class MedtaskTrainer(Trainer):
    """A Trainer with checkpoints of the trained weights only, which validates by a function.

    ``count_batch`` returns the numbers of rows and tokens of a batch.
    """

    def __init__(
        self, loop: TrainingLoop, count_batch: Callable[[Any], tuple[int, int]], **options: Any
    ) -> None:
        super().__init__(**options)
        self.loop, self.count_batch = loop, count_batch
        self.rows = self.tokens = 0
        self.step_seconds = 0.0
        self.remove_callback(PrinterCallback)
        self.add_callback(TrainingBookkeepingCallback(self))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        begun = time.monotonic()
        rows, tokens = self.count_batch(inputs)
        loss = self.forward_backward(model, inputs, num_items_in_batch)
        self.step_seconds += time.monotonic() - begun
        self.rows, self.tokens = self.rows + rows, self.tokens + tokens
        return loss

    def forward_backward(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Any:
        """Forward and backward pass of one batch; returns the detached loss."""
        return super().training_step(model, inputs, num_items_in_batch)

    def evaluate(self, *unused: Any, **unused_too: Any) -> dict[str, float]:
        result = self.loop.validate()
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
            self.loop.weights.save(Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.loop.weights.load(Path(resume_from_checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with convert_storage_errors(self.loop.context.work_folder):
            super()._save_checkpoint(model, trial)


class TrainingBookkeepingCallback(TrainerCallback):
    """Logs points, keeps the best state, marks checkpoints as complete and stops early."""

    def __init__(self, trainer: MedtaskTrainer) -> None:
        self.trainer, self.loop = trainer, trainer.loop
        self.last_saved = time.monotonic()

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **unused: Any
    ) -> None:
        self.last_saved = time.monotonic()
        self.loop.context.observer.on_start(self.loop.plan.steps, state.global_step)
        if state.global_step == 0:
            # The gain is measured relative to the untrained base, which may remain the best state.
            self.trainer.evaluate()

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **unused: Any
    ) -> None:
        step = state.global_step
        control.should_evaluate = step in self.loop.plan.validation_steps
        overdue = time.monotonic() - self.last_saved > CHECKPOINT_SECONDS
        control.should_save = step < self.loop.plan.steps and (control.should_evaluate or overdue)
        if self.loop.context.signals.number is not None:
            control.should_training_stop = control.should_save = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **event: Any) -> None:
        logs: Mapping[str, float] = event["logs"]
        if "loss" not in logs:
            return
        check_finite_loss(logs["loss"], state.global_step)
        trainer = self.trainer
        seconds = trainer.step_seconds or math.inf
        self.loop.log_point(
            state.global_step,
            loss=logs["loss"],
            rate=logs.get("learning_rate"),
            rows_per_s=trainer.rows / seconds,
            tokens_per_s=trainer.tokens / seconds,
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
        result = ValidationResult(metrics["eval_loss"], metrics.get("eval_score"))
        self.loop.add_validation(state.global_step, result)
        if self.loop.is_out_of_patience:
            control.should_training_stop = True

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, **unused: Any
    ) -> None:
        self.last_saved = time.monotonic()
        if state.is_world_process_zero:
            folder = self.loop.context.work_folder / CHECKPOINTS_FOLDER
            mark_complete(folder / f"checkpoint-{state.global_step}")
            remove_old_checkpoints(folder)


def run_trainer(trainer: MedtaskTrainer) -> None:
    """Train to the end, resuming from the last checkpoint if there is one.

    Raises:
        EngineError: There is not enough memory.
    """
    checkpoint = find_checkpoint(trainer.loop.context.work_folder)
    remedies = "add --checkpointing, lower --row-tokens, or choose a smaller base"
    with convert_memory_errors(remedies), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # warnings of one library about another
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def enable_checkpointing(model: Any) -> None:
    """Recompute activations in the backward pass."""
    with warnings.catch_warnings():
        # Later versions of transformers use another name, which earlier versions lack.
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
