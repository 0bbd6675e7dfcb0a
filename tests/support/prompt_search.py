"""A task, a table whose gold can be read from its texts, and engines that answer better when they
are asked in a certain way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medtask.engines.fake import FakeEngine
from medtask.records import Generated, Limits, Prompt, Scores
from medtask.runs.signals import SignalState
from medtask.tables.read import read_table
from medtask.tables.table import Table
from medtask.tasks.load import load_task
from medtask.tasks.task import Task
from medtask.training.search.candidate_evaluator import CandidateEvaluator, SearchTrial
from medtask.training.search.search_budget import SearchBudget
from medtask.training.search.search_data import SearchData, build_search_data

LABELS = ("curative", "palliative", "staging")
TASK = """\
# What is the operation for?
name: planted   # a name
instruction: Decide the main purpose of the operation.
id: case_id
input: "{{ procedure }}"
gold: purpose
# how it is answered
answer:
  kind: label
  labels:
    curative: removes the tumour
    palliative: relieves symptoms
    staging: finds out how far it has spread
review:
  confidence_below: 0.4
"""
WORDS = (
    "gastrectomy",
    "stent",
    "biopsy",
    "liver",
    "colon",
    "left",
    "right",
    "open",
    "robotic",
    "partial",
    "total",
    "node",
)


def write_task(folder: Path, more: str = "", text: str = TASK) -> Task:
    path = folder / "task.yaml"
    path.write_text(text + more, encoding="utf-8")
    return load_task(path)


def make_rows(count: int = 160, *, seed: int = 1) -> list[dict[str, object]]:
    """Rows without near duplicates, whose gold nothing but the engines below can read."""
    chance = random.Random(seed)
    rows: list[dict[str, object]] = []
    for number in range(count):
        marks = [f"{chance.choice(WORDS)}{chance.randrange(10_000)}" for _ in range(6)]
        label = LABELS[number % 3]
        rows.append(
            {
                "case_id": f"c{number}",
                "procedure": " ".join([*marks, f"{label[:1]}x{number}"]),
                "purpose": label,
            }
        )
    return rows


def make_table(count: int = 160, *, seed: int = 1) -> Table:
    return read_table(make_rows(count, seed=seed))


def find_gold(text: str) -> str:
    """Of a text above: its last word begins as its gold does."""
    return next(label for label in LABELS if label[0] == text.rsplit(" ", 1)[1][0])


class ManualClock:
    """A clock that tests advance: tests of budgets must not depend on how busy
    the machine is.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class PromptSensitiveEngine(FakeEngine):
    """Answers rightly with probability ``accuracy`` of the prompts that ``is_preferred`` likes, and
    as chance has it otherwise.

    ``proposals``: what it writes, one after the other, over and over. ``scored_texts``: every text
    that it was asked about, ``generation_texts``: that it was shown to write. ``varies_by_prompt``:
    chance falls differently for every way of asking. ``seconds_per_row``: by which it moves
    ``clock``.
    """

    def __init__(
        self,
        is_preferred: Callable[[Prompt], bool],
        *,
        accuracy: float = 0.9,
        proposals: Sequence[str] = ("nothing new",),
    ) -> None:
        super().__init__()
        self.wants, self.good, self.proposals = is_preferred, accuracy, proposals
        self.scored_texts: list[str] = []
        self.generation_texts: list[str] = []
        self.varies_by_prompt = False
        self.clock, self.seconds_per_row = ManualClock(), 0.0

    def _score_prompt(self, prompt: Prompt) -> Scores:
        self.clock.seconds += self.seconds_per_row
        self.scored_texts.append(prompt.text)
        if self.varies_by_prompt:
            prompt = replace(prompt, text="".join(message.content for message in prompt.messages))
        scores = super()._score_prompt(prompt)
        if not self.wants(prompt) or random.Random(prompt.text).random() > self.good:
            return scores
        truth = find_gold(prompt.text)
        branch = scores.branches[0]
        logprobs = tuple(
            -0.01 if tail.strip() == truth else -6.0 for tail in prompt.branches[0].candidates
        )
        return Scores(prompt.record_id, (type(branch)(logprobs),))

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        cached: Collection[str] = (),
        on_text: object = None,
    ) -> Iterator[Generated]:
        for prompt in prompts:
            self.generation_texts.append(prompt.text)
            yield Generated(
                prompt.record_id,
                self.proposals[(len(self.generation_texts) - 1) % len(self.proposals)],
                "stop",
            )


class RecordingSearchObserver:
    """A viewer that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []
        self.trials: list[SearchTrial] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_load(self, model: str) -> None: ...

    def on_stage(self, text: str) -> None:
        self.stages.append(text)

    def on_trial(self, trial: SearchTrial) -> None:
        self.trials.append(trial)


def prefers_nothing(prompt: Prompt) -> bool:
    return False


def prefers_care(prompt: Prompt) -> bool:
    return "carefully" in "".join(message.content for message in prompt.messages)


def prefers_examples(prompt: Prompt) -> bool:
    """At least one worked example of each label."""
    return {
        message.content.strip() for message in prompt.messages if message.role == "assistant"
    } >= set(LABELS)


def make_evaluator(
    task: Task,
    engine: FakeEngine,
    *,
    rows: int = 160,
    budget_s: float = 3600.0,
    parts: SearchData | None = None,
) -> CandidateEvaluator:
    parts = parts or build_search_data(task, make_table(rows))
    bench = CandidateEvaluator(
        task, engine, parts, SearchBudget(budget_s), RecordingSearchObserver(), SignalState()
    )
    bench.evaluate_baseline()
    return bench
