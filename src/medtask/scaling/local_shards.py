"""Answering shards on one machine: in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace

from medtask.engines.base import Engine
from medtask.engines.registry import load_model
from medtask.errors import RunLocked
from medtask.prediction.predictor import load_pass_engines
from medtask.runs.progress import RunObserver
from medtask.scaling.plan import RunPlan
from medtask.scaling.shard_session import ShardResult, ShardWork, answer_shard


def answer_shards(
    plan: RunPlan,
    numbers: list[int] | None = None,
    *,
    load: Callable[[], Engine] | None = None,
    observer: RunObserver | None = None,
    force_lock: bool = False,
) -> Iterator[ShardResult]:
    """Answer shards one after the other, with the models loaded once; ends after a signal.

    Args:
        plan: The plan.
        numbers: The shards; None for all that are not complete and that no other process answers.
        load: Loads the model; default: as planned.
        observer: Receives the progress of each shard.
        force_lock: Take over shards that are locked by a process on another host.

    Yields:
        The result of each shard, when it has ended.

    Raises:
        RunMismatch: The task or the table has changed.
        MedtaskError: See `answer_shard`.
    """
    task, table = plan.open()
    chosen = numbers or [shard.number for shard in plan.shards]
    pending = [number for number in chosen if not plan.get_folder(number).read_done()]
    work = ShardWork(
        plan,
        task,
        table,
        load or (lambda: load_model(plan.model, plan.load_options)),
        force_lock=force_lock,
    )
    with keep_models(work) if len(pending) > 1 else nullcontext(work) as shared:
        for number in pending:
            try:
                result = answer_shard(shared, number, observer)
            except RunLocked:
                if numbers:
                    raise
                continue
            yield result
            if result.state == "interrupted":
                return


@contextmanager
def keep_models(work: ShardWork) -> Iterator[ShardWork]:
    """The work, with models that stay loaded from shard to shard."""
    with ExitStack() as stack:
        engine = work.model if isinstance(work.model, Engine) else work.model()
        if engine is not work.model:
            stack.callback(engine.close)
        pass_engines = load_pass_engines(
            work.task, allow_remote=work.plan.load_options.allow_remote
        )
        for one in pass_engines.values():
            stack.callback(one.close)
        yield replace(work, model=engine, pass_engines=pass_engines)
