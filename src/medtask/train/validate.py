"""How good a model is in the middle of its training, by the very scoring that a run uses."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from medtask.decision.asking import Heard, ask
from medtask.decision.shares import weigh
from medtask.engines.base import Engine
from medtask.records import Value
from medtask.tasks.task import Task
from medtask.train.material import Lesson

FLOOR = 1e-6  # a probability below it counts as this: one row must not outweigh all others


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a validation found: mean loss of a row in nats, and in [0, 1] what the kind is judged by
    (None: nothing).
    """

    loss: float
    score: float | None = None


def name_score(tasks: Iterable[Task]) -> str:
    """What the score of their validations is, in words."""
    return "decisions right" if any(task.several for task in tasks) else "accuracy"


def judge_rows(task: Task, engine: Engine, lessons: Sequence[Lesson]) -> Verdict:
    """Mean loss of gold among the allowed answers (nats a row; of several labels the mean over
    labels), and the share of rows whose likeliest answer is gold (of several labels, of all
    yes-or-no decisions). For the kinds that are scored.

    A row that the engine cannot answer counts as wrong, at the floor.
    """
    by_id = {str(place): lesson for place, lesson in enumerate(lessons)}
    # Ids of lessons may repeat where validation has a table of its own.
    prompts = [replace(lesson.prompt, record_id=name) for name, lesson in by_id.items()]
    losses = dict.fromkeys(by_id, -math.log(FLOOR))
    right = dict.fromkeys(by_id, 0.0)
    for said in ask(task, engine, prompts):
        if isinstance(said, Heard) and said.scores is not None:
            name = said.prompt.record_id
            found = weigh(task, said.prompt, said.scores)
            if found is not None:
                gold = by_id[name].record.gold
                losses[name], right[name] = (_judge_each if task.several else _judge_one)(
                    found.shares, gold
                )
    count = max(1, len(lessons))
    return Verdict(math.fsum(losses.values()) / count, math.fsum(right.values()) / count)


def combine_verdicts(verdicts: Sequence[tuple[int, Verdict]]) -> Verdict:
    """One verdict over several tasks, each with its number of rows."""
    rows = sum(count for count, _ in verdicts)
    scores = [(count, verdict.score) for count, verdict in verdicts if verdict.score is not None]
    judged = sum(count for count, _ in scores)
    return Verdict(
        sum(count * verdict.loss for count, verdict in verdicts) / rows,
        sum(count * score for count, score in scores) / judged if judged else None,
    )


def _judge_one(shares: Mapping[str, float], gold: Value | None) -> tuple[float, float]:
    return -math.log(max(shares.get(str(gold), 0.0), FLOOR)), float(
        max(shares, key=shares.__getitem__) == gold
    )


def _judge_each(shares: Mapping[str, float], gold: Value | None) -> tuple[float, float]:
    right: Collection[object] = gold if isinstance(gold, tuple) else ()
    applies = {name: name in right for name in shares}
    given = [shares[name] if yes else 1.0 - shares[name] for name, yes in applies.items()]
    loss = -math.fsum(math.log(max(share, FLOOR)) for share in given) / len(given)
    return loss, sum((shares[name] >= 0.5) == yes for name, yes in applies.items()) / len(given)
