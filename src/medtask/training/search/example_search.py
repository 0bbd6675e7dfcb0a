"""Worked examples, found by trying: sets of training rows, of which the better half goes on to more
rows of validation.

Successive halving (Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and
hyperparameter optimization"), over sets that are drawn balanced and sets that change one row of the
best so far. No model has to write anything.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from medtask.errors import InputError, UsageError
from medtask.tasks.task import Example, Task
from medtask.training.search.candidate_evaluator import CandidateEvaluator
from medtask.training.search.prompt_candidate import (
    PromptCandidate,
    make_example,
    supports_examples,
)
from medtask.training.training_data import TrainingExample

PATIENCE = 6  # rounds in a row that bring nothing better end the search, whatever time is left
SETS_PER_ROUND = 8  # of a round
INITIAL_ROWS = 24  # of validation that a set is first tried on
_MAX_EXAMPLES = 12  # examples: every row's prompt repeats them all
_LENGTH_QUANTILE = (
    0.75  # quantile of the texts' lengths: longer rows are too dear to be repeated with every row
)
_MAX_POOL_ROWS = 400  # training rows that are looked at

ExampleIndices = tuple[int, ...]  # places in the pool


def search_examples(evaluator: CandidateEvaluator, *, seed: int = 0) -> None:
    """Look for better worked examples until the clock or patience ends it; the bench keeps the
    best.

    UsageError where the task cannot show rows as examples, InputError where no training row can be
    one. Halt where time is up.
    """
    if not supports_examples(evaluator.task):
        fix = (
            "rename that column in the table and the task, or search for instructions alone: "
            "--what prompt"
        )
        raise UsageError(
            'input uses a column named "answer", but in an example that is the right answer',
            fix=fix,
        )
    pool = _DemonstrationPool(evaluator.task, evaluator.train)
    if not pool.examples:
        raise InputError(
            "no training row can be a worked example",
            fix="search for instructions alone: --what prompt",
        )
    rng = random.Random(seed)  # noqa: S311 - no secret
    start = evaluator.best
    best: ExampleIndices | None = None
    rounds_without_gain = 0
    while rounds_without_gain < PATIENCE and evaluator.value < 1.0:
        before = evaluator.value
        found = _run_halving_round(evaluator, start, pool, _propose_sets(pool, best, rng))
        best = found if evaluator.value > before else best
        rounds_without_gain = 0 if evaluator.value > before else rounds_without_gain + 1


class _DemonstrationPool:
    """Training rows that can be examples, by what is true of them."""

    def __init__(self, task: Task, rows: Sequence[TrainingExample]) -> None:
        lengths = sorted(len(row.prompt.text) for row in rows)
        bound = lengths[min(len(lengths) - 1, int(_LENGTH_QUANTILE * len(lengths)))]
        made = [
            make_example(task, row.record)
            for row in rows[:_MAX_POOL_ROWS]
            if len(row.prompt.text) <= bound
        ]
        self.examples: tuple[Example, ...] = tuple(
            example for example in made if example is not None
        )
        indices_by_answer: defaultdict[str, list[int]] = defaultdict(list)
        if not task.kind_spec.generated:
            for index, example in enumerate(self.examples):
                indices_by_answer[str(example.answer)].append(index)
        self.kinds: Mapping[str, Sequence[int]] = indices_by_answer or {
            "": range(len(self.examples))
        }

    def sample_indices(self, count: int, rng: random.Random) -> ExampleIndices:
        """So many different examples, of as many different answers as possible, in an order by
        chance.
        """
        groups = [rng.sample(list(group), len(group)) for group in self.kinds.values()]
        rng.shuffle(groups)
        drawn: list[int] = []
        while len(drawn) < min(count, len(self.examples)):
            drawn += [group.pop() for group in groups if group][: count - len(drawn)]
        return tuple(rng.sample(drawn, len(drawn)))

    def get_examples(self, indices: ExampleIndices) -> tuple[Example, ...]:
        return tuple(self.examples[index] for index in indices)


def _propose_sets(
    pool: _DemonstrationPool, best: ExampleIndices | None, rng: random.Random
) -> list[ExampleIndices]:
    """Half of a round's sets are drawn afresh, the others change one thing of the best set; the
    first round has fresh ones alone.
    """
    sizes = sorted({2, 4, 8, min(_MAX_EXAMPLES, max(2, len(pool.kinds)))})
    fresh = SETS_PER_ROUND if best is None else SETS_PER_ROUND // 2
    drawn = [pool.sample_indices(sizes[turn % len(sizes)], rng) for turn in range(fresh)]
    if best is not None:
        drawn += [_mutate_set(pool, best, rng) for _ in range(SETS_PER_ROUND - fresh)]
    return list(dict.fromkeys(drawn))


def _mutate_set(
    pool: _DemonstrationPool, indices: ExampleIndices, rng: random.Random
) -> ExampleIndices:
    """The set with one example more, one less, one other, or two in each other's place."""
    others = [index for index in pool.sample_indices(len(indices) + 1, rng) if index not in indices]
    places = list(indices)
    at = rng.randrange(len(places))
    operation = rng.choice(("add", "drop", "swap", "turn"))
    if operation == "add" and others and len(places) < _MAX_EXAMPLES:
        places.insert(at, others[0])
    elif operation == "drop" and len(places) > 1:
        del places[at]
    elif operation == "turn" and len(places) > 1:
        other = rng.randrange(len(places))
        places[at], places[other] = places[other], places[at]
    elif others:
        places[at] = others[0]
    return tuple(places)


def _run_halving_round(
    evaluator: CandidateEvaluator,
    base_candidate: PromptCandidate,
    pool: _DemonstrationPool,
    sets: Sequence[ExampleIndices],
) -> ExampleIndices:
    """The better half goes on to twice the rows, until all of validation decides between the last
    of them.
    """
    rows = min(INITIAL_ROWS, len(evaluator.validation))
    remaining = list(sets)
    while rows < len(evaluator.validation) and len(remaining) > 1:
        part = evaluator.validation[:rows]
        values = {
            drawn: evaluator.evaluate(
                replace(base_candidate, examples=pool.get_examples(drawn)), part
            ).value
            for drawn in remaining
        }
        remaining = sorted(remaining, key=lambda drawn: -values[drawn])[: -(-len(remaining) // 2)]
        rows *= 2
    last = {
        drawn: evaluator.validate(
            replace(base_candidate, examples=pool.get_examples(drawn)), f"{len(drawn)} examples"
        )
        for drawn in remaining
    }
    return max(last, key=lambda drawn: last[drawn])
