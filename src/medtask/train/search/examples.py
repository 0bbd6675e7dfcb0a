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
from medtask.train.material import Lesson
from medtask.train.search.bench import Bench
from medtask.train.search.candidate import Candidate, make_example, may_show_examples

PATIENCE = 6  # rounds in a row that bring nothing better end the search, whatever time is left
SETS = 8  # of a round
FIRST_ROWS = 24  # of validation that a set is first tried on
_MOST = 12  # examples: every row's prompt repeats them all
_LONG = (
    0.75  # quantile of the texts' lengths: longer rows are too dear to be repeated with every row
)
_POOL = 400  # training rows that are looked at

Drawn = tuple[int, ...]  # places in the pool


def search_examples(bench: Bench, *, seed: int = 0) -> None:
    """Look for better worked examples until the clock or patience ends it; the bench keeps the
    best.

    UsageError where the task cannot show rows as examples, InputError where no training row can be
    one. Halt where time is up.
    """
    if not may_show_examples(bench.task):
        fix = (
            "rename that column in the table and the task, or search for instructions alone: "
            "--what prompt"
        )
        raise UsageError(
            'input uses a column named "answer", but in an example that is the right answer',
            fix=fix,
        )
    pool = _Pool(bench.task, bench.train)
    if not pool.examples:
        raise InputError(
            "no training row can be a worked example",
            fix="search for instructions alone: --what prompt",
        )
    chance = random.Random(seed)  # noqa: S311 - no secret
    start = bench.best
    best: Drawn | None = None
    tired = 0
    while tired < PATIENCE and bench.value < 1.0:
        before = bench.value
        found = _hold_round(bench, start, pool, _draw_round(pool, best, chance))
        best = found if bench.value > before else best
        tired = 0 if bench.value > before else tired + 1


class _Pool:
    """Training rows that can be examples, by what is true of them."""

    def __init__(self, task: Task, lessons: Sequence[Lesson]) -> None:
        lengths = sorted(len(lesson.prompt.text) for lesson in lessons)
        bound = lengths[min(len(lengths) - 1, int(_LONG * len(lengths)))]
        made = [
            make_example(task, lesson.record)
            for lesson in lessons[:_POOL]
            if len(lesson.prompt.text) <= bound
        ]
        self.examples: tuple[Example, ...] = tuple(
            example for example in made if example is not None
        )
        kinds: defaultdict[str, list[int]] = defaultdict(list)
        if task.kind in ("label", "labels", "choice"):
            for place, example in enumerate(self.examples):
                kinds[str(example.answer)].append(place)
        self.kinds: Mapping[str, Sequence[int]] = kinds or {"": range(len(self.examples))}

    def draw(self, count: int, chance: random.Random) -> Drawn:
        """So many different examples, of as many different answers as possible, in an order by
        chance.
        """
        piles = [chance.sample(list(pile), len(pile)) for pile in self.kinds.values()]
        chance.shuffle(piles)
        drawn: list[int] = []
        while len(drawn) < min(count, len(self.examples)):
            drawn += [pile.pop() for pile in piles if pile][: count - len(drawn)]
        return tuple(chance.sample(drawn, len(drawn)))

    def show(self, drawn: Drawn) -> tuple[Example, ...]:
        return tuple(self.examples[place] for place in drawn)


def _draw_round(pool: _Pool, best: Drawn | None, chance: random.Random) -> list[Drawn]:
    """Half of a round's sets are drawn afresh, the others change one thing of the best set; the
    first round has fresh ones alone.
    """
    sizes = sorted({2, 4, 8, min(_MOST, max(2, len(pool.kinds)))})
    fresh = SETS if best is None else SETS // 2
    drawn = [pool.draw(sizes[turn % len(sizes)], chance) for turn in range(fresh)]
    if best is not None:
        drawn += [_change(pool, best, chance) for _ in range(SETS - fresh)]
    return list(dict.fromkeys(drawn))


def _change(pool: _Pool, drawn: Drawn, chance: random.Random) -> Drawn:
    """The set with one example more, one less, one other, or two in each other's place."""
    others = [place for place in pool.draw(len(drawn) + 1, chance) if place not in drawn]
    places = list(drawn)
    at = chance.randrange(len(places))
    way = chance.choice(("add", "drop", "swap", "turn"))
    if way == "add" and others and len(places) < _MOST:
        places.insert(at, others[0])
    elif way == "drop" and len(places) > 1:
        del places[at]
    elif way == "turn" and len(places) > 1:
        other = chance.randrange(len(places))
        places[at], places[other] = places[other], places[at]
    elif others:
        places[at] = others[0]
    return tuple(places)


def _hold_round(bench: Bench, start: Candidate, pool: _Pool, sets: Sequence[Drawn]) -> Drawn:
    """The better half goes on to twice the rows, until all of validation decides between the last
    of them.
    """
    rows = min(FIRST_ROWS, len(bench.validation))
    standing = list(sets)
    while rows < len(bench.validation) and len(standing) > 1:
        part = bench.validation[:rows]
        values = {
            drawn: bench.measure(replace(start, examples=pool.show(drawn)), part).value
            for drawn in standing
        }
        standing = sorted(standing, key=lambda drawn: -values[drawn])[: -(-len(standing) // 2)]
        rows *= 2
    last = {
        drawn: bench.validate(replace(start, examples=pool.show(drawn)), f"{len(drawn)} examples")
        for drawn in standing
    }
    return max(last, key=lambda drawn: last[drawn])
