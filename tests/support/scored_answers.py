"""Answers that are decided from given probabilities, without a model."""

from __future__ import annotations

import math

from medtask.prediction.deciding import decide_answer
from medtask.prediction.engine_output import EngineOutput
from medtask.records import Answer, Branch, BranchScores, Prompt, Scores
from medtask.tasks.task import Label, MultiLabel, Review, Task

LABELS = tuple(Label(name, "", name) for name in ("curative", "palliative", "staging"))
TASK = Task(
    "purpose",
    "Which purpose?",
    "{{ text }}",
    labels=LABELS,
    review=Review(confidence_below=0.5, off_set_above=0.9),
)
ABSTAINING = Task(
    "purpose",
    "Which purpose?",
    "{{ text }}",
    labels=LABELS,
    abstain=Label("cannot tell", "", "cannot tell"),
)
NEVER_REVIEWED = Review(confidence_below=0.0)


def make_output(*branches: BranchScores, task: Task = TASK) -> EngineOutput:
    """The output of an engine for a prompt of the task, with these scores."""
    prompt = Prompt(
        "r", (), (Branch("", tuple(label.verbalizer for label in task.candidates)),), "a text"
    )
    return EngineOutput(prompt).add_output(Scores("r", branches, tokens_read=7, tokens_reused=9))


def decide_label(*shares: float, task: Task = TASK, off_set: float | None = None) -> Answer:
    """The answer to a task of one label, from the probabilities of its candidates."""
    logprobs = tuple(math.log(share) if share else -math.inf for share in shares)
    return decide_answer(task, "r", make_output(BranchScores(logprobs, off_set), task=task))


def decide_labels(spec: MultiLabel, *shares: float, review: Review = NEVER_REVIEWED) -> Answer:
    """The answer to a task of several labels, from the probability of each."""
    task = Task("domains", "Which?", "{{ text }}", spec, LABELS, review=review)
    branches = tuple(BranchScores((math.log(share), math.log(1 - share)), 0.5) for share in shares)
    prompt = Prompt(
        "r", (), tuple(Branch(f"{label.name}: ", ("yes", "no")) for label in LABELS), "a text"
    )
    return decide_answer(task, "r", EngineOutput(prompt).add_output(Scores("r", branches)))
