"""A search for worked examples among the training rows, by successive halving.

Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
optimization". Candidates are balanced random sets of rows and variations of the best set so far.
The better half of the sets continues on more validation rows. No model has to generate text.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from medtask.errors import InputError
from medtask.tasks.task import Example, Task
from medtask.training.search.candidate_evaluator import CandidateEvaluator
from medtask.training.search.prompt_candidate import (
    PromptCandidate,
    check_examples_allowed,
    make_example,
)
from medtask.training.training_data import TrainingExample

PATIENCE = 6  # rounds without a gain that end the search
SETS_PER_ROUND = 8
INITIAL_ROWS = 24  # validation rows that a set is first evaluated on
_MAX_EXAMPLES = 12  # maximum number of examples, because every prompt repeats all of them
_LENGTH_QUANTILE = 0.75  # quantile of text lengths; longer texts are too expensive as examples
_MAX_POOL_ROWS = 400

ExampleIndices = tuple[int, ...]  # indices into the pool


def search_examples(evaluator: CandidateEvaluator, *, seed: int = 0) -> None:
    """Search for better worked examples; the evaluator keeps the best.

    Raises:
        UsageError: The task cannot show rows as examples.
        InputError: No training row can be an example.
        SearchStopped: The time is used up.
    """
    check_examples_allowed(evaluator.task)
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
    """Training rows that can be worked examples, grouped by their answer."""

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
        """Random distinct examples with as many different answers as possible."""
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
    """The sets of a round: at first all random; later half random, half variations of the best."""
    sizes = sorted({2, 4, 8, min(_MAX_EXAMPLES, max(2, len(pool.kinds)))})
    fresh = SETS_PER_ROUND if best is None else SETS_PER_ROUND // 2
    drawn = [pool.sample_indices(sizes[turn % len(sizes)], rng) for turn in range(fresh)]
    if best is not None:
        drawn += [_mutate_set(pool, best, rng) for _ in range(SETS_PER_ROUND - fresh)]
    return list(dict.fromkeys(drawn))


def _mutate_set(
    pool: _DemonstrationPool, indices: ExampleIndices, rng: random.Random
) -> ExampleIndices:
    """The set with one example added, removed or replaced, or two swapped."""
    others = [index for index in pool.sample_indices(len(indices) + 1, rng) if index not in indices]
    mutated = list(indices)
    at = rng.randrange(len(mutated))
    operation = rng.choice(("add", "drop", "swap", "turn"))
    if operation == "add" and others and len(mutated) < _MAX_EXAMPLES:
        mutated.insert(at, others[0])
    elif operation == "drop" and len(mutated) > 1:
        del mutated[at]
    elif operation == "turn" and len(mutated) > 1:
        other = rng.randrange(len(mutated))
        mutated[at], mutated[other] = mutated[other], mutated[at]
    elif others:
        mutated[at] = others[0]
    return tuple(mutated)


def _run_halving_round(
    evaluator: CandidateEvaluator,
    base_candidate: PromptCandidate,
    pool: _DemonstrationPool,
    sets: Sequence[ExampleIndices],
) -> ExampleIndices:
    """Evaluate sets; the better half continues on twice the rows, up to all validation rows."""
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
