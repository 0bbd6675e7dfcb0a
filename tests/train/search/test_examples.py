from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from medtask.errors import UsageError
from medtask.train.search.clock import Clock, Halt
from medtask.train.search.examples import _change, _Pool, search_examples
from medtask.train.search.parts import divide_rows
from train.search.planted import (
    LABELS,
    TASK,
    PlantedEngine,
    make_bench,
    make_table,
    never,
    wants_examples,
    write_task,
)


def test_examples_that_help_are_found_and_come_from_the_training_rows(tmp_path: Path) -> None:
    engine = PlantedEngine(wants_examples, good=1.0)
    bench = make_bench(write_task(tmp_path), engine)
    search_examples(bench)
    assert bench.value > bench.base_value + 0.3
    shown = {str(example.fields["procedure"]) for example in bench.best.examples or ()}
    assert shown <= {str(lesson.record.fields["procedure"]) for lesson in bench.train}
    assert {str(example.answer) for example in bench.best.examples or ()} == set(LABELS)


def test_a_search_without_anything_better_tires(tmp_path: Path) -> None:
    bench = make_bench(
        write_task(tmp_path), PlantedEngine(lambda prompt: len(prompt.messages) == 1)
    )
    search_examples(bench)
    assert bench.best.examples is None
    assert bench.tried < 100


def test_it_ends_with_the_clock(tmp_path: Path) -> None:
    bench = make_bench(write_task(tmp_path), PlantedEngine(never))
    bench.clock = Clock(0.0)
    with pytest.raises(Halt):
        search_examples(bench)


def test_draws_are_balanced_and_changes_are_small(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    pool = _Pool(task, divide_rows(task, make_table(160)).train)
    chance = random.Random(5)
    for count in (1, 3, 6, 12):
        answers = [str(example.answer) for example in pool.show(pool.draw(count, chance))]
        assert len(answers) == count
        assert (
            max(answers.count(label) for label in LABELS)
            - min(answers.count(label) for label in LABELS)
            <= 1
        )
    drawn = pool.draw(4, chance)
    for _ in range(200):
        changed = _change(pool, drawn, chance)
        assert 1 <= len(changed) <= 12
        assert len(set(changed)) == len(changed)
        assert len(set(changed) ^ set(drawn)) <= 2
        drawn = changed


def test_a_column_named_answer_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    bench = make_bench(task, PlantedEngine(never))
    bench.task = replace(write_task(tmp_path, text=TASK.replace("{{ procedure }}", "{{ answer }}")))
    with pytest.raises(UsageError, match="answer"):
        search_examples(bench)
