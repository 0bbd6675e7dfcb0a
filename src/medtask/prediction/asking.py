"""Prompting an engine: optional reasoning, then the steps of the task's kind."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from medtask.engines.base import Engine
from medtask.errors import InputError, UsageError
from medtask.prediction.engine_output import EngineOutput, list_prompts, require_one_each
from medtask.prediction.kinds import get_kind_prediction
from medtask.prediction.kinds.base import require_generation
from medtask.prediction.suspicion import describe_suspicion
from medtask.records import Fault, Limits, Prompt
from medtask.tasks.task import Reasoning, Task

# Prompts that are generated together. The composition of a batch can change the last digits of
# numbers, so a resumed run repeats a whole batch unless all of it is in the ledger.
GENERATION_BATCH = 64


def ask_prompts(
    task: Task, engine: Engine, prompts: Sequence[Prompt], cached: Collection[str] = ()
) -> Iterator[EngineOutput | Fault]:
    """Ask each prompt of the task that is not ``cached`` once; results come in any order.

    ``cached`` holds ids of records; see `Engine.score`.

    Raises:
        EngineError: The engine does not support the task's kind.
    """
    check_engine(task, engine)
    for output in _ask_prompts(task, engine, prompts, cached):
        if isinstance(output, Fault):
            yield output
        else:
            yield replace(output, suspicion=describe_suspicion(output.prompt))


def _ask_prompts(
    task: Task, engine: Engine, prompts: Sequence[Prompt], cached: Collection[str]
) -> Iterator[EngineOutput | Fault]:
    if task.reasoning is None and not task.kind_spec.generated:
        by_id = {prompt.record_id: prompt for prompt in prompts}
        for result in require_one_each(engine.score(prompts, cached), prompts, cached):
            if isinstance(result, Fault):
                yield result
            else:
                yield EngineOutput(by_id[result.record_id]).add_output(result)
        return
    for batch in _make_batches(prompts):
        if any(prompt.record_id not in cached for prompt in batch):
            for output in _ask_batch(task, engine, batch):
                if _get_record_id(output) not in cached:
                    yield output


def check_engine(task: Task, engine: Engine) -> None:
    """Check that an engine can answer a task; further passes are not checked.

    Raises:
        EngineError: The engine does not support the task's kind.
        InputError: The task needs more tokens than the model's context has.
        UsageError: The task's data may not leave this machine, and the engine is remote.
    """
    if task.phi and engine.info.remote:
        raise UsageError(
            f"the task says `phi: true`, and {engine.info.title} is not on this machine",
            fix=(
                "choose a model on this machine, or take `phi: true` out if the table holds no "
                "patient's data"
            ),
        )
    get_kind_prediction(task).check_engine(engine)
    if task.reasoning:
        require_generation(engine)
    limit = engine.context_tokens
    token_settings = {
        "budget under reasoning": task.reasoning.budget if task.reasoning else 0,
        "max_tokens": task.answer_spec.max_tokens,
    }
    for name, tokens in token_settings.items():
        if limit is not None and tokens >= limit:
            raise InputError(
                f"{name} is {tokens:,} tokens, and the model's whole context {limit:,}",
                fix=(
                    f"lower {name}, so that it leaves room for the prompt, or choose a model "
                    "with a larger context"
                ),
            )


def _make_batches(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Batches of prompts with equal examples where possible, because these share a prefix."""
    groups: dict[object, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.messages[:-1], []).append(prompt)
    ordered = [prompt for group in groups.values() for prompt in group]
    for start in range(0, len(ordered), GENERATION_BATCH):
        yield ordered[start : start + GENERATION_BATCH]


def _ask_batch(
    task: Task, engine: Engine, batch: Sequence[Prompt]
) -> Iterator[EngineOutput | Fault]:
    outputs = {prompt.record_id: EngineOutput(prompt) for prompt in batch}
    if task.reasoning:
        _generate_thoughts(engine, outputs, task.reasoning)
    return get_kind_prediction(task).ask(engine, outputs)


def _generate_thoughts(
    engine: Engine, outputs: dict[str, EngineOutput], reasoning: Reasoning
) -> None:
    """Add the model's thoughts to each prompt; none if the context or the time is too short."""
    limits = Limits(reasoning.budget, think=True, deadline_s=reasoning.deadline_s)
    results = engine.generate(list_prompts(outputs), limits)
    for result in require_one_each(results, list_prompts(outputs)):
        before = outputs[result.record_id]
        if isinstance(result, Fault):
            after = before.add_note(f"answered without thinking: {result.reason}")
        elif result.finish_reason == "deadline":
            note = f"answered without thinking: its {reasoning.deadline_s:g} seconds had passed"
            after = before.add_output(result).add_note(note)
        else:
            prompt = replace(before.prompt, thoughts=result.text)
            after = replace(before.add_output(result), prompt=prompt)
        outputs[result.record_id] = after


def _get_record_id(output: EngineOutput | Fault) -> str:
    return output.record_id if isinstance(output, Fault) else output.prompt.record_id
