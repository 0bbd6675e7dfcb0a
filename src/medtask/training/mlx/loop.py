"""The training loop: mlx-lm's trainer, with a training log, checkpoints and a best state."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.trainer import TrainingArgs, train

from medtask.engines.mlx.load import is_on_cpu
from medtask.training.checkpoints import (
    CHECKPOINTS_FOLDER,
    convert_storage_errors,
    find_checkpoint,
    get_checkpoint_step,
    mark_complete,
    remove_old_checkpoints,
)
from medtask.training.language.tokenized_example import TokenizedExample
from medtask.training.mlx.batches import Batch, BatchShape, count_tokens, split_step
from medtask.training.mlx.loss import compute_loss
from medtask.training.training_plan import (
    CHECKPOINT_SECONDS,
    TrainingLoop,
    check_finite_loss,
    convert_memory_errors,
)

_OPTIMIZER_FILE, _RANDOM_FILE = "optimizer.safetensors", "random.safetensors"
_MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class MlxLoop(TrainingLoop):
    """What mlx-lm's trainer is called with.

    Attributes:
        model: The model with its adapter.
        steps: The examples of each step, in order.
        shape: The sizes of a batch; a step has ``parts`` of them.
        checkpointing: Whether activations are recomputed.
    """

    model: Any
    steps: Sequence[Sequence[TokenizedExample]]
    shape: BatchShape
    parts: int
    checkpointing: bool


class _TrainingEnded(Exception):
    """The training ends before its last step."""


class ClippedAdamW(optim.AdamW):
    """AdamW on gradients whose norm is limited, as in trainings with transformers."""

    def update(self, model: Any, gradients: Any) -> None:
        clipped, _ = optim.clip_grad_norm(gradients, _MAX_GRADIENT_NORM)
        super().update(model, clipped)


def run_mlx_loop(loop: MlxLoop) -> int:
    """Train to the end, resuming from the last checkpoint; returns the number of steps taken.

    Raises:
        EngineError: The loss is not finite, or there is not enough memory.
        StorageError: A checkpoint cannot be written.
    """
    optimizer = _make_optimizer(loop)
    done = _resume(loop, optimizer)
    keeper = _StateKeeper(loop, optimizer, done)
    loop.context.observer.on_start(loop.plan.steps, done)
    if done == 0:
        # The gain is measured relative to the untrained base, which may remain the best state.
        keeper.validate()
    arguments = TrainingArgs(
        batch_size=loop.shape.rows,
        iters=(loop.plan.steps - done) * loop.parts,
        steps_per_report=1,
        steps_per_save=loop.plan.steps * loop.parts + 1,  # checkpoints are written below
        adapter_file=str(loop.context.work_folder / "last.safetensors"),
        grad_checkpoint=loop.checkpointing,
        grad_accumulation_steps=loop.parts,
    )
    with (
        convert_memory_errors(
            "add --checkpointing, lower --row-tokens or --layers, or choose a quantised or "
            "smaller base"
        ),
        suppress(_TrainingEnded),
        _use_layer_call(loop.model, keeper.layer_call),
        _without_compilation_on_cpu(),
        redirect_stdout(io.StringIO()),  # mlx-lm prints another table
    ):
        train(
            loop.model,
            optimizer,
            range(loop.shape.rows),  # not read: the batches are made below
            args=arguments,
            loss=compute_loss,
            iterate_batches=lambda **_: _iterate_batches(loop, done),
            training_callback=keeper,
        )
    return keeper.step


@contextmanager
def _use_layer_call(model: Any, call: Any) -> Iterator[None]:
    """Use a method for the layers, and the present one afterwards.

    To recompute activations, mlx-lm replaces the method in the class of the layers, also for other
    models of this process. The replacement does not accept the caches of a validation.
    """
    layer_type = type(model.layers[0])
    present = layer_type.__call__
    layer_type.__call__ = call
    try:
        yield
    finally:
        layer_type.__call__ = present


@contextmanager
def _without_compilation_on_cpu() -> Iterator[None]:
    """On a CPU, mlx compiles with the system's C++ compiler, anew for each shape and constant."""
    if not is_on_cpu():
        yield
        return
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()


def _iterate_batches(loop: MlxLoop, done: int) -> Iterator[tuple[Batch, ...] | Batch]:
    for examples in islice(loop.steps, done, None):
        yield from split_step(examples, loop.shape, loop.parts)


def _make_optimizer(loop: MlxLoop) -> ClippedAdamW:
    rate, steps = loop.recipe.learning_rate, loop.plan.steps
    warmup = round(steps * loop.recipe.warmup)
    decay = optim.cosine_decay(rate, max(1, steps - warmup))
    schedule = (
        optim.join_schedules([optim.linear_schedule(0.0, rate, warmup), decay], [warmup])
        if warmup
        else decay
    )
    optimizer = ClippedAdamW(
        learning_rate=schedule, weight_decay=loop.recipe.decay, bias_correction=True
    )
    optimizer.init(loop.model.trainable_parameters())
    return optimizer


def _resume(loop: MlxLoop, optimizer: ClippedAdamW) -> int:
    """Load the last complete checkpoint; returns the number of its step, 0 without one."""
    checkpoint = find_checkpoint(loop.context.work_folder)
    if checkpoint is None:
        return 0
    loop.weights.load(checkpoint)
    stored: Any = mx.load(str(checkpoint / _OPTIMIZER_FILE))
    optimizer.state = tree_unflatten(list(stored.items()))
    stored = mx.load(str(checkpoint / _RANDOM_FILE))
    high, low = map(int, stored["key"].tolist())
    mx.random.seed(high << 32 | low)  # the state is read-only, and consists of the seed's halves
    return get_checkpoint_step(checkpoint)


class _StateKeeper(TrainingCallback):
    """Logs points, keeps the best state, writes checkpoints and ends the training early.

    mlx-lm calls it after each batch; a step has ``loop.parts`` of them.
    """

    def __init__(self, loop: MlxLoop, optimizer: ClippedAdamW, done: int) -> None:
        self.loop, self.optimizer, self.step = loop, optimizer, done
        self.layer_call = type(loop.model.layers[0]).__call__
        self._losses: list[float] = []
        self._saved = self._begun = time.monotonic()

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self._losses.append(train_info["train_loss"])
        if len(self._losses) < self.loop.parts:
            return
        loss = sum(self._losses) / self.loop.parts
        self._losses.clear()
        self.step += 1
        check_finite_loss(loss, self.step)
        examples = self.loop.steps[self.step - 1]
        seconds = max(1e-9, time.monotonic() - self._begun)
        self.loop.log_point(
            self.step,
            loss=loss,
            rate=train_info["learning_rate"],
            rows_per_s=len(examples) / seconds,
            tokens_per_s=count_tokens(examples) / seconds,
        )
        self._end_step()
        self._begun = time.monotonic()

    def _end_step(self) -> None:
        loop, plan = self.loop, self.loop.plan
        if is_validated := self.step in plan.validation_steps:
            self.validate()
        interrupted = loop.context.signals.number is not None
        overdue = time.monotonic() - self._saved > CHECKPOINT_SECONDS
        if self.step < plan.steps and (is_validated or interrupted or overdue):
            self._save_checkpoint()
        if interrupted or loop.is_out_of_patience:
            raise _TrainingEnded

    def validate(self) -> None:
        self.loop.model.eval()
        with _use_layer_call(self.loop.model, self.layer_call):
            result = self.loop.validate()
        self.loop.model.train()
        self.loop.add_validation(self.step, result)

    def _save_checkpoint(self) -> None:
        checkpoints = self.loop.context.work_folder / CHECKPOINTS_FOLDER
        folder: Path = checkpoints / f"checkpoint-{self.step}"
        with convert_storage_errors(self.loop.context.work_folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
            self.loop.weights.save(folder)
            optimizer_state: Any = dict(tree_flatten(self.optimizer.state))
            mx.save_safetensors(str(folder / _OPTIMIZER_FILE), optimizer_state)
            state: Any = mx.random.state
            mx.save_safetensors(str(folder / _RANDOM_FILE), {"key": state[0]})
        mark_complete(folder)
        remove_old_checkpoints(checkpoints)
        self._saved = time.monotonic()
