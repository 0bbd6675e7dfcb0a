"""Estimates of a run before it starts: tokens, rows that are too long, and time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from medtask.engines.base import Engine, PromptPlan
from medtask.prediction.asking import ask_prompts
from medtask.prediction.long_records import OVERLAP_DIVISOR
from medtask.records import Fault, Prompt
from medtask.runs.batch_sizes import generates
from medtask.runs.signals import TimeLimitReached, limit_time
from medtask.tasks.dataset_statistics import DatasetStatistics
from medtask.tasks.task import Task

# A tokenizer reads about this many characters per second.
MAX_TOKENIZED_CHARACTERS = 2_000_000
# Rows and tokens that are timed. The first ones include what a model does only once.
TIMED_PARTS = ((8, 512), (32, 2048), (32, 2048))
MAX_TIMING_S = 4.0
MIN_TIMING_S = 0.5  # shorter measurements are repeated
MAX_RATIO = 2.0  # measurements that differ by more give no estimate


@dataclass(frozen=True, slots=True)
class TooLongRows:
    """Rows that the model cannot read whole.

    Attributes:
        rows: Their number.
        precision: Whether it was counted, estimated from a sample, or is a lower bound.
    """

    rows: int
    precision: Literal["exact", "about", "at least"]


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Token counts of a table's prompts.

    Attributes:
        plan: The counts of the sample.
        readable: Distinct prompts of a random sample that the model can read whole, and their own
            tokens.
        longest_tokens: Tokens of the longest prompt with its longest candidate.
        too_long: The rows that the model cannot read whole.
        prompts: Distinct prompts of the table that are asked, whole or in parts.
        run_tokens: Tokens that a run reads for its distinct prompts, without those it generates.
    """

    plan: PromptPlan
    readable: Sequence[tuple[Prompt, int]]
    longest_tokens: int
    too_long: TooLongRows
    prompts: int
    run_tokens: float

    @property
    def is_mostly_long(self) -> bool:
        """Whether most tokens are those of rows that are read in parts."""
        readable = sum(own for _, own in self.readable) / max(1, len(self.readable))
        return self.run_tokens - self.plan.shared_tokens > 8 * self.prompts * readable


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of a model on some prompts of a task.

    Attributes:
        rows: The prompts that were answered.
        seconds: The time this took.
        tokens: The tokens that were read; 0 if the engine does not count them.
    """

    rows: int
    seconds: float
    tokens: int


def count_prompt_tokens(
    task: Task, engine: Engine, statistics: DatasetStatistics
) -> PromptTokens | None:
    """Count the tokens of a table's prompts; None for an engine that does not report them.

    At most `MAX_TOKENIZED_CHARACTERS` are tokenized.
    """
    sample = _take(drop_repeated(statistics.sample))
    longest = _take(statistics.longest)
    plan, long_plan = engine.plan(sample), engine.plan(longest)
    if plan is None or long_plan is None:
        return None
    room = plan.max_input_tokens - task.answer_spec.max_tokens
    fits = [tokens <= room for tokens in plan.sequence_tokens]
    distinct = statistics.count_distinct_prompts()
    share = fits.count(False) / len(fits)
    asked = distinct if task.gate.too_long != "error" else distinct - round(distinct * share)
    tokens = [
        own + plan.mean_label_tokens if fit else _count_long_tokens(task, plan, own, room)
        for own, fit in zip(plan.own_tokens, fits, strict=True)
    ]
    return PromptTokens(
        plan=plan,
        readable=[
            (prompt, own)
            for prompt, own, fit in zip(sample, plan.own_tokens, fits, strict=True)
            if fit
        ],
        longest_tokens=max(long_plan.sequence_tokens),
        too_long=_count_too_long(long_plan.sequence_tokens, room, share, statistics),
        prompts=asked,
        run_tokens=plan.shared_tokens + distinct * sum(tokens) / len(tokens),
    )


def _take(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The first prompts that are tokenized in about a second; at least one."""
    totals = accumulate(
        sum(len(message.content) for message in prompt.messages) for prompt in prompts
    )
    taken = [
        prompt
        for prompt, total in zip(prompts, totals, strict=True)
        if total <= MAX_TOKENIZED_CHARACTERS
    ]
    return taken or list(prompts[:1])


def drop_repeated(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The distinct prompts of one task, in order."""
    return list(
        {(prompt.messages, prompt.options): prompt for prompt in reversed(prompts)}.values()
    )[::-1]


def _count_long_tokens(task: Task, plan: PromptPlan, own_tokens: int, room: int) -> float:
    """The tokens that are read for a row that is too long, as the task's gate says."""
    if task.gate.too_long == "error":
        return 0
    if task.gate.too_long == "head_tail":
        return room
    parts = 1 + own_tokens // max(1, room - plan.shared_tokens)
    return own_tokens * (1 + 1 / OVERLAP_DIVISOR) + parts * plan.shared_tokens


def _count_too_long(
    sizes: Sequence[int], room: int, share: float, statistics: DatasetStatistics
) -> TooLongRows:
    """Count rows that are too long: among the longest, else by their share of the sample."""
    count = sum(size > room for size in sizes)
    if count < len(sizes) or count == statistics.built_prompts:
        return TooLongRows(
            statistics.scale(count), "about" if statistics.is_sampled and count else "exact"
        )
    estimate = round(share * statistics.prompt_count)
    return TooLongRows(estimate, "about") if estimate > count else TooLongRows(count, "at least")


def measure_speed(
    task: Task,
    engine: Engine,
    prompts: Sequence[tuple[Prompt, int]],
    limit_s: float = MAX_TIMING_S,
) -> Speed | None:
    """Time some of the prompts, which are given with their own tokens (0 if not known).

    Returns:
        The speed, which is that of a run to a factor of 2; None if it is not known so well: too few
        rows were answered within ``limit_s``, or measurements differ.
    """
    end = time.monotonic() + limit_s
    speeds: list[Speed] = []
    with suppress(TimeLimitReached), limit_time(limit_s):
        for rows, tokens in TIMED_PARTS:
            part = _select_part(prompts, rows, tokens)
            speeds.append(time_prompts(task, engine, part))
            last = speeds[-1]
            if len(part) == len(prompts) or last.seconds * 4 > end - time.monotonic():
                break
            if last.seconds > MIN_TIMING_S and _is_steady(speeds):
                break
    if not speeds or (len(speeds) > 1 and speeds[-1].seconds > 0.1 and not _is_steady(speeds)):
        return None
    # Few texts that are generated together take almost as long as many.
    few = speeds[-1].rows < min(len(prompts), TIMED_PARTS[-1][0])
    return None if few and generates(task) else speeds[-1]


def _select_part(prompts: Sequence[tuple[Prompt, int]], rows: int, tokens: int) -> list[Prompt]:
    """The first prompts that have together at most so many own tokens; at least the shortest."""
    part: list[Prompt] = []
    for prompt, own in prompts:
        if len(part) < rows and own <= tokens:
            part.append(prompt)
            tokens -= own
    return part or [min(prompts, key=lambda one: one[1])[0]]


def _is_steady(speeds: Sequence[Speed]) -> bool:
    """Whether the time per token, or per row, is known to a factor of 2."""
    if len(speeds) < 2:
        return False
    first, second = (speed.seconds / (speed.tokens or speed.rows) for speed in speeds[-2:])
    return max(first, second) <= MAX_RATIO * min(first, second)


def time_prompts(task: Task, engine: Engine, prompts: Sequence[Prompt]) -> Speed:
    """Ask the prompts once."""
    start = time.perf_counter()
    outputs = ask_prompts(task, engine, prompts)
    tokens = sum(0 if isinstance(one, Fault) else one.tokens_read for one in outputs)
    return Speed(len(prompts), time.perf_counter() - start, tokens)


def estimate_seconds(task: Task, speed: Speed, distinct: int, tokens: PromptTokens | None) -> float:
    """The time of a run with so many distinct prompts, from the speed on some of them.

    The time of scoring grows with the tokens that are read, of which those of the shared prefix are
    read once; that of generation with the rows.
    """
    if tokens is None or not speed.tokens or generates(task):
        return distinct * speed.seconds / speed.rows
    return tokens.run_tokens * speed.seconds / speed.tokens
