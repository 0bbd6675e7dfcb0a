from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import pytest

from medtask.engines.base import PromptPlan
from medtask.engines.fake import FakeEngine
from medtask.records import Branch, Fault, Message, Prompt, Record, Scores
from medtask.runs.run_estimate import (
    PromptTokens,
    Speed,
    TooLongRows,
    count_prompt_tokens,
    estimate_seconds,
    measure_speed,
)
from medtask.tasks.dataset_statistics import DatasetStatistics, collect_statistics
from medtask.tasks.task import FreeText, Gate, Label, SingleLabel, Task

TASK = Task(
    name="t",
    instruction="Decide.",
    input="{{ text }}",
    answer_spec=SingleLabel(),
    labels=(Label("heart", "", "heart"), Label("liver", "", "liver")),
)


class ShortContextEngine(FakeEngine):
    """Reads at most 400 tokens, and records the texts that it is asked."""

    def __init__(self, **facts: float) -> None:
        super().__init__(**facts)  # type: ignore[arg-type]
        self.asked: list[str] = []

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan:
        return replace(super().plan(prompts), max_input_tokens=400)

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        self.asked += [prompt.text for prompt in prompts]
        return super().score(prompts, cached)


def collect(task: Task, texts: Sequence[str]) -> DatasetStatistics:
    statistics = DatasetStatistics(len(texts))
    records = [Record(str(row), {"text": text}) for row, text in enumerate(texts)]
    for _ in collect_statistics(task, records, statistics):
        pass
    return statistics


TEXTS = [f"a fall from a ladder {row}" + " and more" * (100 * (row % 2)) for row in range(100)]


def test_rows_that_are_too_long_are_not_asked_and_not_planned() -> None:
    engine = ShortContextEngine()
    tokens = count_prompt_tokens(TASK, engine, collect(TASK, TEXTS))
    assert tokens is not None
    assert tokens.too_long == TooLongRows(50, "about")
    assert tokens.prompts == 50
    assert tokens.run_tokens < 50 * 100
    assert measure_speed(TASK, engine, tokens.readable)
    assert engine.asked
    assert max(map(len, engine.asked)) < 100


def test_the_text_to_write_needs_room_in_the_context() -> None:
    texts = TEXTS[::2]
    scored = count_prompt_tokens(TASK, ShortContextEngine(), collect(TASK, texts))
    writing = replace(TASK, answer_spec=FreeText(max_tokens=390), labels=())
    written = count_prompt_tokens(writing, ShortContextEngine(), collect(writing, texts))
    assert scored is not None and scored.too_long.rows == 0
    assert written is not None and written.too_long.rows == 50


@pytest.mark.parametrize("gate", ["chunk", "head_tail"])
def test_rows_that_are_read_in_parts_are_planned(gate: str) -> None:
    engine = ShortContextEngine()
    task = replace(TASK, gate=Gate(too_long=gate))  # type: ignore[arg-type]
    whole = count_prompt_tokens(TASK, engine, collect(TASK, TEXTS))
    parts = count_prompt_tokens(task, engine, collect(task, TEXTS))
    assert whole is not None
    assert parts is not None
    assert parts.prompts == 100
    more = parts.run_tokens - whole.run_tokens
    assert 50 * 300 < more < 50 * 2000
    assert (more > 50 * 900) == (gate == "chunk")
    assert parts.is_mostly_long
    assert not whole.is_mostly_long


def test_few_long_rows_are_counted_exactly() -> None:
    tokens = count_prompt_tokens(
        TASK, ShortContextEngine(), collect(TASK, [*TEXTS[::2], *TEXTS[1:10:2]])
    )
    assert tokens is not None
    assert tokens.too_long == TooLongRows(5, "exact")


def test_a_model_too_slow_for_the_time_limit_has_no_speed() -> None:
    prompts = [(prompt, 20) for prompt in collect(TASK, TEXTS).sample]
    start = time.monotonic()
    assert measure_speed(TASK, FakeEngine(ms_per_row=1000), prompts, limit_s=0.3) is None
    assert time.monotonic() - start < 4


def test_a_speed_comes_from_rows_of_few_tokens() -> None:
    short = [(prompt, 20) for prompt in collect(TASK, TEXTS).sample[:40]]
    engine = ShortContextEngine()
    speed = measure_speed(TASK, engine, [(replace(short[0][0], record_id="x"), 4000), *short])
    assert speed is not None
    assert speed.rows == 32
    assert "x" not in engine.asked


def test_the_shared_prefix_is_counted_once() -> None:
    prompt = Prompt("1", (Message("user", "a"),), (Branch("", ("heart", "liver")),), "a")
    plan = PromptPlan(1000, (10,), 0.0, 4096, (1010,))
    tokens = PromptTokens(plan, [(prompt, 10)], 1010, TooLongRows(0, "exact"), 500, 1000 + 500 * 10)
    speed = Speed(rows=32, seconds=2.0, tokens=400)
    assert estimate_seconds(TASK, speed, 500, tokens) == pytest.approx(30)
    assert estimate_seconds(TASK, replace(speed, tokens=0), 500, tokens) == pytest.approx(31.25)
